"""The adapter ``process``: runs an entry's command on this machine, without a container."""

"""The Docker engine: where it is, how to talk to it, and why it does not answer."""

"""The adapter `local`: runs processors in Docker containers."""

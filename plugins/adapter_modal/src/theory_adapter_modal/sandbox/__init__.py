"""A fresh container for one job: files in, the command, files out, and nothing left."""

"""The published entries: this folder is the registry's root, the path below it the ref."""

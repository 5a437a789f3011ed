"""One container: what it is created with, its life, and how it ended."""

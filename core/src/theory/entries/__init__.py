"""Registry entries: read strictly, checked, hashed with their folders."""

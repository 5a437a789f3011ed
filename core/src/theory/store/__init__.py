"""What is kept by content: the file store, memo records, and who needs what of it."""

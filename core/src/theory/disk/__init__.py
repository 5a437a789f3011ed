"""What a disk is trusted with: durable writes, locks that die with their owner, SQLite."""

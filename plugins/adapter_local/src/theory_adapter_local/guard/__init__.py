"""Nothing outlives its caller."""

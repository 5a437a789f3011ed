"""How a job's files get into its container and back: mounted or copied."""

"""Simulated execution: the answer is in the entry, or is derived from the schema of its outputs."""

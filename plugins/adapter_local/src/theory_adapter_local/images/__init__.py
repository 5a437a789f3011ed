"""Which image a run means, and how it gets here."""

"""Looking after a home: what is damaged, what nobody needs, why two runs differ, and the same again."""

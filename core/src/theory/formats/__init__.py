"""How things are spelled and counted: canonical JSON, cids, documents, world paths, money."""

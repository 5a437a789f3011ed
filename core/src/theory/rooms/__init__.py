"""The rooms of the way from a request to its envelope, one a module; ``theory.run`` is the corridor."""

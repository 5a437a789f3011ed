"""Entries on warm containers of an app that the user has deployed himself."""

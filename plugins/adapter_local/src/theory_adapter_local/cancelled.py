"""The one way out for a run that is cancelled before its command started."""

from __future__ import annotations


class Cancelled(Exception):
    """The run was cancelled before its command started."""

"""A SQLite file with a WAL, read where neither can be written and nobody has them open."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing


def snapshot(path: str) -> sqlite3.Connection:
    """The file as it is now, with what waits in its WAL, for reading alone.

    SQLite reads a WAL only with a third file beside it, which it cannot make there. So it is a copy, as large
    as both, in the system's folder for temporary files; it has lost its name already when this returns.

    Raises:
        OSError, sqlite3.Error: The files cannot be read, or the copy not be made.
    """
    import shutil  # noqa: PLC0415 - a file that has no WAL needs no copy
    import tempfile  # noqa: PLC0415 - as above

    folder = tempfile.mkdtemp(prefix="theory-")
    try:
        copy = os.path.join(folder, "copy.db")
        for end in ("", "-wal"):
            shutil.copyfile(path + end, copy + end)
        with closing(sqlite3.connect(copy)) as whole:  # who closes it last writes the WAL into the file
            whole.execute("PRAGMA journal_mode=DELETE")
        connection = sqlite3.connect(copy, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only=ON")
        connection.execute("SELECT count(*) FROM sqlite_master")  # opens the file
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return connection

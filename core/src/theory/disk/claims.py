"""One write prefix, one writer, among those who ask for it (``--exclusive``).

A claim is the file ``state/<id>/exclusive`` beside the lock that says that somebody is at the execution, so
it ends with its owner, whatever killed it, and no clock decides. Two prefixes of which one contains the
other are in each other's way. A run that did not ask is never refused.
See docs/decisions/0012-claims-are-files.md.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from theory.disk.durable import refusal
from theory.disk.lease import CLAIM, is_held
from theory.disk.lockfile import LockFile
from theory.errors import Busy, Retry, StoreFailed
from theory.formats.paths import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GUARD = "exclusive-lock"  # in the folder of all states; held while claims are looked at and made
_PATIENCE_S = 10.0


@contextmanager
def claim(states: Path, execution_id: str, prefix: str) -> Iterator[None]:
    """Be the only one who asked for this prefix; who calls holds the execution's lease, and lets go later.

    Args:
        states: The folder of all executions that are open.
        execution_id: Whose claim it is.
        prefix: A write prefix, its placeholder filled in.

    Raises:
        Busy: Another execution has claimed it, or one that contains it or is contained in it.
        Retry: Others have been making claims all the time.
        StoreFailed: The claim cannot be written.
    """
    file = states / execution_id / CLAIM
    guard = LockFile(str(states / _GUARD))
    try:
        with guard.held(_PATIENCE_S):
            for other, theirs in _claims(states):
                related = prefix.startswith(theirs) or theirs.startswith(prefix)
                if other != execution_id and related and is_held(states / other):
                    raise Busy(
                        f"execution {other} has {quoted(theirs)} for itself,"
                        f" so nobody else gets {quoted(prefix)}",
                        hint="wait until it has ended, or take a prefix apart from it: --write-prefix PATH/",
                    )
            file.write_text(prefix, "utf-8")
    except TimeoutError as error:
        raise Retry(
            f"the file {guard.path} has been locked for {_PATIENCE_S:g} s", hint="run it again"
        ) from error
    except OSError as error:
        raise refusal(StoreFailed, f"cannot claim {quoted(prefix)} in {states}", error) from error
    finally:
        guard.close()
    try:
        yield
    finally:
        with suppress(OSError):  # it goes with the lease at the latest
            file.unlink()


def claimed(states: Path) -> dict[str, str]:
    """The prefix of each execution that lives and has one."""
    return {other: prefix for other, prefix in _claims(states) if is_held(states / other)}


def _claims(states: Path) -> Iterator[tuple[str, str]]:
    """All that are written down, those of the dead too: execution and prefix."""
    for name in os.listdir(states):
        with suppress(OSError, UnicodeDecodeError):
            yield name, (states / name / CLAIM).read_text("utf-8")

"""Pins, which ``theory gc`` leaves alone: an execution with all its files, or one content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theory.errors import ArtifactNotFound
from theory.formats.canon import CID
from theory.formats.paths import quoted
from theory.ledger.upkeep import Pin
from theory.upkeep.gc import upkeep_of

if TYPE_CHECKING:
    from theory.home import Home


def pin(home: Home, what: str) -> Pin:
    """Pin an execution by its id; or the content that a world path names now, or that has a cid.

    Raises:
        ArtifactNotFound: There is nothing of this name, or its bytes are gone.
        Busy: A gc is running.
    """
    with upkeep_of(home) as store:  # so nothing is deleted between our look and the next gc's
        made = _pin_of(home, what)
        if made.cid is None:
            home.upkeep.take_back(what)
            if what in home.upkeep.given_up():
                raise ArtifactNotFound(
                    f"the files of execution {what} are gone", hint="run it again: theory replay ID"
                )
        else:
            store.open(made.cid).close()
        home.upkeep.pin(made)
        return made


def drop(home: Home, what: str) -> None:
    """Take a pin away.

    Raises:
        ArtifactNotFound: There is none.
    """
    if not home.upkeep.unpin(what):
        raise ArtifactNotFound(f"{quoted(what)} is not pinned", hint="theory keep lists the pins")


def _pin_of(home: Home, what: str) -> Pin:
    if CID.fullmatch(what):
        return Pin(what, what)
    if not what.startswith("/") and home.ledger.execution(what) is not None:
        return Pin(what, None)
    artifact = home.ledger.name(what)
    if artifact is None:
        raise ArtifactNotFound(
            f"no execution and no artifact is called {quoted(what)}", hint="theory ls shows what there is"
        )
    return Pin(what, artifact.cid)

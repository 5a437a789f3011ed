"""What would be wrong, one way each, to see that it is found: a child of ``forks`` calls one first."""

# ruff: noqa: SLF001 - a mutant is what the product would be if it were written so

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory.ledger import Closing, Ledger
    from theory.store.filestore import FileStore
    from theory.types import Staged

_PIECE_BYTES = 2048


def records_first() -> None:
    """The ledger says that it is true, and then the outputs and records are put."""
    import theory.run
    from theory.ledger import Ledger
    from theory.store.blobs import Batch

    put, settle, keep = Batch.put, Ledger.settle, vars(theory.run)["keep"]
    waiting: list[tuple[Any, list[Staged]]] = []

    def put_later(batch: Batch) -> None:
        waiting.append((batch._store, list(batch.staged)))
        batch.staged.clear()

    def keep_later(*given: Any, **more: Any) -> Any:
        _change(Batch, put=put_later)
        try:
            return keep(*given, **more)
        finally:
            _change(Batch, put=put)

    def settle_first(ledger: Ledger, closing: Closing) -> Any:
        told = settle(ledger, closing)
        for store, staged in waiting:
            store.put(staged)
        return told

    _change(theory.run, keep=keep_later)
    _change(Ledger, settle=settle_first)


def names_before_content() -> None:
    """A large blob has its name before all its bytes are written."""
    from theory.disk import durable
    from theory.store import staged
    from theory.store.filestore import FileStore

    def put_files(store: FileStore, blobs: Mapping[str, Staged]) -> None:
        for path, blob in blobs.items():
            data = staged.content(blob)
            descriptor, temp = durable.create(store.staging)
            durable.make_folders(os.path.dirname(path))
            os.close(descriptor)
            os.replace(temp, path)
            for at in range(0, len(data), _PIECE_BYTES):
                with open(path, "ab") as file:
                    file.write(data[at : at + _PIECE_BYTES])

    _change(FileStore, _put_files=put_files)


def names_of_its_own() -> None:
    """Temporary files have names that ``theory gc`` does not know."""
    from theory.disk import durable

    def temporary(folder: Path | str) -> str:
        return f"{folder}/.part-{os.urandom(16).hex()}"

    _change(durable, temporary=temporary)


def reservations_of_another() -> None:
    """A reservation says that it is that of a process which goes on."""
    from theory.ledger import owner

    def here(cls: type[owner.Owner]) -> owner.Owner:
        pid = os.getppid()
        return cls(owner._boot(), owner._namespace(), pid, owner._stat(pid)[1])

    _change(owner.Owner, here=classmethod(here))


def masks_nothing() -> None:
    """Values of secrets are shown as they are."""
    from theory.rooms.redact import Redactor

    known = Redactor.__init__
    _change(Redactor, __init__=lambda redactor, _=(): known(redactor))


def masks_portions() -> None:
    """What a processor says is masked as it comes, without a look at what comes next."""
    from theory.rooms.redact import Redactor

    _change(Redactor, portion=lambda redactor, held, data: (redactor.mask(held + data), b""))


def shows_as_it_is() -> None:
    """Text from outside is shown as it is."""
    import re

    import theory.request
    from theory import cli
    from theory.cli import show
    from theory.formats import paths

    for module in (show, paths, theory.request):
        _change(module, HARMFUL=re.compile(r"(?!)"))
    _change(show, _SEQUENCE=re.compile(r"(?!)"))
    _change(cli, _plain=str)


def _change(place: object, **changes: object) -> None:
    for name, value in changes.items():
        setattr(place, name, value)

"""The home that runs share: settings, what is installed, and the ledger, store and registries once opened."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TypeVar

from theory import config
from theory.disk.lease import sweep
from theory.formats import wire
from theory.ledger import Ledger
from theory.plugins import Plugins
from theory.rooms.resolve import Source, sources_of
from theory.store import blobs, filestore
from theory.store.users import enroll

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from theory.config import Settings
    from theory.ledger.upkeep import Upkeep
    from theory.types import Artifact, Envelope, Store


Here = TypeVar("Here", bound="Home")


class Home:
    """What every run in one home shares, opened at its first use; from any thread.

    Args:
        settings: Where home, store and registries are; as the command line finds them unless told.
        plugins: What is installed, unless told.
        environ: Where secrets come from.
        debug: Print the traceback of every error on stderr, not only of our own bugs.

    It holds its ledger open, and its store; ``close`` it, or use it as a context manager.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        plugins: Plugins | None = None,
        environ: Mapping[str, str] = os.environ,
        debug: bool = False,
    ) -> None:
        self._debug = debug
        self.settings = config.load(environ) if settings is None else settings
        self.plugins = Plugins.installed(environ) if plugins is None else plugins
        self._environ = environ
        self.states = self.settings.home / "state"  # the folders of executions
        self.caches = self.settings.home / "cache" / "adapters"
        self._lock = threading.RLock()
        self._ledger: Ledger | None = None
        self._upkeep: Upkeep | None = None
        self._store: Store | None = None
        self._sources: tuple[Source, ...] | None = None
        self._tidy = self._enrolled = False

    def __enter__(self: Here) -> Here:  # noqa: PYI019 - typing.Self is newer than our oldest Python
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ledger and of core's own store; a later run opens them again."""
        with self._lock:
            ledger, self._ledger = self._ledger, None
            upkeep, self._upkeep = self._upkeep, None
            store = self._store
        if ledger is not None:
            ledger.close()
        if upkeep is not None:
            upkeep.close()
        if isinstance(store, filestore.FileStore):
            store.close()

    def open(self, artifact: Artifact) -> IO[bytes]:
        """An artifact's bytes, compared with its cid as they are read.

        Raises:
            ArtifactNotFound, Damaged, StoreFailed: By this call or by any read.
        """
        return blobs.read_verified(self.store, artifact.cid)

    @property
    def store(self) -> Store:
        """The store that the settings name."""
        with self._lock:
            if self._store is None:
                url = self.settings.store
                self._store = filestore.open_store(url) or self.plugins.open_store(url)
            return self._store

    @property
    def ledger(self) -> Ledger:
        """The home's ledger."""
        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger(self.settings.home / "ledger.db")
            return self._ledger

    @property
    def upkeep(self) -> Upkeep:
        """What stands beside the ledger: pins, and executions whose files were given up."""
        with self._lock:
            if self._upkeep is None:
                from theory.ledger.upkeep import Upkeep  # noqa: PLC0415 - no run asks

                self._upkeep = Upkeep(self.settings.home / "ledger.db")
            return self._upkeep

    @property
    def sources(self) -> tuple[Source, ...]:
        """The registries, in the order in which they are asked."""
        with self._lock:
            if self._sources is None:
                self._sources = tuple(sources_of(self.settings, self.plugins))
            return self._sources

    def stored_envelope(self, execution_id: str) -> Envelope | None:
        """The envelope of a closed execution."""
        record = self.ledger.execution(execution_id)
        if record is None:
            return None
        document = record.envelope
        if document is None:
            import json  # noqa: PLC0415 - for envelopes of thousands of outputs

            with blobs.read_verified(self.store, str(record.envelope_cid)) as stream:
                document = json.loads(stream.read())
        return wire.envelope_of(document)

    def secrets(self) -> Mapping[str, str]:
        """Where the values of secrets come from: the environment, over the file that the settings name."""
        file = self.settings.secrets_file
        return self._environ if file is None else {**config.secrets_of(file), **self._environ}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Rely on what the store has: what is found there meanwhile, ``theory gc`` does not delete.

        Whoever writes into the ledger that it needs blobs does so within the same block in which it put them,
        or looked for them.

        Raises:
            StoreFailed: The store cannot be written.
        """
        store = self.store
        if not isinstance(store, filestore.FileStore):
            yield
            return
        store.staging  # noqa: B018 - makes the store, if it is new
        with store.in_use.held():
            if not self._enrolled:
                enroll(store.root, self.settings.home)
                self._enrolled = True
            yield

    def tidy_up(self, execution_id: str | None = None) -> None:
        """Once a runner: what the dead left behind is closed and removed.

        Args:
            execution_id: Whose reservation stays, because this execution is about to be tried again.

        Raises:
            LedgerFailed: The ledger cannot be written.
        """
        with self._lock:
            if not self._tidy:
                sweep(self.states)
                self.ledger.reconcile(keep=execution_id)
                self._tidy = True

"""Which call a job waits for, kept durably for whoever tries the same execution again."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from theory import canonical_json, cid_of, errors

if TYPE_CHECKING:
    from theory import Job, Workspace

_FILE = "call.json"


class Record:
    """The call of one execution, in its ``Workspace.state``.

    Args:
        job: What is called.
        workspace: Where it is kept.
        app: Which function is called.
    """

    def __init__(self, job: Job, workspace: Workspace, app: str) -> None:
        self._path = workspace.state / _FILE
        said = [
            app,
            job.processor.cid,
            list(job.processor.command or ()),
            f"{job.processor.runtime.timeout:g}",
            job.inputs,
            [[artifact.path, artifact.cid] for artifact in job.artifacts],
            dict(job.environment),
        ]
        self._job = cid_of(canonical_json(said))

    def read(self) -> tuple[str, bool] | None:
        """The call that a former try began, and whether it is of this very job: an entry may have changed.

        Raises:
            StoreFailed: It cannot be read, so nobody knows what runs already.
        """
        try:
            known = json.loads(self._path.read_text("utf-8"))
            return str(known["call"]), known["job"] == self._job
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        except OSError as error:
            raise errors.StoreFailed(
                f"{self._path} cannot be read: {error.strerror}", hint="let this user read it, or remove it"
            ) from error

    def write(self, call: str) -> None:
        """Keep a call's id.

        Raises:
            StoreFailed: It cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            with fresh.open("w", encoding="utf-8") as file:
                json.dump({"call": call, "job": self._job}, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            self._sync()
        except OSError as error:
            raise errors.StoreFailed(
                f"{self._path} cannot be written: {error.strerror}", hint="free some space on its disk"
            ) from error

    def forget(self) -> None:
        """There is nothing to wait for; where it cannot be removed, a later try finds out by asking Modal."""
        with suppress(OSError):
            self._path.unlink()
            self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Makes jobs for sandboxes and runs them as core does; their commands are lines of Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import theory_adapter_modal.adapter
from theory.testing.bench import Bench, Ran
from theory.types import ImageSource, Secrets
from theory_adapter_modal.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from theory.testing.channel import Later, RecordingChannel
    from theory.types import Artifact, Job

IMAGE = "python:3.11-slim"


class Sandboxes:
    """Runs lines of Python in sandboxes, through the adapter's hooks alone."""

    def __init__(self, folder: Path, **options: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        made = Options(**options)  # type: ignore[arg-type]  # names of options
        self.bench = Bench(
            theory_adapter_modal.adapter,
            folder,
            folder / "cache",
            lambda _: ImageSource(oci=IMAGE),
            lambda _: {},
            lambda _: made,
            60.0,
        )

    def job(self, code: str, *, files: tuple[Artifact, ...] = (), **changes: object) -> Job:
        """A job whose command is this code, unless ``command`` says otherwise."""
        changes = {"command": ("python", "-c", code), **changes}
        return self.bench.job(files=files, **changes)  # type: ignore[arg-type]  # fields of a processor

    def run(self, code: str, secrets: Secrets | None = None, **changes: object) -> Ran:
        """Run a job to its end."""
        return self.bench.run(self.job(code, **changes), secrets=secrets)  # type: ignore[arg-type]  # as above

    def start(self, job: Job, channel: RecordingChannel | None = None) -> Later[Ran]:
        """Begin a job."""
        return self.bench.start(job, channel=channel)

"""A program that runs one job on the adapter ``process`` and passes on what the command writes.

    python caller.py FOLDER COMMAND-AS-JSON ADAPTER-MATERIAL-AS-JSON [DESCRIPTOR]

With a descriptor it forks while the command runs, and the fork lives until that is closed elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import theory_adapter_process.adapter as process
from theory.testing.bench import Bench
from theory.testing.channel import RecordingChannel
from theory.types import ImageSource


class Loud(RecordingChannel):
    """Says at once what the command says."""

    def write(self, stream: str, data: bytes) -> None:
        if len(sys.argv) > 4 and os.fork() == 0:
            os.close(1)
            os.read(int(sys.argv[4]), 1)
            os._exit(0)
        os.write({"stdout": 1, "stderr": 2}[stream], data)


folder = Path(sys.argv[1])
image = ImageSource(dockerfile="Dockerfile")
bench = Bench(process, folder, folder.parent / "cache", lambda _: image, lambda _: {}, lambda _: None, 60.0)
job = bench.job(command=tuple(json.loads(sys.argv[2])), adapter=json.loads(sys.argv[3]))
ran = bench.start(job, channel=Loud()).within(60)
sys.exit(ran.outcome.exit_code)

"""Profile a CSV file: /job/inputs.json in, /job/out/profile.json and /job/out/report.html out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from document import describe, spell
from parts import read_table
from reading import RefusedError, open_source
from report import write_report

STEPS = 20  # progress events at most


class Progress:
    """Says how far the reading is, whenever a twentieth of the bytes is through (never by the clock)."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.step = 0

    def tell(self, done: int, total: int, rows: int) -> None:
        """Print an event if it is time for one."""
        step = STEPS * done // max(total, 1)
        if step > self.step:
            self.step = step
            event = {"event": "progress", "fraction": step / STEPS, "message": f"{rows:,} rows"}
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()


def main() -> str | None:
    """Run the job; return what is wrong with the file, which `sys.exit` writes to stderr before it fails."""
    root = os.environ.get("THEORY_ROOT", "")
    out = Path(f"{root}/job/out")
    inputs = json.loads(Path(f"{root}/job/inputs.json").read_text(encoding="utf-8"))
    artifact, progress = inputs["table"], Progress()
    path = Path(root + artifact["$artifact"])
    try:
        source = open_source(path, inputs.get("delimiter"))
        table = read_table(
            source,
            inputs.get("sample_rows", 5),
            int(os.environ.get("OMP_NUM_THREADS", "1")),
            lambda done, rows: progress.tell(done, source.size_bytes, rows),
        )
    except RefusedError as error:
        return f"data/profile: {error}"
    profile = describe(table, source, path.name, artifact["cid"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "profile.json").write_text(spell(profile), encoding="utf-8", newline="\n")
    (out / "report.html").write_text(write_report(profile), encoding="utf-8", newline="\n")
    meta = {"rows": table.rows, "columns": len(table.columns)}
    (out / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8", newline="\n")
    return None


if __name__ == "__main__":
    sys.exit(main())

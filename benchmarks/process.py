"""What a run under the process adapter adds to a bare subprocess of the same program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from rounds import compare

from theory import Runner


def main() -> None:
    """Measure."""
    spec = find_spec("theory_registry")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "text" / "wordcount" / "1" / "main.py"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THEORY_HOME"] = f"{folder}/home"
        root = Path(folder, "bare")
        (root / "job" / "out").mkdir(parents=True)
        (root / "job" / "inputs.json").write_text(json.dumps({"text": "to be"}))
        with Runner() as runner:

            def run() -> None:
                envelope = runner.run("text/wordcount@1", {"text": "to be"}, adapter="process", memo="off")
                assert envelope.status == "success", envelope

            compare(
                "bare subprocess",
                {
                    "bare subprocess": lambda: subprocess.run(
                        [sys.executable, str(program)], env={"THEORY_ROOT": str(root)}, check=True
                    ),
                    "Runner.run on process, durable": run,
                },
            )


if __name__ == "__main__":
    main()

"""One trivial run from the command line, durable store and ledger included, against importing click."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rounds import compare

INPUTS = '{"messages":[{"role":"user","content":"Hello!"}]}'


def main() -> None:
    """Measure."""
    python, theory = sys.executable, str(Path(sys.executable).parent / "theory")
    with tempfile.TemporaryDirectory() as home:
        environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
        environ["THEORY_HOME"] = home

        def call(*command: str) -> None:
            subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, cwd=home, check=True)

        run = (theory, "run", "llm/litellm@1", "--adapter", "mock", "--json", "--inputs-json", INPUTS)
        compare(
            "python -c 'import click'",
            {
                "python -c pass": lambda: call(python, "-c", "pass"),
                "python -c 'import click'": lambda: call(python, "-c", "import click"),
                "theory --help": lambda: call(theory, "--help"),
                "theory run --adapter mock": lambda: call(*run),
                "theory run --adapter mock, memo hit": lambda: call(*run, "--memo"),
                "theory run --adapter process": lambda: call(
                    theory,
                    "run",
                    "text/wordcount@1",
                    "--adapter",
                    "process",
                    "--no-memo",
                    "--json",
                    "--inputs-json",
                    '{"text": "to be"}',
                ),
            },
        )


if __name__ == "__main__":
    main()

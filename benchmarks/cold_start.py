"""One trivial run from the command line, durable store and ledger included, against importing click.

    python benchmarks/cold_start.py [CWLTOOL]

CWLTOOL is the path of a cwltool to compare with; without it that row is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rounds import compare, ratio

INPUTS = '{"messages":[{"role":"user","content":"Hello!"}]}'
TOOL = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: echo
inputs:
  message:
    type: string
    inputBinding: {position: 1}
stdout: response.txt
outputs:
  response:
    type: stdout
"""
CLICK = "python -c 'import click'"
RUN = "theory run --adapter mock"
HIT = "theory run --adapter mock, memo hit"
CWLTOOL = "cwltool --no-container"
MORE = "with 20 more plugins"
CROWD = 20  # further distributions, each with an adapter, a store and a command


def crowd(folder: Path) -> None:
    """What installing many plugins leaves below site-packages."""
    for number in range(CROWD):
        told = folder / f"acme_{number}-1.0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{number}\nVersion: 1.0\n")
        (told / "entry_points.txt").write_text(
            "".join(
                f"[theory.{kind}s]\nacme{number} = acme_{number}.{kind}\n"
                for kind in ("adapter", "store", "command")
            )
        )
        (folder / f"acme_{number}").mkdir()
        (folder / f"acme_{number}" / "__init__.py").write_text("raise SystemExit('nobody asked for this')\n")


def main() -> None:
    """Measure."""
    python, theory = sys.executable, str(Path(sys.executable).parent / "theory")
    cwltool = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else shutil.which("cwltool")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("home", "few", "many"):
            (home / name).mkdir()
        crowd(home / "many")
        (home / "tool.cwl").write_text(TOOL)
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environ["THEORY_HOME"] = str(home / "home")

        def call(*command: str, site: str = "few") -> None:
            # Both have one folder more to look into, so only what is in it differs.
            of = {**environ, "PYTHONPATH": str(home / site)}
            subprocess.run(command, env=of, stdout=subprocess.DEVNULL, cwd=home, check=True)

        run = (theory, "run", "llm/litellm@1", "--adapter", "mock", "--json", "--inputs-json", INPUTS)
        count = (theory, "run", "text/wordcount@1", "--adapter", "process", "--no-memo", "--json")
        measured = {
            "python -c pass": lambda: call(python, "-c", "pass"),
            CLICK: lambda: call(python, "-c", "import click"),
            "theory --help": lambda: call(theory, "--help"),
            RUN: lambda: call(*run),
            HIT: lambda: call(*run, "--memo"),
            f"theory --help, {MORE}": lambda: call(theory, "--help", site="many"),
            f"{RUN}, {MORE}": lambda: call(*run, site="many"),
            "theory run --adapter process": lambda: call(*count, "--inputs-json", '{"text": "to be"}'),
        }
        if cwltool:
            echo = (
                cwltool,
                "--no-container",
                "--quiet",
                "--outdir",
                "out",
                "tool.cwl",
                "--message",
                "Hello!",
            )
            measured[CWLTOOL] = lambda: call(*echo)
        seconds = compare(CLICK, measured)
    promises = [(name, CLICK, most) for name, most in (("theory --help", 1.6), (RUN, 2.5), (HIT, 2.5))]
    promises += [(f"{name}, {MORE}", name, 1.1) for name in ("theory --help", RUN)]
    promises += [(RUN, CWLTOOL, 0.15)] * (CWLTOOL in seconds)
    print()
    for name, yardstick, most in promises:
        print(f"{ratio(seconds[name], seconds[yardstick]):6.2f}  at most {most:4} {name} / {yardstick}")


if __name__ == "__main__":
    main()

"""The installed command `theory`, and environments to install it in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Protocol

    class EntryMaker(Protocol):
        """Writes a registry folder with one entry whose command is a Python program."""

        def __call__(self, ref: str, program: str, **fields: Any) -> Path: ...

    class DistributionMaker(Protocol):
        """Makes the wheel of a third party's plugin from the text of its one module."""

        def __call__(self, name: str, module: str, source: str, entry_points: Mapping[str, str]) -> Path: ...


OUTSIDE = dict(os.environ)  # where pip finds its index: read before a test gets a home of its own
MINUTE = 60  # seconds: far more than any command here takes


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and all that it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def line(self) -> Any:
        """The one document on stdout, which is one compact line and nothing else."""
        assert self.stdout.count("\n") == 1, f"not one line: {self.stdout!r} (stderr: {self.stderr})"
        assert self.stdout.endswith("\n")
        assert len(self.stdout) > 2
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[Any]:
        """The documents on stdout, one a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def ok(self) -> Result:
        """Itself, once it has succeeded."""
        assert self.code == 0, f"exit {self.code}\nstdout: {self.stdout}\nstderr: {self.stderr}"
        return self


@dataclass(frozen=True)
class Theory:
    """The installed command `theory`; call it with its arguments.

    Args:
        prefix: The environment in which it is installed.
        home: THEORY_HOME.
        cwd: The working directory.
        environ: Variables beside the closed environment.
        started: What is to be ended with the test.
    """

    prefix: Path
    home: Path
    cwd: Path
    environ: Mapping[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """All variables that the command gets."""
        return {
            "PATH": f"{self.prefix / 'bin'}{os.pathsep}/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.cwd),
            "THEORY_HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "100",
            **self.environ,
        }

    @property
    def command(self) -> str:
        """The program itself."""
        return str(self.prefix / "bin" / "theory")

    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"", timeout: float = MINUTE) -> Result:
        """Run it to its end."""
        done = subprocess.run(
            [self.command, *map(str, arguments)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=self.cwd,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start it, in a process group of its own, its stdout and stderr as pipes."""
        process = subprocess.Popen(
            [self.command, *map(str, arguments)],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.cwd,
            env={**self.environment, **options.pop("environ", {})},
            start_new_session=True,
            **options,
        )
        self.started.append(process)
        return process

    def hello(self, *options: str | Path, **more: Any) -> Result:
        """The document's first example, with more options."""
        return self(
            *("run", "--ref", "llm/litellm@1", "--adapter", "mock"),
            *("--inputs-json", '{"messages":[{"role":"user","content":"Hello!"}]}', *options),
            **more,
        )

    def install(self, *arguments: str | Path) -> None:
        """Install more into this environment."""
        pip(self.prefix, "install", "--no-compile", *arguments)

    def with_environ(self, **environ: str) -> Theory:
        """The same with more variables."""
        return replace(self, environ={**self.environ, **environ})


def environment(folder: Path, *requirements: str | Path) -> Path:
    """A fresh environment with these installed, from wheels and the package index."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip(folder, "install", "--no-compile", *requirements)
    return folder


def pip(prefix: Path, *arguments: str | Path) -> None:
    """Run this environment's pip for another environment."""
    command = [sys.executable, "-m", "pip", "--python", prefix / "bin" / "python", "-q", *arguments]
    subprocess.run(command, check=True, timeout=300, env=OUTSIDE)


def site_packages(prefix: Path) -> Path:
    """Where an environment keeps what is installed."""
    (folder,) = prefix.glob("lib/python3*/site-packages")
    return folder

"""The command line in process, with one small adapter and one that is broken installed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from theory.cancel import Cancellation
from theory.cli import run_command_line

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ADAPTER = """
import json
from dataclasses import dataclass, field
from core.bed import Call, Fake, done

@dataclass(frozen=True)
class Options:
    cost_micro_usd: int = field(default=0, metadata={"help": "what it costs"})
    lines: str = field(default="", metadata={"help": "what it says"})
    exit_code: int = 0
    build: bool = False

def act(call):
    call.channel.started()
    call.channel.write("stdout", call.options.lines.encode().decode("unicode_escape").encode())
    inputs = call.workspace.inputs.read_text()
    call.write({"inputs.json": inputs, "a.txt": "hello\\n", "options.json": json.dumps(vars(call.options))})
    return done(call.options.exit_code, cost_micro_usd=call.options.cost_micro_usd)

adapter = Fake(act=act, options=Options)
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def line(self) -> Any:
        """The one JSON line on stdout."""
        assert self.out.count("\n") == 1, self
        return json.loads(self.out)

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def ok(self) -> Said:
        assert self.code == 0, self
        return self


class Command:
    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str | Path, stdin: bytes | None = None) -> Said:
        before = os.dup(0)
        reading, writing = os.pipe()
        os.write(writing, stdin or b"")
        os.close(writing)
        os.dup2(reading, 0)
        try:
            code = run_command_line([*map(str, arguments)], Cancellation())
        finally:
            os.dup2(before, 0)
            os.close(before)
            os.close(reading)
        said = self._capfd.readouterr()
        return Said(code, said.out, said.err)

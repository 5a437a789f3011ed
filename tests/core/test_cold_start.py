"""What a cold start imports and opens: each module that is not there costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from core.bed import write_entry

if TYPE_CHECKING:
    from pathlib import Path

# Runs a command line and tells which modules came after click, and what was opened after the command line's
# own modules.
PROGRAM = """
    import gc, json, os, sys
    import click
    before, opened, ended = set(sys.modules), [], os._exit
    def collections():
        return sum(generation["collections"] for generation in gc.get_stats())
    def tell(event, told):
        if event in ("open", "os.listdir", "import"):
            opened.append([event, str(told[0])])
    def end(status):
        new = sorted(set(sys.modules) - before)
        told = {{"modules": new, "opened": opened, "collections": collections() - collected}}
        print("TOLD", json.dumps(told), file=sys.stderr)
        sys.stderr.flush()
        ended(status)
    os._exit = end
    sys.argv = ["theory", *{arguments}]
    gc.collect()  # what came before counts for nothing
    collected = collections()
    sys.addaudithook(tell)
    from theory.__main__ import main
    main()
"""
LIGHT = """
    import time
    from theory import AdapterInfo, Image, Outcome, hookimpl

    @hookimpl
    def describe_adapter():
        return AdapterInfo("light", frozenset())

    @hookimpl
    def identify(processor):
        return Image("x", None, "")

    @hookimpl
    def execute(channel):
        channel.started()
        return Outcome("exit", 0, time.time(), 0.0, cost_micro_usd=0)
"""
RUN = ("run", "test/thing@1", "--adapter", "light", "--json")
# Found in nobody's start: what costs more than it gives, and what was there once.
HEAVY = {
    "asyncio", "concurrent.futures", "csv", "difflib", "docker", "http", "importlib.metadata", "jsonschema",
    "logging", "modal", "multiprocessing", "requests", "rfc8785", "rich", "sqlalchemy", "ssl", "subprocess",
    "tempfile", "theory.formats.escapes", "urllib.request", "yaml", "zipfile",
}  # fmt: skip


class Start:
    """One start of the command line."""

    def __init__(self, home: Path, site: Path, arguments: tuple[str, ...]) -> None:
        environ = {
            **os.environ,
            "THEORY_HOME": str(home / "home"),
            "THEORY_REGISTRY": str(home / "entries"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(site), *sys.path])),
            "PYTHONDONTWRITEBYTECODE": "1",  # which would be opened as well
        }
        program = textwrap.dedent(PROGRAM).format(arguments=json.dumps(arguments))
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environ, capture_output=True, text=True, check=True, cwd=home,
        )  # fmt: skip
        told = json.loads(done.stderr.rpartition("TOLD ")[2])
        self.answer = done.stdout
        self.modules = set(told["modules"])
        self.collections = told["collections"]
        self.opened = Counter((event, what) for event, what in told["opened"] if str(home) not in what)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where one adapter is installed."""
    folder = tmp_path / "site"
    (folder / "light-1.dist-info").mkdir(parents=True)
    (folder / "light-1.dist-info" / "entry_points.txt").write_text("[theory.adapters]\nlight = light\n")
    (folder / "light.py").write_text(textwrap.dedent(LIGHT))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working directory with an entry."""
    write_entry(tmp_path / "here" / "entries")
    return tmp_path / "here"


def test_help_imports_hardly_anything_but_click(home: Path, site: Path) -> None:
    start = Start(home, site, ("--help",))
    assert start.answer.startswith("Usage: theory ")
    ours = {name for name in start.modules if name.split(".")[0] == "theory"}
    assert ours == {
        "theory",
        "theory.__main__",
        "theory.cancel",
        "theory.cli",
        "theory.discovery",
        "theory.errors",
        "theory.record",
    }
    heavy = {*HEAVY, "blake3", "email", "json", "jsonschema_rs", "pathlib", "pluggy", "sqlite3"}
    assert sorted(start.modules & heavy) == []


def test_a_run_imports_nothing_that_it_does_not_need(home: Path, site: Path) -> None:
    Start(home, site, RUN)
    start = Start(home, site, RUN)  # now that the entry is cached
    assert json.loads(start.answer)["status"] == "success"
    assert "theory.run" in start.modules
    assert sorted(start.modules & HEAVY) == []


def test_nobody_looks_for_garbage_during_a_short_run(home: Path, site: Path) -> None:
    assert Start(home, site, RUN).collections == 0


@pytest.mark.parametrize("arguments", [("--help",), RUN], ids=["help", "run"])
def test_twenty_more_plugins_cost_one_short_file_each_and_none_is_imported(
    home: Path, site: Path, arguments: tuple[str, ...]
) -> None:
    Start(home, site, RUN)
    few = Start(home, site, arguments)
    files = set()
    for number in range(20):
        folder = site / f"crowd_{number}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: crowd-{number}\nVersion: 1\n")
        files.add(("open", str(folder / "entry_points.txt")))
        (folder / "entry_points.txt").write_text(
            f"[theory.adapters]\nadapter{number} = crowd{number}.adapter\n"
            f"[theory.stores]\nstore{number} = crowd{number}.store\n"
            f"[theory.commands]\ncommand{number} = crowd{number}.command\n"
        )
        (site / f"crowd{number}.py").write_text("raise SystemExit('a plugin that nobody asked for')\n")
    many = Start(home, site, arguments)
    assert many.opened - few.opened == Counter(files)
    assert few.opened - many.opened == Counter()
    assert many.modules == few.modules

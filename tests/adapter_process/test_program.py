"""What the program can read of its entry is what its memo key covers."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import theory_adapter_process.adapter as process
from core.bed import document, good, house, write_entry
from theory import errors

if TYPE_CHECKING:
    from pathlib import Path

    from theory.testing.bench import Bench

LOOK = """
import json, os
found = sorted(os.path.relpath(os.path.join(d, f)) for d, _, files in os.walk(".") for f in files)
with open(os.environ["THEORY_ROOT"] + "/job/out/found.json", "w") as file:
    json.dump({"files": found, "folder": os.getcwd(), "runs": os.access("tool", os.X_OK)}, file)
"""


def entry(folder: Path, ignored: str | None) -> Path:
    made = write_entry(folder / "entries")
    (made / "main.py").write_text(LOOK)
    (made / "lib").mkdir()
    (made / "lib" / "part.py").write_text("")
    (made / "secret.txt").write_text("not in the key")
    (made / "tool").write_text("#!/bin/sh\n")
    (made / "tool").chmod(0o755)
    if ignored is not None:
        (made / ".dockerignore").write_text(ignored)
    return made


def test_a_file_that_is_ignored_is_not_there(tmp_path: Path) -> None:
    made = entry(tmp_path, "secret.txt\nDockerfile\n**/*.pyc\n")
    (made / "lib" / "old.pyc").write_text("")
    with house(tmp_path, process) as runner:
        good(runner.run("test/thing@1"))
        found = document(runner, "/artifacts/outputs/found.json")
    assert found["files"] == [
        ".dockerignore",
        "Dockerfile",
        "lib/part.py",
        "main.py",
        "processor.yaml",
        "tool",
    ]
    assert found["runs"]


def test_an_entry_that_ignores_nothing_runs_where_it_is(tmp_path: Path) -> None:
    made = entry(tmp_path, None)
    with house(tmp_path, process) as runner:
        good(runner.run("test/thing@1"))
        assert document(runner, "/artifacts/outputs/found.json")["folder"] == str(made)


def test_an_entry_is_copied_once_and_again_when_it_was_edited(tmp_path: Path) -> None:
    made = entry(tmp_path, "secret.txt\n")
    folders = []
    with house(tmp_path, process) as runner:
        for edit in ("", "", "# edited\n"):
            (made / "main.py").write_text(LOOK + edit)
            good(runner.run("test/thing@1", memo="off"))
            folders.append(document(runner, "/artifacts/outputs/found.json")["folder"])
    assert folders[0] == folders[1] != folders[2]


def test_an_entry_that_changes_while_its_run_begins_is_not_run(bench: Bench) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / ".dockerignore").write_text("x\n")
    (folder / "processor.yaml").write_text("{}")
    job = bench.job(command=("sh", "-c", "exit 0"), tree="b3:" + "0" * 64)
    with pytest.raises(errors.Retry, match=r"entry was changed while its run began"):
        bench.run(job)
    whole = bench.job(command=("sh", "-c", "exit 0"))
    (folder / "main.py").unlink()  # a file less is a change as well
    with pytest.raises(errors.Retry, match=r"entry was changed while its run began"):
        bench.run(whole)
    assert not [path for path in bench.cache.rglob("programs/*/complete") if os.path.lexists(path)]


def test_a_file_that_is_ignored_changes_no_memo_key(tmp_path: Path) -> None:
    made = entry(tmp_path, "secret.txt\n")
    with house(tmp_path, process) as runner:
        first = good(runner.run("test/thing@1"))
        (made / "secret.txt").write_text("another")
        second = good(runner.run("test/thing@1"))
    assert (first.meta["memo"], second.meta["memo"]) == ("miss", "hit")
    assert json.dumps([output.cid for output in first.outputs]) == json.dumps(
        [output.cid for output in second.outputs]
    )

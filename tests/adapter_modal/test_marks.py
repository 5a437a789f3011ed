"""Notes of sandboxes that may be there: held by who is alive, found when he is dead."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from theory_adapter_modal.sandbox.marks import hold, left

if TYPE_CHECKING:
    from pathlib import Path


def test_a_note_is_held_by_one_alone(tmp_path: Path) -> None:
    first = hold(tmp_path, "a")
    assert first is not None
    first.write("main", "me")
    assert hold(tmp_path, "a") is None
    assert list(left(tmp_path)) == []
    first.close()
    ((name, mark),) = left(tmp_path)
    assert (name, mark.was_there, mark.environment()) == ("a", True, "main")
    mark.close()


def test_a_cleared_note_is_gone(tmp_path: Path) -> None:
    mark = hold(tmp_path, "a")
    assert mark is not None
    assert not mark.was_there
    mark.write(None, "me")
    mark.clear()
    mark.close()
    assert list((tmp_path / "sandboxes").iterdir()) == []
    assert list(left(tmp_path)) == []


def test_a_note_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from theory_adapter_modal.sandbox.marks import hold
mark = hold(Path({str(tmp_path)!r}), "a")
mark.write("main", "me")
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = ":".join(sys.path)
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False).returncode == -9
    )
    assert [(name, mark.environment()) for name, mark in left(tmp_path)] == [("a", "main")]


def test_a_damaged_note_is_one_without_an_environment(tmp_path: Path) -> None:
    mark = hold(tmp_path, "a")
    assert mark is not None
    mark.close()
    (tmp_path / "sandboxes").mkdir(exist_ok=True)
    (tmp_path / "sandboxes" / "a").write_bytes(b"\xff[")
    assert [mark.environment() for _, mark in left(tmp_path)] == [None]

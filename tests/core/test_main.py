"""The program: signals first, then everything else; and a package that costs nothing to import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import theory

if TYPE_CHECKING:
    from pathlib import Path


def python(code: str) -> tuple[int, str, str]:
    """Run code that sees this source tree: its status, stdout and stderr."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_program_answers_and_exits_with_its_status() -> None:
    code, out, err = python(
        "import sys; sys.argv=['theory', '--version']; from theory.__main__ import main; main()"
    )
    assert (code, out, err) == (0, f"theory, version {theory.__version__}\n", "")
    code, out, err = python(
        "import sys; sys.argv=['theory', 'xyzzy']; from theory.__main__ import main; main()"
    )
    assert (code, out) == (2, "")
    assert err.startswith("Error: no command 'xyzzy'")


INTERRUPTED = """
import os, signal, sys
sys.argv = ['theory', 'run', 'x/y@1', '--json']
class Import:  # a signal while modules are still being imported
    def find_spec(self, name, path=None, target=None):
        if name == '{module}':
            for _ in range({times}):
                signal.raise_signal(signal.{signal})
sys.meta_path.insert(0, Import())
from theory.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_cancels_even_during_imports_and_the_second_ends_at_once(name: str) -> None:
    code, out, err = python(INTERRUPTED.format(module="theory.cli", times=1, signal=name))
    assert "Traceback" not in err
    assert code != 0
    assert out.count("\n") == 1
    ended = python(INTERRUPTED.format(module="theory.cli", times=2, signal=name))
    told = "stopped at once; what was open is closed by the next start\n"
    assert ended == (128 + signal.Signals[name], "", told)


def test_a_ctrl_c_before_anything_has_begun_just_ends_the_process() -> None:
    ended = python(INTERRUPTED.format(module="theory.cancel", times=1, signal="SIGINT"))
    assert ended == (-signal.SIGINT, "", "")


def test_the_status_of_a_reader_that_has_gone_is_that_of_sigpipe() -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "theory", "schema", "entry"],
        env=environ,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_the_package_imports_nothing_until_a_name_is_asked_for() -> None:
    code, out, err = python(
        "import sys, theory; print(sorted(m for m in sys.modules if m.startswith('theory.')))"
    )
    assert (code, out, err) == (0, "[]\n", "")


def test_every_public_name_is_there_and_others_are_not() -> None:
    for name in theory.__all__:
        assert getattr(theory, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = theory.Nothing


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"], ids=str)
def test_a_stream_that_the_caller_closed_is_no_traceback(tmp_path: Path, closed: str) -> None:
    environ = {
        **os.environ,
        "THEORY_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "theory", "plan", "create", "p"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (0, False)
    shown = subprocess.run(
        [sys.executable, "-m", "theory", "plan", "show", "p"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(shown.stdout)["key"] == "p"

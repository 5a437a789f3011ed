"""A ledger in bad surroundings: what the command says, how it ends, and that nobody loses count of money."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from house.command import MINUTE, Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from house.command import Theory

PARTS: tuple[tuple[Any, str], ...] = ((int, "code"), (str, "out"), (str, "err"))
FIRST = "01890000-0000-7000-8000-000000000001"


def a_text(home: Path) -> None:
    (home / "ledger.db").write_bytes(b"shopping list\n" * 100)


def a_folder(home: Path) -> None:
    (home / "ledger.db").mkdir()


def a_dangling_link(home: Path) -> None:
    (home / "ledger.db").symlink_to("/nowhere/at/all.db")


def of_a_newer_version(home: Path) -> None:
    with closing(sqlite3.connect(home / "ledger.db")) as raw:
        raw.execute(f"PRAGMA application_id={0x74686C67}")
        raw.execute("PRAGMA user_version=1000")
        raw.execute("CREATE TABLE plans (key)")


UNOPENED = (
    "see that its folder exists and is writable, or set THEORY_HOME to another folder; or raise ulimit -n"
)
HINTS: dict[Callable[[Path], None], str] = {
    a_text: "move the file away and put back a copy of it, or set THEORY_HOME to another folder",
    a_folder: UNOPENED,
    a_dangling_link: UNOPENED,
    of_a_newer_version: "upgrade theory-core; the file was not touched",
}


def in_namespace(theory: Theory, mount: str, *commands: str) -> list[Result]:
    """Run shell commands, with ``theory`` and ``$THEORY_HOME``, where something is mounted for them alone."""
    lines = ["set -e", mount, "set +e"]
    for number, command in enumerate(commands):
        lines.append(f"({command}) > {number}.out 2> {number}.err; echo $? > {number}.code")
    script = "\n".join(lines)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=theory.cwd,
        env=theory.environment,
        capture_output=True,
        timeout=MINUTE,
        check=False,
    )
    if not (theory.cwd / "0.out").exists():
        pytest.skip(f"the file system cannot be mounted here: {done.stderr.decode()}")
    return [
        Result(*(kind((theory.cwd / f"{number}.{part}").read_text()) for kind, part in PARTS))
        for number in range(len(commands))
    ]


@pytest.mark.parametrize("damage", HINTS, ids=lambda damage: damage.__name__)
def test_a_ledger_that_cannot_be_used_is_named_with_the_next_step_and_nothing_runs(
    theory: Theory, damage: Callable[[Path], None]
) -> None:
    theory.home.mkdir()
    damage(theory.home)
    ran = theory.hello("--json")
    error = ran.line["error"]
    assert (ran.code, error["code"], error["hint"]) == (4, "ERR_LEDGER", HINTS[damage])
    assert f"{theory.home}/ledger.db" in error["message"]
    listed = theory("plan", "ls")
    assert (listed.code, listed.stdout) == (4, "")
    assert listed.stderr == f"Error: {error['message']}\nHint: {error['hint']}\n"
    assert "Traceback" not in ran.stderr


def test_a_home_on_a_volume_that_is_gone_is_named(theory: Theory) -> None:
    theory.home.symlink_to("/nowhere/at/all")
    ran = theory.hello("--json")
    assert (ran.code, ran.line["error"]["code"], ran.stderr) == (4, "ERR_LEDGER", "")
    assert f"{theory.home}/ledger.db" in ran.line["error"]["message"]
    assert ran.line["error"]["hint"].startswith("is its volume mounted?")


def test_a_home_on_a_read_only_file_system_can_be_read_and_refuses_to_run(theory: Theory) -> None:
    theory.hello("--execution-id", FIRST, "--plan", "may", "--json").ok()
    mount = 'mount --bind "$THEORY_HOME" "$THEORY_HOME"; mount -o remount,bind,ro "$THEORY_HOME"'
    looks = ("theory ls", f"theory show {FIRST}", "theory plan ls", "theory plan show may")
    inputs = '{"messages":[{"role":"user","content":"Hello!"}]}'
    run = f"theory run llm/litellm@1 --adapter mock --json --inputs-json '{inputs}'"
    *seen, ran, made = in_namespace(theory, mount, *looks, run, "theory plan create june")
    for shown, word in zip(seen, (FIRST, FIRST, "may", "may"), strict=True):
        assert word in shown.ok().stdout
    assert (ran.code, ran.line["error"]["code"]) in {(4, "ERR_LEDGER"), (3, "ERR_STORE")}
    assert str(theory.home) in ran.line["error"]["message"]
    assert ran.line["error"]["hint"]
    assert (made.code, made.stdout) == (4, "")
    assert f"{theory.home}/ledger.db cannot be used" in made.stderr
    assert "Hint: make it and its folder writable, or set THEORY_HOME to another folder" in made.stderr
    assert "Traceback" not in ran.stderr + made.stderr


def test_a_full_disk_is_told_and_leaves_a_ledger_that_works(theory: Theory) -> None:
    theory.home.mkdir()
    mount = """mount -t tmpfs -o size=400k tmpfs "$THEORY_HOME"
        theory plan create old
        cat /dev/zero > "$THEORY_HOME/fat" || true"""
    create, room = "theory plan create new", 'rm "$THEORY_HOME/fat"'
    failed, listed, *_, after = in_namespace(
        theory, mount, create, "theory plan ls", room, "theory plan ls", create, "theory plan ls"
    )
    assert (failed.code, failed.stdout, listed.code) == (4, "", 4)
    for told in (failed.stderr, listed.stderr):
        assert f"{theory.home}/ledger.db cannot be used" in told
        assert "free s" in told  # "free some space", or "free space" among the things to look at
        assert "Traceback" not in told
    assert [line.split()[0] for line in after.ok().stdout.splitlines()] == ["new", "old"]


def test_runs_that_start_together_on_a_new_home_all_count(theory: Theory) -> None:
    inputs = ("--inputs-json", '{"messages":[{"role":"user","content":"Hello!"}]}')
    command = ("run", "llm/litellm@1", "--adapter", "mock", *inputs, "-o", "cost_micro_usd=5", "--json")
    runs = [theory.start(*command) for _ in range(4)]
    for run in runs:
        stdout, stderr = run.communicate(timeout=MINUTE)
        assert (run.returncode, stderr, b'"status":"success"' in stdout) == (0, b"", True)
    shown = theory("plan", "show", "default").ok().json
    assert (shown["reserved_micro_usd"], shown["spent_micro_usd"]) == (0, 20)
    assert len(theory("ls").ok().stdout.splitlines()) == 4


def test_a_retry_after_a_kill_counts_what_both_attempts_may_have_cost(theory: Theory) -> None:
    run = ("--reserve-usd", "0.02", "--plan", "p", "--execution-id", FIRST, "--json")
    inputs = ("--inputs-json", '{"messages":[{"role":"user","content":"Hello!"}]}')
    slow = theory.start(
        *(
            "run",
            "llm/litellm@1",
            "--adapter",
            "mock",
            *inputs,
            "-o",
            "latency_s=600",
            "-o",
            "cost_micro_usd=7",
            *run,
        )
    )
    deadline = time.monotonic() + MINUTE
    while "0.02" not in theory("plan", "ls").stdout:
        assert time.monotonic() < deadline
    slow.kill()
    slow.communicate()
    again = theory.hello("-o", "cost_micro_usd=7", *run)
    assert (again.ok().line["execution_id"], again.line["meta"]["cost_micro_usd"]) == (FIRST, 7)
    shown = theory("plan", "show", "p").ok().json
    assert (shown["reserved_micro_usd"], shown["spent_micro_usd"]) == (0, 20_007)
    theory.hello("-o", "cost_micro_usd=7", *run).ok()  # closed: its answer again, for nothing
    assert theory("plan", "show", "p").ok().json == shown

"""ENOSPC, EIO, EDQUOT and EMFILE at each call of ``theory run``: a typed error, and nothing half visible.

strace answers one call of a run in the kernel's place. The long form does so at every call that touches the
home, the save folder or standard output, with each error; the short form at a sample of them. Then the home
is judged, and the same run again succeeds.

``tox -e proofs -- tests/proofs/test_io_faults.py -s --hypothesis-profile long -o faulthandler_timeout=0``
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from proofs.faulty import Call, Ended, Faulty, Try, calls_of
from proofs.load import PLAN, arguments, environ_of, write_entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

IS_LONG = settings().max_examples > 1000  # --hypothesis-profile long
ID, AGAIN = "3b241101-e2bb-4255-8caf-4136c566a962", "4b241101-e2bb-4255-8caf-4136c566a962"
FULL = ("ENOSPC", "EIO", "EDQUOT")
# What else a call can be refused with than FULL.
ERRORS = {
    **dict.fromkeys(("unlink", "unlinkat", "rmdir", "chmod", "fchmod"), ("EIO",)),
    "flock": ("ENOLCK",),
    **dict.fromkeys(("dup", "fcntl"), ("EMFILE",)),
}
CODES = {
    "ERR_STORE": 3,
    "ERR_SAVE": 3,
    "ERR_LEDGER": 4,
    "ERR_RETRY": 75,
    "ERR_USAGE": 2,  # --save-dir is tried before anything is spent
    "ERR_ATTACHMENT_NOT_FOUND": 2,
    "ERR_REGISTRY": 2,
}
OF_A_PROGRAM = {"ERR_PROCESSOR": 1}
OF_THE_HOUSE = 3
BROKEN_STDOUT = "Error: cannot write to standard output: "
# Where a call may fail and the run succeeds all the same, since nothing that it promises depends on it.
HARMLESS = (
    r"close .*",  # of what was synced or only read; where bytes were written and not synced: see WRITTEN
    r"(unlink|unlinkat|rmdir|rename|openat) home/state.*",  # tidying up: the next run or gc does it
    r"(unlink|openat|rmdir) (home/store/tmp/.*|(saved/)?\.theory-\*)",
    r"\w+ home/cache.*",  # it costs time to work out again
    r"(fsync|openat) home #1",  # for the name of the cache
    # SQLite: a file that cannot be made a WAL stays with a rollback journal, as durable as the other.
    r"\w+ home/(ledger|store/small)\.db-(journal|shm)",
    r"openat home/(ledger|store/small)\.db-wal",
    r"unlink home/(ledger|store/small)\.db-wal",
    # … a checkpoint comes when all that it copies is durable in the WAL, and is made good by the next.
    r"(pwrite64|ftruncate|fdatasync) home/(ledger|store/small)\.db",
    r"fdatasync home/(ledger|store/small)\.db-wal last",
    # … and how its own sync of the folder ends, for the name of a WAL, it does not look at: that was synced.
    r"(openat|fdatasync) home(/store)?",
    r"(copy_file_range|fallocate|sync_file_range) .*",  # there is another way, or the sync comes later
)
WRITTEN = re.compile(
    r"(home/store/tmp|saved/\.theory-\*|home/state/ID/work)/"
)  # and closed before a sync, or without one
SHORT = 24
EVERY_LIMIT = range(4, 40)
TRIES = 4


class Bench:
    """Runs of ``theory`` of which one call fails, in a home that is as it was before each."""

    def __init__(self, folder: Path, server: Faulty) -> None:
        self.folder = folder
        self.server = server
        self._trace = folder / "trace"
        assert server.run(Try(("plan", "create", PLAN, "--limit", "1"))).status == 0
        (folder / "home").rename(folder / "template")

    def arguments(self, kind: str, execution_id: str = ID) -> tuple[str, ...]:
        attach = ("--attach", f"file={self.folder / '10000'}", "--save-dir", str(self.folder / "saved"))
        inputs = {"n": 1, "file": {"$attach": "file"}}
        return arguments(self.folder, kind, inputs, *attach, execution_id=execution_id)

    def fresh(self) -> None:
        for name in ("home", "saved"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "template", self.folder / "home")

    def calls(self, kind: str, execution_id: str = ID) -> list[Call]:
        """The calls of a run that could be refused."""
        self.fresh()
        ended = self.server.run(Try(self.arguments(kind, execution_id), trace=str(self._trace)))
        assert ended.status == 0, ended
        known = ("entries", "theory.toml", "pyproject.toml", ".config")
        return [call for call in calls_of(self._trace, self.folder) if not call.place.startswith(known)]

    def refuse(self, kind: str, call: Call, error: str, mutant: str = "") -> tuple[Ended, list[str]]:
        """A run of which this call fails, and what was hit."""
        for _ in range(TRIES):
            self.fresh()
            inject = f"{call.name}:error={error}:when={call.nth}"
            ended = self.server.run(
                Try(self.arguments(kind), trace=str(self._trace), inject=inject, mutant=mutant)
            )
            hit = [done for done in calls_of(self._trace, self.folder) if done.line.endswith("(INJECTED)")]
            if call.key in [done.key for done in hit]:
                break
            # Somebody touched a folder of Python's, which it now lists at each start: count anew.
            call = next(other for other in self.calls(kind) if other.key == call.key)
        else:
            hit = []
        return ended, [done.place for done in hit]

    def judged(self, kind: str, ended: Ended) -> Iterator[str]:
        """All that is wrong after a run of which something failed."""
        if ended.status == 0:
            envelope = ended.envelope
            assert envelope is not None
            yield from self.server.wrong([envelope])
        else:
            yield from misworded(ended, {**CODES, **(OF_A_PROGRAM if kind == "program" else {})})
            yield from self.server.wrong([])
        again = self.server.run(Try(self.arguments(kind, AGAIN)))
        if again.status or again.envelope is None:
            yield f"the same run again: {again}"


def misworded(ended: Ended, codes: dict[str, int]) -> Iterator[str]:
    """What is wrong with how a failed run ended."""
    if "Traceback" in ended.err:
        yield ended.err
    if ended.err.startswith(BROKEN_STDOUT) and ended.status == OF_THE_HOUSE and not ended.out:
        return
    if not ended.out:
        yield f"nothing was said: {ended}"
        return
    envelope = ended.envelope
    if envelope is None or envelope["status"] != "error":
        yield f"exit status {ended.status}, and {ended.out}"
        return
    error = envelope["error"]
    if codes.get(error["code"]) != ended.status or not (error["message"] and error["hint"]):
        yield f"exit status {ended.status}: {error}"
    if re.search("bug|reported?$", error["hint"]):
        yield f"it is nobody's bug: {error}"
    what_helps = "theory get" if error["code"] == "ERR_SAVE" else "ulimit -n"  # that one is closed, and kept
    if os.strerror(errno.EMFILE) in error["message"] and what_helps not in error["hint"]:
        yield f"that is no help: {error}"


def is_harmless(call: Call) -> bool:
    """Whether the run may succeed without it."""
    if call.name == "close" and WRITTEN.match(call.place) and not call.is_read_only:
        return False
    if call.name == "flock" and "LOCK_UN" in call.line:
        return True  # the file is closed then, which lets go as well
    if " = -1 E" in call.line:
        return True  # what fails in a good run, too: the folder is there already
    what = f"{call.name} {call.place}"
    names = {what, f"{what} #{call.turn}", *([f"{what} last"] if call.is_last else ())}
    return any(re.fullmatch(known, name) for known in HARMLESS for name in names)


def errors_of(call: Call) -> tuple[str, ...]:
    if call.name == "openat":
        return ("EMFILE", "EIO") if call.is_read_only else ("EMFILE", *FULL)
    return ERRORS.get(call.name, FULL)


def sample(calls: list[Call]) -> list[tuple[Call, str]]:
    """A few of them, the same each time: of each kind of call some, and of each kind of place."""
    kinds: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        if call.name in {
            "write",
            "pwrite64",
            "fsync",
            "fdatasync",
            "rename",
            "openat",
            "close",
            "mkdir",
            "link",
        }:
            kinds.setdefault((call.name, call.place), []).append(call)
    chosen = [*kinds.values()][:: max(1, len(kinds) // SHORT)]
    turns = Counter[str]()
    found = []
    for same in chosen:
        call = same[len(same) // 2]
        errors = errors_of(call)
        found.append((call, errors[turns[call.name] % len(errors)]))
        turns[call.name] += 1
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    write_entries(tmp_path)
    with Faulty(environ_of(tmp_path), tmp_path) as server:
        yield Bench(tmp_path, server)


@pytest.mark.parametrize("kind", ["simulated", "program"])
def test_a_call_that_fails_is_told_and_leaves_nothing_half_visible(bench: Bench, kind: str) -> None:
    began = time.monotonic()
    calls = bench.calls(kind)
    if IS_LONG:
        wanted = [(call, error) for call in calls for error in errors_of(call)]
        random.Random(5).shuffle(wanted)  # noqa: S311 - a run that is cut short has seen some of each
    else:
        wanted = sample(calls)[:: 1 if kind == "simulated" else 4]
    ends: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    words: dict[tuple[str, str, str], str] = {}
    for done, (call, error) in enumerate(wanted):
        ended, hit = bench.refuse(kind, call, error)
        where = f"{error} at {call.name} {call.nth} of {call.place}"
        if call.place not in hit:
            ends["missed"] += 1
            continue
        kinds[f"{call.name} {call.place}"] += 1
        said = (ended.envelope or {}).get("error", {})
        ends["success" if ended.status == 0 else said.get("code", "standard output")] += 1
        if ended.status == 0 and not is_harmless(call):
            faults.append(f"{where}: taken for a success")
        if said:
            message = re.sub(r"[0-9a-f-]{32,36}", "*", said["message"])
            words.setdefault((error, said["code"], message), said["hint"])
        faults += [f"{where}: {fault}" for fault in bench.judged(kind, ended)]
        if IS_LONG and done % 100 == 0:
            print(f"\n{kind}: {done} of {len(wanted)}, {dict(ends)}, {faults}", flush=True)  # noqa: T201 - with -s
    minutes = (time.monotonic() - began) / 60
    print(f"\n{kind}: {len(wanted)} faults, {len(kinds)} kinds, {dict(ends)}, {minutes:.1f} minutes")  # noqa: T201 - with -s
    for told, hint in sorted(words.items()):
        print(*told, hint, sep=" | ")  # noqa: T201 - with -s
    assert faults == []
    assert ends["missed"] <= len(wanted) * 0.02


def test_a_sync_whose_failure_is_overlooked_is_found(bench: Bench) -> None:
    """The control: the same fault is told, and with the mutant it is a success that nothing would allow."""
    syncs = [call for call in bench.calls("simulated") if call.name == "fsync" and "blobs/b3" in call.place]
    assert syncs
    told, _ = bench.refuse("simulated", syncs[-1], "EIO")
    assert (told.status, told.envelope and told.envelope["error"]["code"]) == (3, "ERR_STORE")
    overlooked, hit = bench.refuse("simulated", syncs[-1], "EIO", mutant="deaf_to_sync")
    assert hit == [syncs[-1].place]
    assert overlooked.status == 0
    assert not is_harmless(syncs[-1])


def test_the_name_of_a_log_of_sqlite_is_durable_before_anything_is_in_it(bench: Bench) -> None:
    for execution_id in (ID, AGAIN):  # the first makes the store
        calls = bench.calls("simulated", execution_id)
        for path in ("home/ledger.db", "home/store/small.db"):
            places = [(call.name, call.place) for call in calls]
            made, written = places.index(("openat", f"{path}-wal")), places.index(("pwrite64", f"{path}-wal"))
            assert ("fsync", os.path.dirname(path)) in places[made:written], path
        shutil.rmtree(bench.folder / "template")
        (bench.folder / "home").rename(bench.folder / "template")


def test_a_lock_that_cannot_be_let_go_fails_no_run_and_stays_with_none(bench: Bench) -> None:
    unlocks = {call.place: call for call in bench.calls("program") if "LOCK_UN" in call.line}
    assert len(unlocks) == 5, "of the store's and the ledger's database, the store, the try, the environment"
    for place, call in unlocks.items():
        ended, hit = bench.refuse("program", call, "ENOLCK")
        assert (ended.status, hit) == (0, [place])
        assert [*bench.judged("program", ended)] == []


@pytest.mark.parametrize(
    ("name", "place"), [("flock", "adapter/running.lock"), ("symlink", "/bin/python")], ids=["lock", "link"]
)
def test_what_the_disk_refuses_the_adapter_is_told_by_its_path(bench: Bench, name: str, place: str) -> None:
    call = next(call for call in bench.calls("program") if call.name == name and call.place.endswith(place))
    ended, _ = bench.refuse("program", call, "EIO")
    assert ended.envelope is not None
    error = ended.envelope["error"]
    assert (ended.status, error["code"]) == (3, "ERR_STORE")
    assert re.fullmatch(rf"cannot write to /.*{place}: Input/output error", error["message"])
    assert "THEORY_HOME" in error["hint"]
    assert [*bench.judged("program", ended)] == []


def test_too_few_open_files_are_told_whatever_the_limit(bench: Bench) -> None:
    statuses: Counter[int] = Counter()
    limits = [*EVERY_LIMIT, *EVERY_LIMIT] if IS_LONG else EVERY_LIMIT[::6]
    for number, limit in enumerate(limits):
        if number >= len(EVERY_LIMIT):
            write_entries(bench.folder)  # what is so fresh is read once more
        bench.fresh()
        ended = bench.server.run(Try(bench.arguments("simulated"), files=limit))
        statuses[ended.status] += 1
        assert [*bench.judged("simulated", ended)] == [], (limit, ended)
    assert {0} < set(statuses), "some limit is too low, and some is not"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_disk_that_is_full_is_told_and_what_is_there_stays_whole(tmp_path: Path) -> None:
    """A real one: a file system in memory of so many KiB."""
    write_entries(tmp_path)
    (tmp_path / "home").mkdir()
    ends: Counter[str] = Counter()
    with Faulty(environ_of(tmp_path), tmp_path, "unshare", "--mount") as server:
        bench = Bench.__new__(Bench)
        bench.folder, bench.server = tmp_path, server
        for size in range(32, 900, 24 if IS_LONG else 160):
            status, _, said = server.command(
                "mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(tmp_path / "home")
            )
            if status:
                pytest.skip(f"the file system tmpfs cannot be mounted here: {said}")
            ended = server.run(Try(bench.arguments("simulated")))
            ends["success" if ended.status == 0 else str((ended.envelope or {})["error"]["code"])] += 1
            faults = [*misworded(ended, CODES)] if ended.status else []
            server.command("mount", "-o", "remount,size=64m", str(tmp_path / "home"))
            assert [*faults, *bench.judged("simulated", ended)] == [], (size, ended)
            server.command("umount", str(tmp_path / "home"))
    print(f"\na full disk: {dict(ends)}")  # noqa: T201 - with -s
    assert ends["success"] < ends.total()
    assert ends["ERR_STORE"] + ends["ERR_LEDGER"] == ends.total() - ends["success"]

"""What runs on a disk that will lose its power: executions, each told once it was answered.

A mutant is this work with one promise of the store or of SQLite broken, in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import sys
import threading
from typing import TYPE_CHECKING, Any

from core.bed import Fake, done, good, house, write_entry
from theory.disk import durable, sqlite
from theory.formats import wire
from theory.ledger import Ledger
from theory.store import staged
from theory.store.filestore import SMALL_BYTES, FileStore
from theory.types import Staged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from core.bed import Call
    from theory import Runner
    from theory.ledger import Closing

REF = "test/thing@1"
PREFIX = "/artifacts/power/{execution_id}/"
PLAN = "power"
LIMIT = 10**12  # micro-USD
COST = 5
LARGE = 70_000  # bytes: more than 64 KiB, so a file of its own
_THREADS = 2
_telling = threading.Lock()


def act(call: Call) -> object:
    """Leave a small output and, if the inputs say so, a large one; no two executions make the same."""
    call.channel.started()
    own = call.job.execution_id
    files: dict[str, bytes | str] = {"a.txt": own, "deep/b.json": json.dumps({"own": own})}
    if call.job.inputs.get("large"):
        files["large.bin"] = (own.encode() * (LARGE // len(own) + 2))[: LARGE + call.job.seed % 1000]
    call.write(files)
    return done(cost_micro_usd=COST)


def runner_in(folder: Path) -> Runner:
    return house(folder, Fake(act=act))


def prepare(folder: Path, *, warm: bool) -> Runner:
    """An entry and, if warm, a home with a past: nothing of what follows makes its files grow.

    A sync of a file that grew makes all names durable along with it, so a store that forgot to sync a folder
    would mostly get away with it. A log that is written over from its beginning has nothing of that.
    """
    answer = {"outputs": {"a.txt": "hello\n", "large.txt": "simulated " * (LARGE // 10)}}
    write_entry(folder / "entries", cost={"reserve_micro_usd": COST}, adapter={"mock": answer})
    runner = runner_in(folder)
    if not warm:
        return runner
    runner.ledger.create_plan(PLAN, LIMIT)
    for seed in range(2):
        good(runner.run(REF, {"large": True}, plan=PLAN, seed=seed))
    store = runner.store
    assert isinstance(store, FileStore)
    key = "b3:" + "0" * 64
    while not _is_begun_anew(store.database.path):
        store.memo_set(key, os.urandom(60_000))
        store.memo_delete(key)
    number = 0
    while not _is_begun_anew(runner.settings.home / "ledger.db"):
        number += 1
        runner.ledger.reserve(PLAN, f"past-{number}", 1)
        runner.ledger.release(f"past-{number}")
    return runner


def _is_begun_anew(path: Path) -> bool:
    """Whether the log of this database has been filled once."""
    with open(f"{path}-wal", "rb") as log:
        header = log.read(16)
    return int.from_bytes(header[12:16], "big") > 0  # the sequence number of checkpoints: WAL format, 4.1


def work(folder: Path, beside: Path, tell: Callable[[str], None], *, endless: bool) -> None:
    """Run what an execution can be, and tell each envelope once it was answered.

    Args:
        folder: Where the home is.
        beside: Where attached files come from.
        tell: Called with one line.
        endless: From two threads without an end; else each kind once.
    """
    runner = runner_in(folder)
    if not endless:
        _round(runner, beside / "attached", tell, seed=1000)
        return

    def go_on(number: int) -> None:
        choice = random.Random()  # noqa: S311 - any will do
        while True:
            _round(runner, beside / f"attached-{number}", tell, seed=choice.randrange(2**40) * 10 + number)

    for number in range(_THREADS):
        threading.Thread(target=go_on, args=(number,)).start()
    threading.Event().wait()


def _round(runner: Runner, attached: Path, tell: Callable[[str], None], seed: int) -> None:
    """Small outputs, the same from the memo, an attached file and a large output, an input that is one."""
    attached.write_bytes(os.urandom(LARGE))

    def run(inputs: dict[str, Any], *, seed: int, **more: Any) -> str:
        envelope = good(runner.run(REF, inputs, plan=PLAN, seed=seed, write_prefix=PREFIX, **more))
        tell(json.dumps(wire.envelope_document(envelope)))
        return envelope.outputs[-1].path

    given = {"large": True, "file": {"$attach": "file"}}
    run({}, seed=seed)
    run({}, seed=seed)
    made = run(given, seed=seed, attachments={"file": attached})
    run({"file": {"$artifact": made}}, seed=seed, memo="off")


def command(folder: Path, beside: Path) -> None:
    """Become ``theory run --json``, as users have it, with an attached file that nobody has seen before."""
    attached = beside / "attached"
    attached.write_bytes(os.urandom(LARGE))
    what = [
        REF,
        "--adapter",
        "mock",
        "--plan",
        PLAN,
        "--write-prefix",
        PREFIX,
        "--attach",
        f"file={attached}",
    ]
    what += ["--inputs-json", json.dumps({"file": {"$attach": "file"}}), "--json"]
    environ = {
        **os.environ,
        "HOME": str(folder),
        "THEORY_HOME": str(folder / "home"),
        "THEORY_REGISTRY": str(folder / "entries"),
    }
    os.execve(sys.executable, [sys.executable, "-m", "theory", "run", *what], environ)  # noqa: S606 - as above


def tell(descriptor: int, line: str) -> None:
    """Tell one line whole: two threads may do so at once."""
    data = line.encode() + b"\n"
    with _telling:
        while data:
            data = data[os.write(descriptor, data) :]


# ---------------------------------------------------------------- steps


def stop_after(step: int) -> None:
    """Stop this process when it has done so many of the things that a power loss could come after."""
    left = step

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def and_stop(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            answer = function(*arguments, **more)
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGSTOP)
            return answer

        return and_stop

    for module, name in ((os, "fsync"), (os, "replace"), (sqlite, "commit")):
        setattr(module, name, counted(getattr(module, name)))


# ---------------------------------------------------------------- mutants


def _break(owner: object, name: str, wrong: object) -> None:
    setattr(owner, name, wrong)


def _sync_only(wanted: Callable[[int], bool]) -> None:
    sync = durable.sync

    def some(descriptor: int) -> None:
        if wanted(descriptor):
            sync(descriptor)

    _break(durable, "sync", some)


def _is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def _holds_folders(descriptor: int) -> bool:
    with os.scandir(descriptor) as entries:
        return any(entry.is_dir(follow_symlinks=False) for entry in entries)


def _synchronous(mode: str) -> None:
    set_care = sqlite.Database._set_care  # noqa: SLF001 - a mutant

    def careless(self: sqlite.Database, connection: sqlite3.Connection, *, wal: bool) -> None:
        set_care(self, connection, wal=wal)
        connection.execute(f"PRAGMA synchronous={mode}")

    _break(sqlite.Database, "_set_care", careless)


def _in_memory(blobs: Iterable[Staged]) -> list[Staged]:
    return [Staged(blob.cid, blob.size_bytes, data=staged.content(blob)) for blob in blobs]


def _small_ones_first() -> None:
    """The receipt and the index are there before the large files that they name."""
    put = FileStore.put

    def wrongly(self: FileStore, blobs: Sequence[Staged]) -> None:
        held = _in_memory(blobs)
        put(self, [blob for blob in held if blob.size_bytes <= SMALL_BYTES])
        put(self, [blob for blob in held if blob.size_bytes > SMALL_BYTES])

    _break(FileStore, "put", wrongly)


def _ledger_first() -> None:
    """The ledger says that it is true before the records are there."""
    put, settle = FileStore.put, Ledger.settle
    late: list[tuple[FileStore, list[Staged]]] = []

    def put_later(self: FileStore, blobs: Sequence[Staged]) -> None:
        held = _in_memory(blobs)
        if any(b'"output_cids"' in (blob.data or b"") for blob in held):  # a receipt, with all that it names
            late.append((self, held))
        else:
            put(self, held)

    def settle_now(self: Ledger, closing: Closing) -> None:
        settle(self, closing)
        while late:
            put(*late.pop())

    _break(FileStore, "put", put_later)
    _break(Ledger, "settle", settle_now)


MUTANTS: Mapping[str, Callable[[], None]] = {
    "no file sync": lambda: _sync_only(_is_folder),
    "no folder sync": lambda: _sync_only(lambda descriptor: not _is_folder(descriptor)),
    "no parent sync": lambda: _sync_only(
        lambda descriptor: not (_is_folder(descriptor) and _holds_folders(descriptor))
    ),
    "receipt first": _small_ones_first,
    "ledger first": _ledger_first,
    "synchronous=NORMAL": lambda: _synchronous("NORMAL"),
    "synchronous=OFF": lambda: _synchronous("OFF"),
}

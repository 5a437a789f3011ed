"""What only bad luck shows: answers lost at the wrong moment, another account, a full disk, half a file."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import tarfile
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import modal
import pytest

from adapter_modal.sandboxes import IMAGE, Sandboxes
from theory import errors
from theory.testing.channel import RecordingChannel
from theory_adapter_modal.account import APP
from theory_adapter_modal.account import client as client_of
from theory_adapter_modal.faults import is_broken
from theory_adapter_modal.patience import within
from theory_adapter_modal.sandbox import files, holding, life, orphans
from theory_adapter_modal.sandbox.birth import Work
from theory_adapter_modal.sandbox.marks import Mark, hold, left
from theory_adapter_modal.sandbox.orphans import account_of
from theory_adapter_modal.sandbox.streams import Ear

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from modal_emulator.handle import Handle
    from theory.types import Job

LOOKS = 3  # at a run's deadline, so that it would have been seen
WRITES = "open('/job/out/a.txt', 'w').write('a')"


@pytest.fixture
def sandboxes(emulator: Handle, tmp_path: Path) -> Sandboxes:
    assert emulator.environ
    return Sandboxes(tmp_path)


def work_of(channel: RecordingChannel) -> Work:
    """A run's work; its Modal is made of fakes."""
    job: Any = SimpleNamespace(execution_id="x")
    nothing: Any = None
    return Work(job, nothing, nothing, nothing, channel, SimpleNamespace(client=None, environment=None))  # type: ignore[arg-type]  # a fake


def marked(tmp_path: Path) -> Mark:
    mark = hold(tmp_path, "theory-x")
    assert mark is not None
    return mark


# ---------------------------------------------------------------- none is left, none is taken for another


def test_a_former_callers_sandbox_is_not_taken_for_the_new_one(
    emulator: Handle, sandboxes: Sandboxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sandboxes.job(WRITES)
    name = f"theory-{job.execution_id}"
    monkeypatch.setenv("MODAL_ENABLED", "True")
    former = modal.Sandbox.create(
        "sleep",
        "300",
        app=modal.App.lookup(APP, create_if_missing=True, client=client_of()),
        image=modal.Image.from_registry(IMAGE),
        name=name,
        client=client_of(),
    )
    mark = hold(tmp_path / "cache", name)
    assert mark is not None
    mark.write(None, account_of(None))
    mark.close()
    emulator.fault("SandboxGetFromNameV2", times=6)
    emulator.fault("SandboxCreateV2", times=6)
    ran = sandboxes.start(job).within(60.0)
    assert ran.outputs() == {"a.txt": b"a"}, str(ran)
    assert [one["alive"] for one in emulator.shown("sandboxes")] == [False, False]
    assert former.object_id in {one["id"] for one in emulator.shown("sandboxes")}


def test_a_sandbox_that_comes_while_none_is_found_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    class Late:
        @property
        def terminate(self) -> SimpleNamespace:
            async def end() -> None:
                ended.append("late")

            return SimpleNamespace(aio=end)

    async def leave() -> None:
        had = holding.Holding(work_of(RecordingChannel()), mark)
        creation: Any = asyncio.get_running_loop().create_future()
        had._creation = creation  # noqa: SLF001 - a moment within one step is seen here alone

        async def none_found(*_: object) -> bool:
            creation.set_result(Late())
            return False

        monkeypatch.setattr(holding, "end_by_name", none_found)
        monkeypatch.setattr(holding, "_END_SOON_S", 0.05)
        await had.end(soon=True)
        await had.let_go()

    mark = marked(tmp_path)
    mark.write(None, "me")
    asyncio.run(leave())
    assert (ended, mark.was_there) == (["late"], False)


def test_a_sandbox_that_was_not_ended_is_looked_for_by_the_next_try_of_the_same_run(tmp_path: Path) -> None:
    mark = hold(tmp_path, "a")
    assert mark is not None
    states = [mark.was_there]
    mark.write(None, "me")
    states.append(mark.was_there)
    mark.clear()
    states.append(mark.was_there)
    assert states == [False, True, False]
    mark.close()


# ---------------------------------------------------------------- what a command left, in its own time


class Passing(RecordingChannel):
    """Its deadline is over once a test says so; it tells when that would have been seen."""

    is_over = False
    looks = 0

    def __init__(self) -> None:
        super().__init__()
        self.seen = asyncio.Event()

    @property
    def deadline(self) -> float | None:
        return time.monotonic() - 1 if self.is_over else super().deadline

    def wait_cancelled(self, seconds: float) -> bool:
        self.looks += self.is_over
        if self.looks == LOOKS:
            self.seen.set()
        return super().wait_cancelled(seconds)


def test_outputs_that_take_longer_than_the_command_had_are_taken(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, collect = Passing(), files.collect

    async def slowly(sandbox: modal.Sandbox, job: Job, out: Path) -> None:
        channel.is_over = True
        await channel.seen.wait()
        await collect(sandbox, job, out)

    monkeypatch.setattr(files, "collect", slowly)
    ran = sandboxes.start(sandboxes.job(WRITES), channel).within(60.0)
    assert (ran.outcome.ended, ran.outputs()) == ("exit", {"a.txt": b"a"}), str(ran)


def test_outputs_that_never_come_end_the_run(
    emulator: Handle, sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.sleep(300)

    monkeypatch.setattr(files, "collect", never)
    monkeypatch.setattr(life, "_COLLECT_S", 1.0)
    with pytest.raises(errors.Retry, match=r"the outputs of .* did not come from Modal within 1 s"):
        sandboxes.run(WRITES)
    assert not [one for one in emulator.shown("sandboxes") if one["alive"]]


def test_work_that_is_late_is_told_from_work_that_says_so_itself() -> None:
    late = errors.Retry("too late")

    async def refuse() -> None:
        raise TimeoutError("its own")

    with pytest.raises(errors.Retry, match="too late"):
        asyncio.run(within(0.01, asyncio.sleep(300), late))
    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(within(300.0, refuse(), late))


# ---------------------------------------------------------------- the end of a log


async def _cut_then(tail: bytes, pause_s: float) -> AsyncIterator[bytes]:
    await asyncio.sleep(pause_s)
    yield tail


class CutOnce:
    """A stream whose connection breaks once, and whose rest takes its time."""

    def __init__(self, *, is_cut: bool, pause_s: float) -> None:
        self._is_cut, self._pause_s = is_cut, pause_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._is_cut:
            self._is_cut = False
            raise ConnectionResetError("cut")
        return _cut_then(b"last", self._pause_s)


@pytest.mark.parametrize(
    ("is_cut", "is_killed", "is_whole"),
    [(True, False, True), (False, True, True), (False, False, False)],
    ids=["its connection broke", "all of it was killed", "something holds it open"],
)
def test_the_end_of_a_log_is_waited_for_where_it_can_only_be_away(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_cut: bool,
    is_killed: bool,
    is_whole: bool,
) -> None:
    async def signalled(*_: object) -> bool:
        return is_killed

    monkeypatch.setattr(files, "signal_all", signalled)
    monkeypatch.setattr(life, "_LATE_S", 0.02)
    monkeypatch.setattr(life, "_SILENCE_S", 0.02)
    channel = RecordingChannel()

    async def hear() -> None:
        run = life._Run(work_of(channel), marked(tmp_path))  # noqa: SLF001 - as above
        run._holding._sandbox = cast("Any", object())  # noqa: SLF001 - as above
        ear = Ear(CutOnce(is_cut=is_cut, pause_s=0.5), "stdout", channel)
        run._ears = [ear]  # noqa: SLF001 - as above
        await run._heard()  # noqa: SLF001 - as above
        ear.task.cancel()

    asyncio.run(hear())
    assert channel.output("stdout") == (b"last" if is_whole else b"")
    assert (b"may be missing" in channel.output("stderr")) is not is_whole


# ---------------------------------------------------------------- archives, rates


def test_an_archive_that_tar_did_not_finish_is_no_success(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        folder = tarfile.TarInfo("out")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)

    async def stream() -> AsyncIterator[bytes]:
        yield b"\0" + archive.getvalue()

    def tool(answer: Callable[..., Awaitable[object]]) -> SimpleNamespace:
        return SimpleNamespace(aio=answer)

    def sandbox(status: int) -> modal.Sandbox:
        async def wait() -> int:
            return status

        async def start(*_: object, **__: object) -> SimpleNamespace:
            return SimpleNamespace(stdout=stream(), wait=tool(wait))

        return cast("modal.Sandbox", SimpleNamespace(exec=tool(start)))

    job = cast("Job", SimpleNamespace(execution_id="x"))
    asyncio.run(files.collect(sandbox(0), job, tmp_path))
    with pytest.raises(errors.Retry, match="did not arrive whole from Modal: tar ended with status 2"):
        asyncio.run(files.collect(sandbox(2), job, tmp_path))


def test_rates_that_nobody_understands_lose_no_run(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def odd(*_: object) -> dict[str, float]:
        raise TypeError("odd")

    monkeypatch.setattr(life, "known_rates", odd)
    ran = sandboxes.run(WRITES)
    assert (ran.outcome.ended, ran.outputs()) == ("exit", {"a.txt": b"a"}), str(ran)
    assert (ran.outcome.cost_micro_usd or 0) > 0


# ---------------------------------------------------------------- notes


@pytest.mark.parametrize("setting", ["MODAL_TOKEN_ID", "MODAL_SERVER_URL", "MODAL_ENVIRONMENT"])
def test_a_note_of_another_account_is_left_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    asked = []

    async def end(name: str, *_: object) -> bool:
        asked.append(name)
        return True

    def sweep() -> int:
        return asyncio.run(orphans.sweep(tmp_path, cast("modal.Client", None)))

    monkeypatch.setattr(orphans, "end_by_name", end)
    monkeypatch.setenv(setting, "http://one.invalid")
    for name, account in (("mine", account_of(None)), ("unknown", "")):
        mark = hold(tmp_path, name)
        assert mark is not None
        mark.write(None, account)
        mark.close()
    (tmp_path / "sandboxes" / "of-old").write_text('{"environment": "main"}')
    monkeypatch.setenv(setting, "http://two.invalid")
    assert (sweep(), asked) == (1, ["of-old"])
    monkeypatch.setenv(setting, "http://one.invalid")
    assert (sweep(), asked) == (1, ["of-old", "mine"])
    assert [name for name, _ in left(tmp_path)] == ["unknown"]


def test_a_note_that_cannot_be_kept_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.StoreFailed, match=r"the note of a sandbox cannot be kept at .*file"):
        hold(tmp_path / "file", "a")
    (tmp_path / "sandboxes" / "a").mkdir(parents=True)
    with pytest.raises(errors.StoreFailed, match="Is a directory"):
        hold(tmp_path, "a")
    assert list(left(tmp_path)) == []  # a run does not end for another one's note
    full = Mark(tmp_path / "b", os.open("/dev/full", os.O_RDWR), was_there=False)
    with pytest.raises(errors.StoreFailed, match=r"the note of a sandbox cannot be kept at .*b: "):
        full.write(None, "me")
    full.clear()
    full.close()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (socket.gaierror(-3, "temporary failure in name resolution"), True),
        (OSError(errno.ENETUNREACH, "unreachable"), True),
        (OSError("Multiple exceptions: [Errno 111] …, [Errno 101] …"), True),
        (OSError(errno.ENOLCK, "no locks"), False),
        (OSError(errno.EISDIR, "is a directory"), False),
        (OSError(errno.EIO, "input/output error"), False),
    ],
    ids=["name", "network", "several addresses", "lock", "folder", "disk"],
)
def test_only_a_connection_may_come_back(error: OSError, *, passes: bool) -> None:
    assert is_broken(error) is passes

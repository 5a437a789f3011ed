"""The corridor: one request, one envelope, one closing, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from core.bed import Call, Fake, document, done, good, house, read, write_entry
from theory import Failure, Outcome, Success, errors, hookimpl
from theory.cancel import Cancellation

if TYPE_CHECKING:
    from pathlib import Path

    from theory import Envelope


def failed(envelope: Envelope) -> Failure:
    assert isinstance(envelope, Failure), envelope
    return envelope


def test_a_run_answers_names_and_records_the_same_outputs(tmp_path: Path) -> None:
    with house(tmp_path, Fake({"b/c.json": "[1]", "a.txt": "x", "meta.json": '{"model":"m"}'})) as runner:
        envelope = good(runner.run("test/thing@1"))
        assert [output.path for output in envelope.outputs] == [
            "/artifacts/outputs/a.txt",
            "/artifacts/outputs/b/c.json",
            "/artifacts/outputs/meta.json",
        ]
        assert envelope.meta["model"] == "m"
        assert envelope.meta["memo"] == "miss"
        assert envelope.meta["env_fingerprint"] == "linux_x64_py311_test-thing"
        assert envelope.meta["duration_ms"] == 250
        index = document(runner, envelope.index_path)
        assert [entry["cid"] for entry in index["outputs"]] == [output.cid for output in envelope.outputs]
        assert read(runner, "/artifacts/outputs/a.txt") == b"x"
        record = runner.ledger.execution(envelope.execution_id)
        assert record is not None
        assert record.kind == "execution.success"
        assert runner.stored_envelope(envelope.execution_id) == envelope


def test_the_adapter_gets_the_checked_inputs_and_an_empty_out(tmp_path: Path) -> None:
    seen: list[Any] = []

    def act(call: Call) -> Outcome:
        seen.append((json.loads(call.workspace.inputs.read_bytes()), os.listdir(call.workspace.out)))
        call.channel.started()
        return done()

    write_entry(tmp_path / "entries", inputs={"type": "object", "properties": {"n": {"default": 3}}})
    with house(tmp_path, Fake(act=act)) as runner:
        good(runner.run("test/thing@1", {"m": 1}))
    assert seen == [({"m": 1, "n": 3}, [])]


@pytest.mark.parametrize("fault", ["a seed", "inputs"])
def test_a_request_that_is_refused_spends_and_records_nothing(tmp_path: Path, fault: str) -> None:
    fake = Fake()
    with house(tmp_path, fake) as runner:
        wrong: dict[str, dict[str, Any]] = {"a seed": {"seed": -1}, "inputs": {"inputs": "{"}}
        envelope = failed(runner.run("test/thing@1", **wrong[fault]))
        assert envelope.code == {"a seed": "ERR_USAGE", "inputs": "ERR_INPUTS"}[fault]
        assert envelope.exit_code == 2
        assert not fake.calls
        assert runner.ledger.execution(envelope.execution_id) is None


# ---------------------------------------------------------------- reservations


def plain_bug(_: Call) -> Outcome:
    raise ZeroDivisionError("by zero")


def known_error(_: Call) -> Outcome:
    raise errors.ImageBuildFailed("step 3 failed")


def wrong_type(_: Call) -> str:
    return "done"


def ends_the_process(_: Call) -> Outcome:
    raise SystemExit(3)


def fails(call: Call) -> Outcome:
    call.channel.started()
    return done(3)


def bug_after_start(call: Call) -> Outcome:
    call.channel.started()
    raise ZeroDivisionError("by zero")


def odd(**changes: Any) -> Any:
    def act(call: Call) -> Outcome:
        call.channel.started()
        return done(**changes)

    return act


ENDINGS = {
    "bug before the start": (plain_bug, "ERR_PLUGIN", 0),
    "error before the start": (known_error, "ERR_IMAGE_BUILD", 0),
    "wrong type before the start": (wrong_type, "ERR_PLUGIN", 0),
    "sys.exit before the start": (ends_the_process, "ERR_PLUGIN", 0),
    "bug after the start": (bug_after_start, "ERR_PLUGIN", 500),
    "exit status 3, the processor's cost unknown": (fails, "ERR_PROCESSOR", 500),
    "timeout": (odd(ended="timeout", exit_code=None, cost_micro_usd=None), "ERR_TIMEOUT", 500),
    "out of memory": (odd(ended="oom", exit_code=None), "ERR_OUT_OF_MEMORY", 500),
    "cancelled": (odd(ended="cancelled", exit_code=None), "ERR_INTERRUPTED", 500),
    "a negative cost": (odd(cost_micro_usd=-1), "ERR_PLUGIN", 500),
    "a fractional cost": (odd(cost_micro_usd=0.5), "ERR_PLUGIN", 500),
    "a start that is not a number": (odd(started_at=float("nan")), "ERR_PLUGIN", 500),
    "a start beyond every calendar": (odd(started_at=1e300), "ERR_PLUGIN", 500),
    "an infinite duration": (odd(duration_s=float("inf")), "ERR_PLUGIN", 500),
    "an unknown ending": (odd(ended="vanished"), "ERR_PLUGIN", 500),
    "an image by name": (odd(image="python:3.11"), "ERR_PLUGIN", 500),
    "an exit without a status": (odd(exit_code=None), "ERR_PLUGIN", 500),
}


def test_an_adapter_learns_whose_plan_pays(tmp_path: Path) -> None:
    fake = Fake()
    with house(tmp_path, fake) as runner:
        runner.ledger.create_plan("team-a", 10)
        good(runner.run("test/thing@1", plan="team-a"))
    assert [call.job.plan for call in fake.calls] == ["team-a"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_reservation_is_closed_once_however_the_adapter_ends(tmp_path: Path, ending: str) -> None:
    act, code, charged = ENDINGS[ending]
    write_entry(tmp_path / "entries", cost={"reserve_micro_usd": 500})
    with house(tmp_path, Fake(act=act)) as runner:
        envelope = failed(runner.run("test/thing@1"))
        assert envelope.code == code
        state = runner.ledger.plan("default")
        assert (state.reserved_micro_usd, state.spent_micro_usd) == (0, charged)
        kinds = [
            event.kind
            for event in runner.ledger.events("default")
            if event.execution_id == envelope.execution_id
        ]
        assert kinds == [
            "budget.reserve",
            "budget.settle" if charged else "budget.release",
            "execution.failure",
        ]
        assert envelope.meta["cost_micro_usd"] == charged
        assert envelope.meta.get("cost_estimated", False) is bool(charged)
        assert not runner.ledger.check_chain("default")
        assert runner.stored_envelope(envelope.execution_id) == envelope


def test_an_adapter_that_forgets_to_say_that_it_started_still_charges_what_it_cost(tmp_path: Path) -> None:
    with house(tmp_path, Fake(act=lambda _: done(1, cost_micro_usd=70))) as runner:
        failed(runner.run("test/thing@1", reserve_micro_usd=100))
        assert runner.ledger.plan("default").spent_micro_usd == 70
        assert runner.ledger.plan("default").reserved_micro_usd == 0


@pytest.mark.parametrize("started", [False, True], ids=["before the start", "after the start"])
def test_ctrl_c_closes_the_reservation_and_goes_on(tmp_path: Path, started: bool) -> None:
    def act(call: Call) -> Outcome:
        if started:
            call.channel.started()
        raise KeyboardInterrupt

    with house(tmp_path, Fake(act=act)) as runner:
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            runner.run("test/thing@1", reserve_micro_usd=100)
        state = runner.ledger.plan("default")
        assert (state.reserved_micro_usd, state.spent_micro_usd) == (0, 100 if started else 0)
        (record,) = runner.ledger.executions(limit=5)
        assert record.kind == "execution.failure"
        assert runner.run("test/thing@1", execution_id=record.execution_id).exit_code == 130


def test_costs_of_adapter_and_processor_add_up_and_are_known(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        call.write({"meta.json": '{"cost_micro_usd": 30}'})
        return done(cost_micro_usd=12)

    write_entry(tmp_path / "entries", cost={"reserve_micro_usd": 500})
    with house(tmp_path, Fake(act=act)) as runner:
        envelope = good(runner.run("test/thing@1"))
        assert envelope.meta["cost_micro_usd"] == 42
        assert "cost_estimated" not in envelope.meta
        assert runner.ledger.plan("default").spent_micro_usd == 42


def test_a_cost_beyond_what_the_ledger_can_hold_is_still_closed(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        call.write({"meta.json": json.dumps({"cost_micro_usd": 2**53 - 1})})
        return done(cost_micro_usd=2**53 - 1)

    with house(tmp_path, Fake(act=act)) as runner:
        assert good(runner.run("test/thing@1")).meta["cost_micro_usd"] == 2**53 - 1
        assert runner.ledger.plan("default").reserved_micro_usd == 0


def test_a_reservation_that_does_not_fit_is_refused_before_anything_runs(tmp_path: Path) -> None:
    fake = Fake()
    with house(tmp_path, fake) as runner:
        runner.ledger.create_plan("small", 10)
        envelope = failed(runner.run("test/thing@1", plan="small", reserve_micro_usd=11))
        assert (envelope.code, envelope.exit_code) == ("ERR_BUDGET", 4)
        assert not fake.calls
        assert runner.ledger.execution(envelope.execution_id) is None
        assert runner.ledger.plan("small").reserved_micro_usd == 0


# ---------------------------------------------------------------- cancellation


def test_a_run_that_is_cancelled_before_it_begins_starts_nothing(tmp_path: Path) -> None:
    fake, cancellation = Fake(), Cancellation()
    cancellation.set(signal.SIGTERM)
    with house(tmp_path, fake) as runner:
        envelope = failed(runner.run("test/thing@1", cancellation=cancellation))
        assert (envelope.code, envelope.exit_code) == ("ERR_INTERRUPTED", 143)
        assert not fake.calls


@pytest.mark.parametrize("how", ["thread", "signal handler"])
def test_a_cancellation_while_it_runs_reaches_the_adapter(tmp_path: Path, how: str) -> None:
    cancellation, running = Cancellation(), threading.Event()

    def act(call: Call) -> Outcome:
        call.channel.started()
        running.set()
        if how == "signal handler":
            signal.raise_signal(signal.SIGUSR1)
        assert call.channel.wait_cancelled(30)
        return done(None, ended="cancelled")

    def cancel() -> None:
        assert running.wait(30)
        cancellation.set(signal.SIGTERM)

    before = signal.signal(signal.SIGUSR1, lambda *_: cancellation.set(signal.SIGTERM))
    try:
        with house(tmp_path, Fake(act=act)) as runner, ThreadPoolExecutor() as pool:
            if how == "thread":
                pool.submit(cancel)
            envelope = failed(runner.run("test/thing@1", reserve_micro_usd=9, cancellation=cancellation))
            assert (envelope.code, envelope.exit_code) == ("ERR_INTERRUPTED", 143)
            assert runner.ledger.plan("default").reserved_micro_usd == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_cancellation_while_outputs_are_read_ends_the_run_with_that_signal(tmp_path: Path) -> None:
    cancellation = Cancellation()

    def act(call: Call) -> Outcome:
        call.channel.started()
        call.write({"a": b"x"})
        cancellation.set(signal.SIGTERM)
        return done()

    with house(tmp_path, Fake(act=act)) as runner:
        envelope = failed(runner.run("test/thing@1", cancellation=cancellation))
        assert (envelope.code, envelope.exit_code) == ("ERR_INTERRUPTED", 143)
        assert runner.ledger.name("/artifacts/outputs/a") is None


def test_a_cancellation_after_the_end_changes_nothing(tmp_path: Path) -> None:
    cancellation = Cancellation()
    with house(tmp_path) as runner:
        envelope = runner.run("test/thing@1", cancellation=cancellation)
        cancellation.set()
        assert (
            runner.run("test/thing@1", execution_id=envelope.execution_id, cancellation=cancellation)
            == envelope
        )


# ---------------------------------------------------------------- trying again


def test_a_closed_failure_is_answered_again_with_its_exit_status(tmp_path: Path) -> None:
    fake = Fake(act=odd(ended="timeout", exit_code=None))
    with house(tmp_path, fake) as runner:
        first = runner.run("test/thing@1")
        again = runner.run("test/thing@1", execution_id=first.execution_id)
        assert again == first
        assert again.exit_code == 124
        assert len(fake.calls) == 1


def test_an_envelope_too_large_for_the_ledger_comes_back_whole(tmp_path: Path) -> None:
    with house(tmp_path, Fake({f"{number:04}.txt": "x" for number in range(600)})) as runner:
        first = good(runner.run("test/thing@1"))
        record = runner.ledger.execution(first.execution_id)
        assert record is not None
        assert record.envelope is None
        assert runner.run("test/thing@1", execution_id=first.execution_id) == first


def test_an_execution_that_runs_in_this_process_is_busy_for_another_thread(tmp_path: Path) -> None:
    running, go_on = threading.Event(), threading.Event()

    def act(call: Call) -> Outcome:
        call.channel.started()
        running.set()
        assert go_on.wait(30)
        return done()

    id_ = "01890a5d-ac96-774b-bcce-b302099a8057"
    with house(tmp_path, Fake(act=act)) as runner, ThreadPoolExecutor() as pool:
        first = pool.submit(runner.run, "test/thing@1", execution_id=id_)
        assert running.wait(30)
        second = failed(runner.run("test/thing@1", execution_id=id_))
        go_on.set()
        assert (second.code, second.exit_code) == ("ERR_BUSY", 5)
        assert good(first.result()).execution_id == id_


# ---------------------------------------------------------------- what others break


def test_a_listener_that_fails_is_told_nothing_more_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[object] = []

    def listen(event: object) -> None:
        heard.append(event)
        raise ValueError("deaf")

    def act(call: Call) -> Outcome:
        call.channel.started()
        call.channel.write("stdout", b"one\ntwo\n")
        return done()

    with house(tmp_path, Fake(act=act)) as runner:
        good(runner.run("test/thing@1", listen=listen))
    assert len(heard) == 1
    assert "ValueError: deaf" in capsys.readouterr().err


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def finalize(self, envelope: Envelope) -> None:
        self.heard.append(envelope.execution_id)
        if len(self.heard) == 2:
            raise ValueError("broken")


def test_listeners_are_told_once_an_execution_and_cannot_change_the_verdict(tmp_path: Path) -> None:
    listener = Listener()
    events: list[Any] = []
    with house(tmp_path, plugins_listener=listener) as runner:
        first = good(runner.run("test/thing@1"))
        assert runner.run("test/thing@1", execution_id=first.execution_id) == first
        second = good(runner.run("test/thing@1", listen=events.append))
        failed(runner.run("test/thing@1", "{"))
    assert listener.heard == [first.execution_id, second.execution_id]
    assert [event["event"] for event in events] == ["warning"]


def test_our_own_bug_is_one_envelope_and_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bug(dict[str, str]):
        def items(self) -> NoReturn:
            raise TypeError("a bug")

    with house(tmp_path) as runner:
        envelope = failed(runner.run("test/thing@1", attachments=Bug(a="b")))
    assert (envelope.code, envelope.exit_code) == ("ERR_INTERNAL", 70)
    assert "TypeError" in capsys.readouterr().err


def test_an_edit_of_the_entry_while_it_runs_changes_no_record(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")
    (folder / "data.bin").write_bytes(b"as it was")

    def act(call: Call) -> Outcome:
        call.channel.started()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        return done()

    with house(tmp_path, Fake(act=act)) as runner:
        envelope = good(runner.run("test/thing@1"))
        record = runner.ledger.execution(envelope.execution_id)
        assert record is not None
        assert record.blobs["entry"] == document(runner, envelope.receipt_path)["processor_cid"]
        with runner.store.open(record.blobs["tree"]) as stream:
            listing = json.loads(stream.read())
        assert [path for path, _, _ in listing] == ["Dockerfile", "data.bin", "main.py"]
        assert len(runner.store.has([cid for _, cid, _ in listing])) == 3


def test_what_a_plugin_says_is_masked_and_cut_before_it_is_written_for_ever(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        raise ValueError(f"cannot log in with {call.secrets['API_KEY']} {'x' * 100_000}")

    write_entry(tmp_path / "entries", secrets=["API_KEY"])
    with house(tmp_path, Fake(act=act), environ={"API_KEY": "s3cr3t-value"}) as runner:
        envelope = failed(runner.run("test/thing@1"))
        assert "cannot log in with ***" in envelope.message
        assert len(envelope.message) <= 4096
        assert b"s3cr3t-value" not in (tmp_path / "home" / "ledger.db").read_bytes()


def test_the_folder_of_an_execution_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        (call.workspace.state / "remote.id").write_text("call-1")
        return done(1)

    with house(tmp_path, Fake(act=act)) as runner:
        failed(runner.run("test/thing@1"))
    assert os.listdir(tmp_path / "home" / "state") == []


# ---------------------------------------------------------------- many at once


def test_eight_threads_share_one_runner(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        call.write({"n.txt": str(call.job.inputs["n"])})
        return done(cost_micro_usd=1)

    with house(tmp_path, Fake(act=act)) as runner, ThreadPoolExecutor(8) as pool:
        prefix = "/artifacts/{execution_id}/"
        ran = list(pool.map(lambda n: runner.run("test/thing@1", {"n": n}, write_prefix=prefix), range(24)))
        for number, envelope in enumerate(ran):
            assert read(runner, good(envelope).outputs[0].path) == str(number).encode()
        state = runner.ledger.plan("default")
        assert (state.reserved_micro_usd, state.spent_micro_usd) == (0, 24)
        assert not runner.ledger.check_chain("default")


def _many(folder: Path, count: int) -> None:
    with house(folder) as runner:
        for number in range(count):
            good(runner.run("test/thing@1", {"n": number}, reserve_micro_usd=3))


def test_several_processes_share_one_home(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries")
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _many(tmp_path, 5)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    with house(tmp_path) as runner:
        assert len(runner.ledger.executions(limit=100)) == 15
        assert runner.ledger.plan("default").reserved_micro_usd == 0
        assert not runner.ledger.check_chain("default")


def test_the_time_of_waiting_is_not_the_processors(tmp_path: Path) -> None:
    began = time.time()
    with house(tmp_path) as runner:
        envelope = good(runner.run("test/thing@1"))
        record = runner.ledger.execution(envelope.execution_id)
    assert record is not None
    assert began <= record.started_at <= record.closed_at


def test_a_success_type_has_exit_status_0() -> None:
    assert Success("id", (), "i", "r").exit_code == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux: it lists open files")
def test_a_runner_that_is_closed_keeps_no_file_of_its_home_open(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries")
    with house(tmp_path, Fake()) as runner:
        good(runner.run("test/thing@1"))
    held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert not [path for path in held if path.startswith(str(tmp_path))]
    good(runner.run("test/thing@1"))
    runner.close()

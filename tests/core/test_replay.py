"""An execution again from its records alone, and which bytes are the same."""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.bed import Call, Fake, done, house, write_entry
from theory import Image, Runner, Success
from theory.cancel import Cancellation
from theory.errors import ArtifactNotFound, Damaged, Interrupted, MissingSecret, UnknownAdapter, Usage
from theory.ledger import Closing
from theory.plugins import Plugins
from theory.types import Failure
from theory.upkeep.replay import Compared, Replayer

REF = "test/thing@1"


def replayer(folder: Path, adapter: object, **more: Any) -> Replayer:
    """A house whose runs are replays."""
    of = house(folder, adapter, **more)
    environ = {"HOME": str(folder), **more.get("environ", {})}
    return Replayer(of.settings, plugins=of.plugins, environ=environ)


def echo(call: Call) -> object:
    """Outputs that tell all that a command sees of its entry, inputs and seed."""
    job = call.job
    call.channel.started()
    entry = {
        str(path.relative_to(job.processor.folder)): (path.read_text(), os.access(path, os.X_OK))
        for path in sorted(job.processor.folder.rglob("*"))
        if path.is_file()
    }
    sees = {"inputs": json.loads(call.workspace.inputs.read_bytes()), "seed": job.seed, "entry": entry}
    read = {a.path: (Path(f"{call.workspace.root}{a.path}")).read_text() for a in job.artifacts}
    call.write({"deep/er/sees.json": json.dumps([sees, read]), "meta.json": "{}"})
    return done()


def ran(runner: Runner, *arguments: Any, **more: Any) -> str:
    envelope = runner.run(REF, *arguments, **more)
    assert isinstance(envelope, Success), envelope
    return envelope.execution_id


@pytest.mark.parametrize("prefix", [None, "/artifacts/mine/{execution_id}/"])
def test_a_replay_needs_neither_the_registry_nor_the_inputs_any_more(
    tmp_path: Path, prefix: str | None
) -> None:
    folder = write_entry(tmp_path / "entries")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o755)
    (folder / "lib").mkdir()
    (folder / "lib" / "a.py").write_text("a = 1\n")
    file = tmp_path / "photo.txt"
    file.write_text("a photo")
    with replayer(tmp_path, Fake(act=echo)) as again:
        asked = {"file": {"$attach": "f"}, "words": ["é", 1]}
        id_ = ran(again, asked, attachments={"f": file}, seed=7, write_prefix=prefix)
        names = {name.path: name.cid for name in again.ledger.names("/artifacts/")}
        shutil.rmtree(tmp_path / "entries")
        file.unlink()
        (run,) = again.replay(again.original(id_))
        assert isinstance(run.envelope, Success)
        assert [(each.path, each.state) for each in run.outputs] == [
            ("deep/er/sees.json", "same"),
            ("meta.json", "same"),
        ]
        assert (run.is_same, run.changed) == (True, {})
        # An execution of its own, which takes no name away.
        record = again.ledger.execution(run.envelope.execution_id)
        assert record is not None
        assert (record.kind, run.envelope.meta["memo"]) == ("execution.success", "off")
        assert run.envelope.outputs[0].path == (
            f"/artifacts/replays/{run.envelope.execution_id}/deep/er/sees.json"
        )
        after = {name.path: name.cid for name in again.ledger.names("/artifacts/")}
        assert names.items() <= after.items()
        assert os.listdir(tmp_path / "home" / "state") == []


def test_an_entry_that_was_changed_since_is_replayed_as_it_was(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")
    with replayer(tmp_path, Fake(act=echo)) as again:
        id_ = ran(again)
        (folder / "main.py").write_text("print('changed')\n")
        write_entry(tmp_path / "entries", description="Something else", command=["sh"])
        (run,) = again.replay(again.original(id_))
        assert run.is_same
        # … and a run after it asks the registry again.
        other = again.run(REF)
        assert isinstance(other, Success)
        assert other.outputs[0].cid != run.envelope.outputs[0].cid  # type: ignore[union-attr]  # it is a success


def test_outputs_that_differ_are_told_one_by_one(tmp_path: Path) -> None:
    numbers = itertools.count()

    def act(call: Call) -> object:
        number = next(numbers)
        call.channel.started()
        call.write({"same.txt": "s", "drifts.txt": str(number), f"only-{number}.txt": "x"})
        return done()

    with replayer(tmp_path, Fake(act=act)) as again:
        original = again.original(ran(again))
        runs = again.replay(original, runs=2)
    assert [run.is_same for run in runs] == [False, False]
    assert [(each.path, each.state) for each in runs[0].outputs] == [
        ("drifts.txt", "differs"),
        ("only-0.txt", "missing"),
        ("only-1.txt", "new"),
        ("same.txt", "same"),
    ]
    drifts = runs[0].outputs[0]
    assert isinstance(runs[0].envelope, Success)
    now = {output.path.rpartition("/")[2]: output.cid for output in runs[0].envelope.outputs}
    assert (drifts.then, drifts.now) == (original.outputs["drifts.txt"], now["drifts.txt"])
    assert Compared("x", None, None).state == "same"


@pytest.mark.parametrize("prefix", ["/artifacts/mine/", "/artifacts/outputs/"])
def test_outputs_are_compared_below_the_prefix_that_each_run_had(tmp_path: Path, prefix: str) -> None:
    with replayer(tmp_path, Fake({"deep/er/a.txt": "a", "deep/er/b.txt": "b"})) as again:
        id_ = ran(again, write_prefix=prefix)
        (run,) = again.replay(again.original(id_))
        assert [each.path for each in run.outputs] == ["deep/er/a.txt", "deep/er/b.txt"]
        assert run.is_same


def test_an_execution_that_an_older_theory_closed_is_replayed_too(tmp_path: Path) -> None:
    """It did not record its write prefix; the default one, or else the common folder, is taken for it."""
    with replayer(tmp_path, Fake({"deep/a.txt": "a", "b.txt": "b"})) as again:
        for number, prefix in enumerate((None, "/artifacts/mine/")):
            id_ = ran(again, memo="off", write_prefix=prefix)
            record = again.ledger.execution(id_)
            assert record is not None
            assert record.write_prefix == (prefix or "/artifacts/outputs/")
            old = Closing(
                execution_id=f"old-{number}",
                plan=record.plan,
                ref=record.ref,
                adapter=record.adapter,
                kind="execution.success",
                actual_micro_usd=0,
                envelope=record.envelope or {},
                names=(),
                memo_key=record.memo_key,
                started_at=0.0,
                blobs=record.blobs,
            )
            again.ledger.settle(old)
            (run,) = again.replay(again.original(old.execution_id))
            assert [(each.path, each.state) for each in run.outputs] == [
                ("b.txt", "same"),
                ("deep/a.txt", "same"),
            ]


def test_each_run_of_a_replay_costs_its_own_plan_and_none_uses_the_memo(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", cost={"reserve_micro_usd": 50})
    fake = Fake(act=lambda call: echo(call) and done(cost_micro_usd=20))
    with replayer(tmp_path, fake) as again:
        id_ = ran(again, plan="theirs", reserve_micro_usd=50)
        ran(again, plan="theirs")  # a hit
        original = again.original(id_)
        again.replay(original, runs=3, plan="mine")
        again.replay(original)
        spent = {plan.key: plan.events for plan in again.ledger.plans()}
    assert len(fake.calls) == 5
    assert set(spent) == {"theirs", "mine", "default"}
    assert spent["mine"] == 1 + 3 * 3  # made; reserved, settled and closed, three times


def test_a_hit_is_replayed_for_real(tmp_path: Path) -> None:
    fake = Fake(act=echo)
    with replayer(tmp_path, fake) as again:
        ran(again)
        hit = ran(again)
        (run,) = again.replay(again.original(hit))
        assert (run.is_same, len(fake.calls)) == (True, 2)


def test_another_image_is_told(tmp_path: Path) -> None:
    with replayer(tmp_path, Fake(act=echo)) as again:
        id_ = ran(again)
    changed = Fake(act=echo, image=Image("fake:2", None, "linux/amd64", "3.12"))
    with replayer(tmp_path, changed) as again:
        (run,) = again.replay(again.original(id_))
    assert run.is_same
    assert run.changed == {
        "image_id": ("fake:1", "fake:2"),
        "env_fingerprint": ("linux_x64_py311_test-thing", "linux_x64_py312_test-thing"),
    }


def test_a_run_that_fails_ends_the_replay(tmp_path: Path) -> None:
    fake = Fake(act=echo)
    with replayer(tmp_path, fake) as again:
        original = again.original(ran(again))
        fake.act = lambda _: done(3)
        (run,) = again.replay(original, runs=5)
    assert isinstance(run.envelope, Failure)
    assert (run.is_same, run.document()["status"], run.envelope.exit_code) == (False, "error", 1)


def test_the_adapter_that_it_had_has_to_be_here(tmp_path: Path) -> None:
    with replayer(tmp_path, Fake(act=echo)) as again:
        id_ = ran(again)
    of = house(tmp_path)
    with Replayer(of.settings, plugins=Plugins(named={"theory.adapters:other": Fake(act=echo)})) as again:
        with pytest.raises(UnknownAdapter, match="no adapter 'fake' is installed"):
            again.replay(again.original(id_))
        (run,) = again.replay(again.original(id_), adapter="other")
    assert (run.is_same, run.changed) == (True, {"adapter": ("fake", "other")})


def test_the_secrets_that_it_had_have_to_be_here(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", secrets={"optional": ["API_KEY"]})
    with replayer(tmp_path, Fake(act=echo), environ={"API_KEY": "canary-1234"}) as again:
        id_ = ran(again)
        assert again.replay(again.original(id_))[0].is_same
    with (
        replayer(tmp_path, Fake(act=echo)) as again,
        pytest.raises(MissingSecret, match=f"execution {id_} had the secret API_KEY, which is not here now"),
    ):
        again.replay(again.original(id_))


def test_what_has_no_receipt_is_not_replayed(tmp_path: Path) -> None:
    with replayer(tmp_path, Fake(act=lambda _: done(1))) as again:
        id_ = again.run(REF).execution_id
        with pytest.raises(Usage, match=f"execution {id_} failed, so it has no receipt"):
            again.original(id_)
        with pytest.raises(ArtifactNotFound, match="no execution is called 'nothing'"):
            again.original("nothing")


@pytest.mark.parametrize("role", ["entry", "tree", "inputs", "preimage", "receipt"])
def test_a_record_that_is_gone_is_named(tmp_path: Path, role: str) -> None:
    with replayer(tmp_path, Fake(act=echo)) as again:
        id_ = ran(again)
        record = again.ledger.execution(id_)
        assert record is not None
        again.store.delete([record.blobs[role]])
        with pytest.raises(ArtifactNotFound, match=record.blobs[role]):
            again.replay(again.original(id_))
        assert os.listdir(tmp_path / "home" / "state") == []


def test_records_that_do_not_belong_together_are_damage(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")
    with replayer(tmp_path, Fake(act=echo)) as again:
        first = again.original(ran(again))
        (folder / "main.py").write_text("print('changed')\n")
        second = again.original(ran(again))
        mixed = type(first)(first.record, second.receipt, first.inputs, first.secrets, first.outputs)
        with pytest.raises(Damaged, match="are not the entry that its receipt names"):
            again.replay(mixed)


def test_a_replay_that_is_cancelled_stops_between_two_runs(tmp_path: Path) -> None:
    cancellation = Cancellation()
    fake = Fake(act=echo)
    with replayer(tmp_path, fake) as again:
        original = again.original(ran(again))
        cancellation.set(15)
        with pytest.raises(Interrupted, match="cancelled between two runs"):
            again.replay(original, runs=2, cancellation=cancellation)
        assert len(fake.calls) == 1

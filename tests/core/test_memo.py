"""Work that was done is not done again, unless something about it is not as it was."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import Call, Fake, done, good, house, read, write_entry
from theory import Failure, Image
from theory.store import blobs
from theory.store.memo import recall, record_of, remembers, sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory import Outcome, Runner


class Counting(Fake):
    """Each run writes how often it ran."""

    def __init__(self, **more: Any) -> None:
        super().__init__(act=self.count, **more)

    def count(self, call: Call) -> Outcome:
        call.channel.started()
        call.write({"n.txt": str(len(self.calls)), "meta.json": '{"model": "m"}'})
        return done(cost_micro_usd=3)


def test_what_was_built_first_is_remembered_under_the_image_that_it_became(tmp_path: Path) -> None:
    built = Image("build:1", "sha256:" + "a" * 64, "linux/arm64", "3.12")

    class Building(Counting):
        def count(self, call: Call) -> Outcome:
            image = None if self.image == built else built
            self.image = built  # it is known from now on
            return dataclasses.replace(super().count(call), image=image)

    write_entry(tmp_path / "entries", determinism="pure")
    fake = Building(image=Image("unknown:1", None, "linux/amd64"))
    with house(tmp_path, fake) as runner:
        first = good(runner.run("test/thing@1"))
        second = good(runner.run("test/thing@1"))
        receipts = [json.loads(read(runner, envelope.receipt_path)) for envelope in (first, second)]
        records = [runner.ledger.execution(envelope.execution_id) for envelope in (first, second)]
        assert (second.meta["memo"], len(fake.calls)) == ("hit", 1)
        assert first.meta["env_fingerprint"] == "linux_arm64_py312_test-thing"
        assert receipts[0]["image_id"] == "build:1"
        assert receipts[0]["memo_key"] == receipts[1]["memo_key"]
        (preimage,) = {record.blobs["preimage"] for record in records if record is not None}
        with blobs.read_verified(runner.store, preimage) as stream:
            assert json.load(stream)["image_id"] == "build:1"


def test_a_run_whose_image_is_its_own_is_remembered_for_nobody(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", determinism="pure")
    with house(tmp_path, Counting(image=Image("once:1", None, "linux/amd64"))) as runner:
        good(runner.run("test/thing@1"))
        assert list(runner.store.memo_list()) == []


@pytest.mark.parametrize(
    ("determinism", "policy", "remembered"),
    [
        ("pure", "auto", True),
        ("seeded", "auto", True),
        ("nondeterministic", "auto", False),
        ("nondeterministic", "on", True),
        ("nondeterministic", "refresh", True),
        ("pure", "off", False),
        ("pure", "on", True),
    ],
)
def test_what_is_remembered_is_said_by_the_entry_and_the_caller(
    tmp_path: Path, determinism: str, policy: Any, remembered: bool
) -> None:
    write_entry(tmp_path / "entries", determinism=determinism)
    fake = Counting()
    with house(tmp_path, fake) as runner:
        envelope = good(runner.run("test/thing@1", memo=policy))
        assert envelope.meta["memo"] == ("miss" if remembered else "off")
        assert remembers(fake.calls[0].job.processor, policy) is remembered
        again = good(runner.run("test/thing@1", memo=policy))
        assert len(fake.calls) == (1 if remembered and policy != "refresh" else 2)
        assert again.meta["memo"] == ("off" if not remembered else "miss" if policy == "refresh" else "hit")


def test_a_hit_is_free_keeps_the_scalars_and_gets_names_of_its_own(tmp_path: Path) -> None:
    with house(tmp_path, Counting()) as runner:
        first = good(runner.run("test/thing@1"))
        hit = good(runner.run("test/thing@1", write_prefix="/artifacts/mine/", plan="other"))
        assert hit.meta["model"] == "m"
        assert (first.meta["cost_micro_usd"], hit.meta["cost_micro_usd"]) == (3, 0)
        assert hit.execution_id != first.execution_id
        assert hit.index_path != first.index_path
        assert [o.path for o in hit.outputs] == ["/artifacts/mine/n.txt", "/artifacts/mine/meta.json"]
        assert runner.ledger.name("/artifacts/mine/n.txt") is not None
        assert runner.ledger.plan("other").spent_micro_usd == 0


def test_refresh_runs_and_what_it_made_serves_from_then_on(tmp_path: Path) -> None:
    with house(tmp_path, Counting()) as runner:
        first = good(runner.run("test/thing@1"))
        second = good(runner.run("test/thing@1", memo="refresh"))
        third = good(runner.run("test/thing@1"))
        assert first.outputs[0].cid != second.outputs[0].cid == third.outputs[0].cid


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    def act(call: Call) -> Outcome:
        call.channel.started()
        return done(1)

    fake = Fake(act=act)
    with house(tmp_path, fake) as runner:
        for _ in range(2):
            assert isinstance(runner.run("test/thing@1"), Failure)
        assert len(fake.calls) == 2
        assert list(runner.store.memo_list()) == []


@pytest.mark.parametrize(
    "change",
    [{"inputs": {"n": 1}}, {"seed": 1}],
    ids=["inputs", "seed"],
)
def test_other_work_is_other_work(tmp_path: Path, change: dict[str, Any]) -> None:
    fake = Counting()
    with house(tmp_path, fake) as runner:
        runner.run("test/thing@1")
        runner.run("test/thing@1", **change)
        assert len(fake.calls) == 2


@pytest.mark.parametrize(
    "change", [{"timeout": 7.0}, {"plan": "p"}, {"write_prefix": "/artifacts/x/"}], ids=str
)
def test_what_cannot_change_a_result_changes_no_key(tmp_path: Path, change: dict[str, Any]) -> None:
    fake = Counting()
    with house(tmp_path, fake) as runner:
        runner.run("test/thing@1")
        runner.run("test/thing@1", **change)
        assert len(fake.calls) == 1


def test_what_pretends_never_serves_a_real_run_nor_the_other_way_round(tmp_path: Path) -> None:
    real, pretending = Counting(), Counting(pretends=True)
    with house(tmp_path, pretending) as runner:
        good(runner.run("test/thing@1"))
    with house(tmp_path, real) as runner:
        good(runner.run("test/thing@1"))
    assert (len(real.calls), len(pretending.calls)) == (1, 1)
    assert real.calls[0].job.memo_key != pretending.calls[0].job.memo_key


# ---------------------------------------------------------------- damage


GREETING = b"hello" * 20_000  # too large for the store's database


def gone(runner: Runner, cid: str) -> None:
    runner.store.delete([cid])


def changed(runner: Runner, cid: str, content: bytes) -> None:
    """Put other bytes in the place of a blob, in its file or in its row."""
    root, digits = Path(runner.settings.home, "store"), cid.removeprefix("b3:")
    file = root / "blobs" / "b3" / digits[:2] / digits
    if file.exists():
        file.chmod(0o644)
        file.write_bytes(content)
        return
    with closing(sqlite3.connect(root / "small.db", isolation_level=None)) as raw:
        rows = raw.execute("UPDATE blobs SET data = ? WHERE name = ?", (content, bytes.fromhex(digits)))
        assert rows.rowcount == 1


def flipped(runner: Runner, cid: str) -> None:
    changed(runner, cid, b"9")


def cut(runner: Runner, cid: str) -> None:
    changed(runner, cid, b"")


@pytest.mark.parametrize("content", [b"hello\n", GREETING], ids=["small", "large"])
@pytest.mark.parametrize("damage", [gone, flipped, cut], ids=lambda damage: damage.__name__)
def test_a_blob_that_is_gone_or_damaged_is_a_miss_and_the_run_heals_it(
    tmp_path: Path, damage: Callable[[Runner, str], None], content: bytes
) -> None:
    write_entry(tmp_path / "entries")
    fake = Fake(files={"a.txt": content})
    with house(tmp_path, fake) as runner:
        first = good(runner.run("test/thing@1"))
        damage(runner, first.outputs[0].cid)
        second = good(runner.run("test/thing@1"))
        assert second.meta["memo"] == "miss"
        with runner.open(first.outputs[0]) as stream:
            is_whole = stream.read() == content
        assert is_whole
        assert good(runner.run("test/thing@1")).meta["memo"] == "hit"
        assert len(fake.calls) == 2


def edited(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    """A record that is whole, and says what no run says."""

    def edit(data: bytes) -> bytes:
        document = json.loads(data)
        del document["check"]
        change(document)
        return sealed(document)

    return edit


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "no JSON": lambda data: data[:-3],
    "another cost": lambda data: data.replace(b'"cost_micro_usd":0', b'"cost_micro_usd":1'),
    "no check": lambda data: b"{" + data.partition(b",")[2],
    "not UTF-8": lambda _: b"\xff",
    "another form": lambda _: b"[]",
    "deep": lambda _: b"[" * 100_000,
    "a list of texts": edited(lambda d: d.update(outputs=["x"])),
    "a key is missing": edited(lambda d: d.pop("platform")),
    "of another key": edited(lambda d: d.update(memo_key="b3:" + "0" * 64)),
    "a wrong size": edited(lambda d: d["outputs"][0].update(size_bytes=7)),
    "a path that leaves": edited(lambda d: d["outputs"][0].update(path="../../execution/x")),
    "a path that is no text": edited(lambda d: d["outputs"][0].update(path=7)),
    "a cid that is none": edited(lambda d: d["outputs"][0].update(cid="b3:xyz")),
    "a cid that is no text": edited(lambda d: d["outputs"][0].update(cid=None)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_record_that_no_run_could_have_made_is_a_miss_and_is_written_anew(tmp_path: Path, how: str) -> None:
    fake = Fake()
    with house(tmp_path, fake) as runner:
        good(runner.run("test/thing@1"))
        key = fake.calls[0].job.memo_key
        whole = runner.store.memo_get(key)
        assert whole is not None
        runner.store.memo_set(key, BROKEN[how](whole))
        assert recall(runner.store, key, "/artifacts/outputs/") is None
        assert good(runner.run("test/thing@1")).meta["memo"] == "miss"
        assert good(runner.run("test/thing@1")).meta["memo"] == "hit"


def test_every_bit_of_a_record_is_checked(tmp_path: Path) -> None:
    fake = Counting()
    with house(tmp_path, fake) as runner:
        good(runner.run("test/thing@1"))
        whole = runner.store.memo_get(fake.calls[0].job.memo_key)
    assert whole is not None
    assert record_of(whole).meta == {"model": "m"}
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"not what was written|of another form"):
            record_of(bytes(damaged))


def test_a_prefix_that_makes_a_path_too_long_is_refused_as_it_would_be_without_a_memo(tmp_path: Path) -> None:
    long = "/artifacts/" + "/".join(["x" * 250] * 4) + "/"
    with house(tmp_path, Fake({"a" * 100: "x"})) as runner:
        good(runner.run("test/thing@1"))
        envelope = runner.run("test/thing@1", write_prefix=long)
        assert isinstance(envelope, Failure)
        assert envelope.code == "ERR_OUTPUT_PATH"


def test_the_result_of_an_entry_that_changed_while_it_ran_is_not_remembered(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")

    def edit(call: Call) -> Any:
        (folder / "part.py").write_text("new")
        call.write({"a.txt": "x"})
        return done()

    events: list[Any] = []
    with house(tmp_path, Fake(act=edit)) as runner:
        good(runner.run("test/thing@1", listen=events.append))
        (folder / "part.py").unlink()
        assert good(runner.run("test/thing@1")).meta["memo"] == "miss"
    assert any("was changed during the run" in event.get("message", "") for event in events)

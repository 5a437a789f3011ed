"""What is kept is complete, in an order that never lists what is missing."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import Fake, document, good, house, write_entry
from theory import Failure, Image, cid_of
from theory.rooms import keep
from theory.store import blobs

if TYPE_CHECKING:
    from pathlib import Path

RECEIPT = {
    *("execution_id", "ref", "seed", "memo_key", "env_fingerprint", "output_cids", "processor_cid"),
    *("tree_cid", "inputs_cid", "image_id", "image_digest", "adapter", "platform"),
    *("started_at", "finished_at", "source_execution_id"),
}


class Watching:
    """A store that notes the order of what is put into it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.puts: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, staged: Any) -> None:
        self.puts.append([blob.cid for blob in staged])
        self._store.put(staged)


def watched(runner: Any) -> Watching:
    store = runner._store = Watching(runner.store)  # noqa: SLF001 - no URL names a store in memory
    return store


def test_the_receipt_says_what_the_design_says(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")
    image = Image("build:1", "sha256:" + "a" * 64, "linux/arm64", "3.12")
    with house(tmp_path, Fake(image=image)) as runner:
        envelope = good(runner.run("test/thing@1", {"n": 1}, seed=7))
        receipt = document(runner, envelope.receipt_path)
        record = runner.ledger.execution(envelope.execution_id)
        assert record is not None
    assert receipt.keys() == RECEIPT
    assert receipt["seed"] == 7
    assert receipt["ref"] == "test/thing@1"
    assert receipt["processor_cid"] == cid_of((folder / "processor.yaml").read_bytes())
    assert receipt["inputs_cid"] == cid_of(b'{"n":1}')
    assert (receipt["image_id"], receipt["platform"]) == ("build:1", "linux/arm64")
    assert receipt["env_fingerprint"] == "linux_arm64_py312_test-thing"
    assert receipt["source_execution_id"] is None
    began, ended = (
        datetime.fromisoformat(receipt[key].replace("Z", "+00:00")) for key in ("started_at", "finished_at")
    )
    assert (ended - began).total_seconds() == pytest.approx(0.25, abs=0.002)
    assert record.blobs.keys() == {"entry", "tree", "inputs", "preimage", "receipt", "index"}
    assert record.memo_key == receipt["memo_key"]


def test_the_index_is_put_last_and_what_it_lists_before_it(tmp_path: Path) -> None:
    with house(tmp_path, Fake({"a": "1", "b": "2"})) as runner:
        store = watched(runner)
        envelope = good(runner.run("test/thing@1"))
        index = runner.ledger.name(envelope.index_path)
        assert index is not None
    order = [cid for put in store.puts for cid in put]
    assert order[-1] == index.cid
    assert {output.cid for output in envelope.outputs} <= set(order[:-1])


def test_the_files_of_a_tree_are_durable_before_its_listing_and_put_once(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries")
    with house(tmp_path, Fake()) as runner:
        store = watched(runner)
        envelope = good(runner.run("test/thing@1"))
        record = runner.ledger.execution(envelope.execution_id)
        assert record is not None
        with runner.store.open(record.blobs["tree"]) as stream:
            listing = json.loads(stream.read())
        files = {cid for _, cid, _ in listing}
        assert [path for path, _, _ in listing] == ["Dockerfile", "main.py"]
        assert set(store.puts[0]) == files
        store.puts.clear()
        good(runner.run("test/thing@1", {"n": 2}))
        assert not files & {cid for put in store.puts for cid in put}


def test_a_failure_keeps_what_explains_it(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", outputs={"required": ["none"]})
    with house(tmp_path) as runner:
        envelope = runner.run("test/thing@1")
        assert isinstance(envelope, Failure)
        record = runner.ledger.execution(envelope.execution_id)
        assert record is not None
        assert record.blobs.keys() == {"entry", "tree", "inputs", "preimage"}
        assert runner.store.has(record.blobs.values()) == set(record.blobs.values())


@pytest.mark.parametrize("name", ["main.py", "processor.yaml"])
def test_an_entry_that_changes_between_reading_and_running_is_tried_again(tmp_path: Path, name: str) -> None:
    folder = write_entry(tmp_path / "entries")

    adapter = Fake()
    with house(tmp_path, adapter) as runner:
        plain = runner.sources[0].resolve

        def edit(ref: Any) -> Any:
            found = plain(ref)
            with (folder / name).open("a") as file:
                file.write("\n")
            return found

        import dataclasses

        source = dataclasses.replace(runner.sources[0], resolve=edit)
        runner._sources = (source,)  # noqa: SLF001 - an edit at just this moment
        envelope = runner.run("test/thing@1")
        assert isinstance(envelope, Failure)
        assert (envelope.code, envelope.exit_code) == ("ERR_RETRY", 75)
        assert not adapter.calls


def test_a_file_that_changes_between_its_hash_and_its_copy_is_tried_again(tmp_path: Path) -> None:
    folder = write_entry(tmp_path / "entries")
    with house(tmp_path, Fake()) as runner:
        store: Any = watched(runner)
        before = store.has

        def edit(cids: Any) -> Any:  # the question whether the listing is there comes between the two
            (folder / "main.py").write_text("another")
            return before(cids)

        store.has = edit
        envelope = runner.run("test/thing@1")
        assert isinstance(envelope, Failure)
        assert (envelope.code, envelope.exit_code) == ("ERR_RETRY", 75)


def test_records_that_another_process_left_are_put_once_more_before_they_are_relied_on(
    tmp_path: Path,
) -> None:
    """They may be there and not durable; what this process kept in another store says nothing of this one."""
    with house(tmp_path / "one", Fake()) as runner:
        record = runner.ledger.execution(good(runner.run("test/thing@1")).execution_id)
        assert record is not None
    with house(tmp_path / "two", Fake()) as runner:
        store: Any = watched(runner)
        store.has = frozenset  # all is there
        for _ in range(2):
            good(runner.run("test/thing@1"))
    put = [cid for cids in store.puts for cid in cids]
    assert [put.count(record.blobs[role]) for role in ("entry", "tree")] == [1, 1]


@pytest.mark.parametrize("knows", [True, False], ids=["this process put it", "another process put it"])
def test_a_listing_does_not_say_that_its_files_are_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """For gc takes what nothing needs, and that may be a file of a listing that somebody has put since."""
    with house(tmp_path) as runner:
        first = good(runner.run("test/thing@1"))
        record = runner.ledger.execution(first.execution_id)
        assert record is not None
        with blobs.read_verified(runner.store, record.blobs["tree"]) as stream:
            files = [cid for _, cid, _ in json.load(stream)]
        runner.store.delete(files[:1])
        if not knows:
            monkeypatch.setattr(keep, "_listings", {})
        good(runner.run("test/thing@1", seed=1))
        assert runner.store.has([record.blobs["tree"], *files]) == {record.blobs["tree"], *files}

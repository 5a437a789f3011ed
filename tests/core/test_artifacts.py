"""Attachments and references become durable blobs and files that a processor can read and cannot change."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path  # noqa: TC003 - pluggy may read the annotations of a hook
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import EVERYTHING, Call, Fake, done, good, house, write_entry
from theory import AdapterInfo, Failure, Outcome, cid_of, hookimpl
from theory.cancel import Cancellation
from theory.errors import Interrupted, Retry
from theory.rooms.artifacts import lay_out, materialize
from theory.rooms.inputs import Attachment, Inputs
from theory.store.filestore import FileStore
from theory.types import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory import Capability, Runner


NO_ISOLATION = AdapterInfo("runs as you", frozenset({"process"}))


class Reading(Fake):
    """Remembers every input file: path below the workspace, content, mode, number of names."""

    def __init__(self, offers: frozenset[Capability] = EVERYTHING) -> None:
        super().__init__(act=self.look, offers=offers)
        self.inputs: list[Any] = []
        self.seen: list[dict[str, tuple[bytes, int, int]]] = []

    def look(self, call: Call) -> Outcome:
        call.channel.started()
        root = call.workspace.root
        self.inputs.append(json.loads(call.workspace.inputs.read_bytes()))
        self.seen.append(
            {
                f"/{file.relative_to(root)}": (
                    file.read_bytes(),
                    stat.S_IMODE(file.stat().st_mode),
                    file.stat().st_nlink,
                )
                for file in (root / "artifacts").rglob("*")
                if file.is_file()
            }
        )
        return done()


def attach(runner: Runner, source: str | Path, **more: Any) -> Any:
    return runner.run("test/thing@1", {"f": {"$attach": "f"}}, attachments={"f": source}, **more)


def refused(runner: Runner, source: str | Path, **more: Any) -> Failure:
    envelope = attach(runner, source, **more)
    assert isinstance(envelope, Failure), envelope
    return envelope


@pytest.mark.parametrize(
    "content", [b"", b"photo", b"x" * 3_000_000], ids=["0 bytes", "small", "several blocks"]
)
def test_an_attachment_is_a_read_only_copy_at_its_world_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    adapter = Reading(NO_ISOLATION.offers)
    with house(tmp_path, adapter) as runner:
        good(attach(runner, tmp_path / "photo.jpg"))
        path = f"/artifacts/inputs/{cid_of(content)}/photo.jpg"
        assert adapter.inputs == [{"f": {"$artifact": path, "cid": cid_of(content), "mime": "image/jpeg"}}]
        assert adapter.seen == [{path: (content, 0o444, 1)}]
        assert runner.ledger.name(path) is not None


def test_what_is_isolated_reads_the_stores_own_bytes_of_a_large_file(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
    (tmp_path / "small.bin").write_bytes(b"small")
    adapter = Reading()
    with house(tmp_path, adapter) as runner:
        good(attach(runner, tmp_path / "large.bin"))
        good(attach(runner, tmp_path / "small.bin"))
    ((large,), (small,)) = (seen.values() for seen in adapter.seen)
    assert large == (bytes(3_000_000), 0o444, 2)
    assert small == (b"small", 0o444, 1)


def test_a_processor_that_edits_its_input_changes_no_blob(tmp_path: Path) -> None:
    content = "as it was" * 100_000
    (tmp_path / "in.txt").write_text(content)

    def act(call: Call) -> Outcome:
        call.channel.started()
        file = call.workspace.root / call.job.artifacts[0].path.lstrip("/")
        file.chmod(0o644)
        file.write_text("changed!!")
        return done()

    with house(tmp_path, Fake(act=act, offers=NO_ISOLATION.offers)) as runner:
        good(attach(runner, tmp_path / "in.txt"))
        with runner.store.open(cid_of(content.encode())) as stream:
            assert stream.read() == content.encode()


def test_two_attachments_of_one_content_are_one_blob_and_two_files_where_names_differ(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("same")
    adapter = Reading()
    with house(tmp_path, adapter) as runner:
        inputs: Any = {
            "all": [{"$attach": "one"}, {"$attach": "two"}, {"$attach": "three"}, {"$attach": "one"}]
        }
        sources = {"one": tmp_path / "a.txt", "two": tmp_path / "b.txt", "three": tmp_path / "a.txt"}
        good(runner.run("test/thing@1", inputs, attachments=sources))
        cid = cid_of(b"same")
        assert sorted(adapter.seen[0]) == [
            f"/artifacts/inputs/{cid}/a.txt",
            f"/artifacts/inputs/{cid}/b.txt",
        ]


def test_a_missing_attachment_is_named_exactly(tmp_path: Path) -> None:
    with house(tmp_path) as runner:
        envelope = refused(runner, "./missing.jpg")
        assert (envelope.code, envelope.message) == (
            "ERR_ATTACHMENT_NOT_FOUND",
            "Attachment file not found: ./missing.jpg",
        )
        assert envelope.exit_code == 2


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with house(tmp_path) as runner:
        assert "is a directory" in refused(runner, tmp_path / "folder").message
        assert "is a device" in refused(runner, "/dev/zero").message
        assert "cannot be read" in refused(runner, tmp_path / "loop").message
        assert "not found" in refused(runner, "a\0b").message or "control" in refused(runner, "a\0b").message
        assert os.listdir(runner.store.staging) == []


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("runs as root, whom no permission stops")
    (tmp_path / "secret").touch(mode=0)
    with house(tmp_path) as runner:
        assert "Permission denied" in refused(runner, tmp_path / "secret").message


def test_a_named_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def feed() -> None:
        with (tmp_path / "pipe").open("wb") as stream:
            for _ in range(3):
                stream.write(b"x" * 100_000)

    feeding = threading.Thread(target=feed)
    feeding.start()
    adapter = Reading()
    with house(tmp_path, adapter) as runner:
        good(attach(runner, tmp_path / "pipe"))
    feeding.join()
    assert [len(content) for content, _, _ in adapter.seen[0].values()] == [300_000]


@pytest.mark.parametrize("writer", [False, True], ids=["nobody writes", "a writer that says nothing"])
def test_a_pipe_that_stays_empty_can_be_cancelled(tmp_path: Path, writer: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR) if writer else -1
    cancellation = Cancellation()
    timer = threading.Timer(0.05, cancellation.set, [15])
    timer.start()
    began = time.monotonic()
    try:
        with house(tmp_path) as runner:
            envelope = refused(runner, tmp_path / "pipe", cancellation=cancellation)
    finally:
        if writer:
            os.close(held)
    assert (envelope.code, envelope.exit_code) == ("ERR_INTERRUPTED", 143)
    assert time.monotonic() - began < 5


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def cut(path: Path) -> None:
    os.truncate(path, 3)


@pytest.mark.parametrize("change", [appended, overwritten, cut])
@pytest.mark.parametrize("size", [5, 100_000, 20_000_000], ids=["small", "several blocks", "large"])
def test_an_attachment_that_is_changed_while_it_is_read_is_for_another_time(
    tmp_path: Path, change: Callable[[Path], None], size: int
) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * size)
    os.utime(path, (0, 0))
    store = FileStore(tmp_path / "store")
    _ = store.staging
    asked: list[None] = []

    def cancelled() -> bool:
        if not asked:
            change(path)
        asked.append(None)
        return False

    unasked: Any = None  # the processor's schema comes later
    inputs = Inputs({}, (Attachment("f", str(path), "log.txt"),), (), unasked, {})
    with pytest.raises(Retry, match=r"Attachment .*/log.txt was changed while it was read") as caught:
        materialize(inputs, store, fetch=lambda *_: None, lookup=lambda _: None, cancelled=cancelled)
    assert "nothing writes to this file" in caught.value.hint
    assert asked
    assert os.listdir(store.staging) == []
    assert list(store.list()) == []


def test_laying_out_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(bytes(5_000_000))
    calls: list[Call] = []

    def act(call: Call) -> Outcome:
        call.channel.started()
        calls.append(call)
        return done()

    with house(tmp_path, Fake(act=act)) as runner:
        good(attach(runner, tmp_path / "in.bin"))
        (call,) = calls
        workspace = Workspace(tmp_path / "work", tmp_path / "state", tmp_path / "cache")
        workspace.root.mkdir()
        answers = iter([False, False, True])
        with pytest.raises(Interrupted, match="cancelled after"):
            lay_out(call.job, workspace, runner.store, NO_ISOLATION, cancelled=lambda: next(answers))
        assert [file for file in workspace.root.rglob("*") if file.is_file()] == [workspace.inputs]


def test_standard_input_is_called_as_the_attachment(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from stdin")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    adapter = Reading()
    try:
        with house(tmp_path, adapter) as runner:
            good(attach(runner, "-"))
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)
    assert [(path.rpartition("/")[2], content) for path, (content, _, _) in adapter.seen[0].items()] == [
        ("f", b"from stdin")
    ]


class Fetcher:
    """Knows the scheme test:, and fails for what it does not have."""

    @hookimpl
    def materialize(self, uri: str, dest: Path) -> Path | None:
        if not uri.startswith("test://"):
            return None
        if uri.endswith("gone"):
            return dest
        dest.write_text(f"bytes of {uri}")
        return dest


def test_a_uri_is_fetched_by_the_plugin_that_knows_its_scheme(tmp_path: Path) -> None:
    adapter = Reading()
    with house(tmp_path, adapter, plugins_fetcher=Fetcher()) as runner:
        good(attach(runner, "test://host/data.csv"))
        assert [c for c, _, _ in adapter.seen[0].values()] == [b"bytes of test://host/data.csv"]
        assert "no plugin fetches ftp://host/data.csv" in refused(runner, "ftp://host/data.csv").message
        assert refused(runner, "test://host/gone").code == "ERR_ATTACHMENT_NOT_FOUND"
        assert os.listdir(runner.store.staging) == []


def test_a_uri_gives_away_neither_its_user_nor_its_query(tmp_path: Path) -> None:
    adapter = Reading()
    secret = "hunter2-token"  # noqa: S105 - the test looks for it
    with house(tmp_path, adapter, plugins_fetcher=Fetcher()) as runner:
        envelope = attach(runner, f"test://me:{secret}@host/data.csv?token={secret}#{secret}")
        shown = refused(runner, f"ftp://me:{secret}@host/data.csv?token={secret}")
    (path,) = adapter.seen[0]
    assert path.endswith("/data.csv")
    assert shown.message == "no plugin fetches ftp://host/data.csv"
    assert secret not in path + str(envelope)


# ---------------------------------------------------------------- references


def refer(runner: Runner, path: str, **more: Any) -> Any:
    return runner.run("test/thing@1", {"f": {"$artifact": path, **more}})


def test_an_artifact_is_found_by_its_name_and_pinned_by_its_cid(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries")
    with house(tmp_path) as runner:
        made = good(runner.run("test/thing@1")).outputs[0]
    adapter = Reading()
    with house(tmp_path, adapter) as runner:
        good(refer(runner, made.path))
        path = f"/artifacts/inputs/{made.cid}/a.txt"
        assert adapter.inputs == [{"f": {"$artifact": path, "cid": made.cid, "mime": "text/plain"}}]
        assert adapter.seen == [{path: (b"hello\n", 0o444, 1)}]
        assert good(refer(runner, made.path, cid=made.cid)).meta["memo"] == "hit"
        wrong = refer(runner, made.path, cid="b3:" + "1" * 64)
        assert (wrong.code, "is b3:" in wrong.message) == ("ERR_INPUTS", True)
        missing = refer(runner, "/artifacts/outputs/none.txt")
        assert (missing.code, missing.message) == (
            "ERR_ARTIFACT_NOT_FOUND",
            "no artifact is called /artifacts/outputs/none.txt",
        )


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_an_artifact_whose_bytes_are_not_whole_is_not_run_on(tmp_path: Path, how: str) -> None:
    adapter = Fake(files={"a.bin": b"x" * 100_000})  # too large for the store's database
    with house(tmp_path, adapter) as runner:
        made = good(runner.run("test/thing@1")).outputs[0]
        if how == "gone":
            runner.store.delete([made.cid])
        else:
            digits = made.cid.removeprefix("b3:")
            blob = tmp_path / "home" / "store" / "blobs" / "b3" / digits[:2] / digits
            blob.chmod(0o644)
            blob.write_bytes(b"X" * 100_000)
        envelope = refer(runner, made.path)
        assert (envelope.code, envelope.exit_code) == (
            ("ERR_ARTIFACT_NOT_FOUND", 2) if how == "gone" else ("ERR_INTEGRITY", 3)
        )
        assert len(adapter.calls) == 1
        assert runner.ledger.plan("default").reserved_micro_usd == 0


def test_an_adapter_that_pretends_gets_the_inputs_and_no_files(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x")
    seen: list[list[str]] = []

    def act(call: Call) -> Outcome:
        call.channel.started()
        seen.append(sorted(os.listdir(call.workspace.root)))
        return done()

    with house(tmp_path, Fake(act=act, pretends=True)) as runner:
        good(attach(runner, tmp_path / "in.txt"))
    assert seen == [["inputs.json", "out"]]

"""Only regular files leave, under names that mean one thing everywhere; meta.json is bounded."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import Call, Fake, done, house, write_entry
from theory import Failure, Success
from theory.entries.registry import FolderRegistry
from theory.errors import BadOutputPath, BadOutputs, DuplicateOutput, OutputLimit, Retry, StoreFailed
from theory.rooms import collect, outputs
from theory.rooms.redact import Redactor
from theory.store.filestore import FileStore
from theory.types import Ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory import Processor


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "out"
    folder.mkdir(parents=True)
    return folder


def processor(tmp_path: Path, **fields: Any) -> Processor:
    write_entry(tmp_path / "entries", **fields)
    found = FolderRegistry(tmp_path / "entries").resolve_ref(Ref("test", "thing", 1))
    assert found is not None
    return found


def check(
    out: Path,
    *,
    schema: Any = None,
    secrets: tuple[str, ...] = (),
    found: Processor | None = None,
    store: FileStore | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> outputs.Outputs:
    base = out.parent.parent
    fields = {} if schema is None else {"outputs": schema}
    return outputs.check_outputs(
        found or processor(base, **fields),
        out,
        "/artifacts/outputs/",
        store or FileStore(base / "store"),
        Redactor(secrets),
        cancelled=cancelled,
    )


def staged_files(out: Path) -> list[str]:
    folder = out.parent.parent / "store" / "tmp"
    return os.listdir(folder) if folder.exists() else []


def test_outputs_are_listed_by_path_with_a_top_level_meta_last(out: Path) -> None:
    (out / "z").mkdir()
    for name in ("z/meta.json", "meta.json", "b.txt", "zz", "é"):
        (out / name).write_text("{}")
    found = check(out)
    assert [a.path.removeprefix("/artifacts/outputs/") for a in found.artifacts] == [
        "b.txt",
        "z/meta.json",
        "zz",
        "é",
        "meta.json",
    ]
    assert [blob.cid for blob in found.staged] == [a.cid for a in found.artifacts]


def test_empty_folders_are_no_outputs(out: Path) -> None:
    (out / "a" / "b").mkdir(parents=True)
    assert check(out).artifacts == ()


def link(out: Path) -> None:
    (out / "a").symlink_to("/etc/hostname")


def dangling_link(out: Path) -> None:
    (out / "a").symlink_to("nowhere")


def link_to_folder(out: Path) -> None:
    (out / "a").symlink_to("/etc")


def pipe(out: Path) -> None:
    os.mkfifo(out / "a")


def unix_socket(out: Path) -> None:
    here = Path.cwd()
    os.chdir(out)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("a")
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (link, "a link"),
        (dangling_link, "a link"),
        (link_to_folder, "a link"),
        (pipe, "a pipe"),
        (unix_socket, "a socket"),
    ],
    ids=["link", "dangling link", "link to a folder", "pipe", "socket"],
)
def test_what_is_no_regular_file_is_refused_by_name(
    out: Path, make: Callable[[Path], None], kind: str
) -> None:
    (out / "0").write_bytes(bytes(100_000))  # staged before, in a file
    make(out)
    with pytest.raises(BadOutputPath, match=rf"^the output 'a' is {kind}$"):
        check(out)
    assert staged_files(out) == []


def test_a_device_is_refused(out: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs Linux and the right to make devices")
    try:
        os.mknod(out / "a", 0o020600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("needs Linux and the right to make devices")
    with pytest.raises(BadOutputPath, match="'a' is a device"):
        check(out)


@pytest.mark.parametrize("instead", ["link", "file", "nothing"])
def test_an_out_that_is_no_folder_of_its_own_is_refused(out: Path, instead: str) -> None:
    out.rmdir()
    if instead == "link":
        out.symlink_to("/etc")
    elif instead == "file":
        out.write_text("x")
    with pytest.raises(BadOutputPath, match="the folder for outputs was replaced or removed"):
        check(out)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (b"\xff.txt", "not UTF-8"),
        ("e\u0301".encode(), "normal form C"),
        (b"two\nlines", "control"),
        ("a\u202eb".encode(), "direction-changing"),
        (b"a\\b", "backslash"),
        (b"a%2fb", "percent"),
    ],
    ids=["undecodable", "NFD", "newline", "bidi", "backslash", "percent"],
)
def test_a_name_that_no_artifact_may_have_is_refused(out: Path, name: bytes, fault: str) -> None:
    Path(os.fsdecode(os.fsencode(out) + b"/" + name)).write_text("x")
    with pytest.raises(BadOutputPath, match=fault):
        check(out)


@pytest.mark.parametrize(
    ("one", "other"),
    [("A.txt", "a.txt"), ("ß", "ss"), ("ﬁle", "file"), ("dir/x", "DIR"), ("D/x/y", "d/X")],
    ids=["case", "sharp s", "ligature", "folder and file", "deep folder and file"],
)
def test_names_that_are_one_on_some_system_are_refused(out: Path, one: str, other: str) -> None:
    for name in (one, other):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    if len([*out.rglob("*")]) < 2:
        pytest.skip("the file system folds case")
    with pytest.raises(DuplicateOutput, match="on some systems"):
        check(out)


def test_folders_too_deep_are_refused_without_walking_on(out: Path) -> None:
    here = os.open(out, os.O_RDONLY)
    for _ in range(1200):  # deeper than a path may be long
        os.mkdir("dddd", dir_fd=here)
        below = os.open("dddd", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(OutputLimit, match="deeper than 32 folders"):
        check(out)
    from theory.disk.removal import remove

    remove(out)
    assert not out.exists()


def test_32_folders_are_deep_enough_for_everybody(out: Path) -> None:
    folder = out.joinpath(*["d"] * 32)
    folder.mkdir(parents=True)
    (folder / "a").write_text("x")
    assert len(check(out).artifacts) == 1


def test_too_many_files_are_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MAX_FILES", 3)
    for number in range(4):
        (out / str(number)).write_text("x")
    with pytest.raises(OutputLimit, match="more than 3 files"):
        check(out)


def test_a_sparse_file_of_a_tebibyte_is_refused_before_it_is_read(out: Path) -> None:
    with (out / "a").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OutputLimit, match=r"64 GiB with 'a', which has 1,099,511,627,776 bytes"):
        check(out)
    assert staged_files(out) == []


def test_a_file_swapped_for_a_link_after_it_was_listed_is_not_followed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "a").write_text("x")
    names_checked = outputs._check_names  # noqa: SLF001 - a swap at just this moment

    def swap(names: list[str], prefix: str, redactor: Redactor) -> None:
        names_checked(names, prefix, redactor)
        (out / "a").unlink()
        (out / "a").symlink_to("/etc/hostname")

    monkeypatch.setattr(outputs, "_check_names", swap)
    with pytest.raises(BadOutputPath, match="'a' was replaced or removed while"):
        check(out)


def test_a_folder_swapped_for_a_link_after_it_was_listed_is_not_followed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "d").mkdir()
    (out / "d" / "hostname").write_text("x")
    names_checked = outputs._check_names  # noqa: SLF001 - a swap at just this moment

    def swap(names: list[str], prefix: str, redactor: Redactor) -> None:
        names_checked(names, prefix, redactor)
        (out / "d").rename(out.parent / "moved")
        (out / "d").symlink_to("/etc")

    monkeypatch.setattr(outputs, "_check_names", swap)
    with pytest.raises(BadOutputPath, match="'d/hostname' was replaced or removed while"):
        check(out)


def test_a_file_that_grows_while_it_is_collected_is_refused(out: Path) -> None:
    (out / "a").write_text("x" * 3_000_000)

    def grow() -> bool:
        with (out / "a").open("ab") as file:
            file.write(b"more")
        return False

    with pytest.raises(BadOutputPath, match="'a' was changed while it was collected"):
        check(out, cancelled=grow)
    assert staged_files(out) == []


def test_too_many_open_files_are_no_fault_of_the_processor(out: Path) -> None:
    import resource

    (out / "d").mkdir()
    (out / "d" / "a").write_text("x")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    found, store = processor(out.parent.parent), FileStore(out.parent.parent / "store")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 40, limits[1]))
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for _ in range(3):  # each has one more to spend than the one before
            with pytest.raises(Retry, match="Too many open files") as caught:
                check(out, found=found, store=store)
            assert "ulimit -n" in caught.value.hint
            os.close(taken.pop())
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_disk_that_refuses_is_no_fault_of_the_processor(
    out: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    (out / "a.txt").write_text("x")
    monkeypatch.setattr(os, "readv", failing)
    with pytest.raises(StoreFailed, match=rf"^the output 'a.txt' cannot be read: {os.strerror(number)}$"):
        check(out)


def test_a_name_with_the_value_of_a_secret_is_refused_and_not_shown(out: Path) -> None:
    (out / "b-hunter2-token.txt").write_text("x")
    with pytest.raises(BadOutputPath, match=r"^the name of an output has the value of a secret in it$"):
        check(out, secrets=("hunter2-token",))
    assert staged_files(out) == []


@pytest.mark.parametrize(
    "content", [b"it is s3cr3t-value.", b"czNjcjN0LXZhbHVl", b"%73%33cr3t-value"], ids=str
)
def test_an_output_that_has_the_value_of_a_secret_is_kept_and_warned_of(out: Path, content: bytes) -> None:
    (out / "a.bin").write_bytes(content)
    (out / "b.bin").write_bytes(b"s3cr3t")
    found = check(out, secrets=("s3cr3t-value",))
    assert found.warnings == ("the output 'a.bin' has the value of a secret in it",)
    assert found.staged[0].data == content


def test_an_output_too_large_to_be_read_whole_is_not_looked_through(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theory.rooms.outputs.MAX_PARSED_BYTES", 20)
    monkeypatch.setattr("theory.rooms.outputs.MAX_PARSED_SUM_BYTES", 30)
    for name, size in (("a", 21), ("b", 20), ("c", 20)):
        (out / name).write_bytes(b"s3cr3t-value".ljust(size))
    assert check(out, secrets=("s3cr3t-value",)).warnings == (
        "the output 'b' has the value of a secret in it",
    )


def test_a_hard_link_leaves_as_a_copy(out: Path) -> None:
    outside = out.parent / "outside.txt"
    outside.write_text("before")
    os.link(outside, out / "a.txt")
    found = check(out)
    outside.write_text("after!")
    assert found.staged[0].data == b"before"


def test_a_file_without_permissions_is_refused_by_name(out: Path) -> None:
    (out / "a").write_text("x")
    (out / "a").chmod(0)
    if os.geteuid() == 0:
        assert len(check(out).artifacts) == 1
        return
    with pytest.raises(BadOutputPath, match="'a' cannot be read: Permission denied"):
        check(out)


# ---------------------------------------------------------------- the outputs document


def test_json_is_judged_by_its_content_and_all_else_by_mime_and_size(out: Path) -> None:
    (out / "a.json").write_text('{"n": 1}')
    (out / "b.txt").write_text("four")
    schema = {
        "type": "object",
        "properties": {
            "a.json": {"const": {"n": 1}},
            "b.txt": {"const": {"mime": "text/plain", "size_bytes": 4}},
        },
        "required": ["a.json", "b.txt"],
        "additionalProperties": False,
    }
    assert len(check(out, schema=schema).artifacts) == 2
    (out / "c").write_text("too much")
    with pytest.raises(BadOutputs, match=r"the outputs of test/thing@1 at /"):
        check(out, schema=schema)
    assert staged_files(out) == []
    (out / "c").unlink()
    (out / "a.json").write_text('{"n": 2}')
    with pytest.raises(BadOutputs, match=r"at /a.json"):
        check(out, schema=schema)


def test_json_larger_than_the_limit_is_judged_by_mime_and_size(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_PARSED_BYTES", 10)
    (out / "a.json").write_text("[1,2,3,4,5,6,7")  # no JSON, and nobody asks
    schema = {"properties": {"a.json": {"const": {"mime": "application/json", "size_bytes": 14}}}}
    assert len(check(out, schema=schema).artifacts) == 1


def test_json_beyond_16_mib_in_sum_is_judged_by_mime_and_size_in_the_order_of_names(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_PARSED_SUM_BYTES", 10)
    for name in ("d.json", "c.json", "b.json", "a.json", "meta.json"):
        (out / name).write_text('"abc"' if name != "meta.json" else '{"model": "m"}')
    (out / "c.json").write_text("[1,2")  # no JSON, and nobody asks
    (out / "d.json").write_text("")
    schema = {
        "properties": {
            "a.json": {"const": "abc"},
            "b.json": {"const": "abc"},
            "c.json": {"const": {"mime": "application/json", "size_bytes": 4}},
            "meta.json": {"const": {"model": "m"}},
        },
    }
    with pytest.raises(BadOutputs, match=r"the output 'd.json' is not JSON"):
        check(out, schema=schema)  # nothing is beyond what is left for it
    (out / "d.json").unlink()
    assert check(out, schema=schema).meta == {"model": "m"}


@pytest.mark.parametrize("text", ["{", "NaN", '{"a":1,"a":2}', '"\\ud800"', "[" * 70 + "]" * 70])
def test_what_is_called_json_and_is_not_is_refused(out: Path, text: str) -> None:
    (out / "a.json").write_text(text)
    with pytest.raises(BadOutputs, match=r"the output 'a.json' is not JSON"):
        check(out)


# ---------------------------------------------------------------- meta.json


def meta(out: Path, value: object, *, secrets: tuple[str, ...] = ()) -> outputs.Outputs:
    (out / "meta.json").write_text(json.dumps(value))
    return check(out, secrets=secrets)


def test_scalars_of_meta_join_the_envelope_and_the_rest_stays_in_the_file(out: Path) -> None:
    found = meta(out, {"s": "x", "i": 2**53 - 1, "f": 0.5, "b": True, "n": None, "list": [], "dict": {}})
    assert found.meta == {"s": "x", "i": 2**53 - 1, "f": 0.5, "b": True, "n": None}
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["image_digest", "memo", "adapter", "exit_code", "cost_estimated"])
def test_cores_own_names_win_with_a_warning(out: Path, name: str) -> None:
    found = meta(out, {name: "mine"})
    assert found.meta == {}
    assert found.warnings == (
        f"{name} in meta.json is a name of core's own and was left out of the envelope",
    )


def test_meta_is_bounded_in_number_and_length(out: Path) -> None:
    found = meta(out, {f"k{number:03}": number for number in range(5000)})
    assert len(found.meta) == 32
    assert found.warnings == ("meta.json has more than 32 scalars; the rest was left out of the envelope",)
    found = meta(out, {"long": "x" * 1025, "just": "x" * 1024, "n" * 1025: 1, "huge": 2**53})
    assert list(found.meta) == ["just"]
    assert len(found.warnings) == 3


def test_meta_is_masked_in_names_texts_and_numbers(out: Path) -> None:
    found = meta(out, {"my s3cr3t": "s3cr3t!", "n": 123456}, secrets=("s3cr3t", "123456"))
    assert found.meta == {"my ***": "***!", "n": "***"}


@pytest.mark.parametrize("value", [[], "x", 1, True], ids=str)
def test_a_meta_that_is_no_object_is_refused(out: Path, value: object) -> None:
    with pytest.raises(BadOutputs, match=r"meta.json is not a JSON object"):
        meta(out, value)


def test_a_meta_that_is_null_is_no_object_either(out: Path) -> None:
    with pytest.raises(BadOutputs, match=r"meta.json is not a JSON object"):
        meta(out, None)


def test_a_meta_too_large_to_read_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_PARSED_BYTES", 10)
    with pytest.raises(BadOutputs, match=r"meta.json is larger than"):
        meta(out, {"k": "x" * 20})


@pytest.mark.parametrize("cost", [-1, 0.5, "7", True, 2**53], ids=str)
def test_a_cost_that_is_no_amount_is_refused(out: Path, cost: object) -> None:
    with pytest.raises(BadOutputs, match=r"cost_micro_usd in meta.json is not an integer between"):
        meta(out, {"cost_micro_usd": cost})


def test_a_cost_is_told_apart_from_meta(out: Path) -> None:
    found = meta(out, {"cost_micro_usd": 7})
    assert (found.cost_micro_usd, found.meta) == (7, {})


def test_an_integer_that_has_no_canonical_form_breaks_no_run(tmp_path: Path) -> None:
    def act(call: Call) -> object:
        call.channel.started()
        call.write({"meta.json": '{"n": 9007199254740993, "m": 1}', "big.json": "[9007199254740993]"})
        return done()

    heard: list[Any] = []
    with house(tmp_path, Fake(act=act)) as runner:
        envelope = runner.run("test/thing@1", listen=heard.append)
    assert isinstance(envelope, Success), envelope
    assert "n" not in envelope.meta
    assert [event["event"] for event in heard] == ["warning"]


def test_outputs_that_break_the_schema_are_a_failure_that_names_nothing(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", outputs={"type": "object", "required": ["b.txt"]})
    with house(tmp_path) as runner:
        envelope = runner.run("test/thing@1")
        assert isinstance(envelope, Failure)
        assert (envelope.code, envelope.exit_code) == ("ERR_OUTPUTS", 1)
        assert "b.txt" in envelope.message
        assert list(runner.ledger.names("/")) == []
        assert os.listdir(runner.store.staging) == []


def test_folders_are_limited_as_files_are(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MAX_FILES", 5)
    for number in range(6):
        (out / str(number)).mkdir()
    with pytest.raises(OutputLimit, match="in more than 5 folders"):
        check(out)

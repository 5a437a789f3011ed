"""A job's files get into its container and back, whichever way, and nothing else of ours is touched."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from adapter_local.staging import Bed, answer, bed, created, run
from theory import cid_of
from theory.errors import Retry, StoreFailed
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.files.archives import Copies
from theory_adapter_local.files.binds import Binds
from theory_adapter_local.files.probe import Sight, sight_of
from theory_adapter_local.files.ways import NOBODY, person_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory_adapter_local.engine.client import Engine

PHOTO = "/artifacts/inputs/b3:00/photo.jpg"
BOTH = pytest.mark.parametrize("keep", [False, True], ids=["mounted", "copied"])
IS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def image(engine: Engine, base_image: str) -> str:
    return str(engine.call("GET", f"/images/{base_image}/json")["Id"])


@pytest.fixture
def one(engine: Engine, image: str, tmp_path: Path) -> Bed:
    return bed(engine, image, tmp_path, {PHOTO: b"blob"})


def collected(one: Bed, script: str, **options: Any) -> tuple[str, dict[str, str] | str]:
    """What a script says, and what core makes of what it leaves."""
    files = one.files(**options)
    try:
        with created(one.engine, one.ready.id, files, script) as container:
            said = run(one.engine, container)
            files.collect(container)
        return said, answer(one.job.processor, one.workspace.out, one.workspace.cache / "store")
    finally:
        files.close()


@BOTH
def test_inputs_can_be_read_and_outputs_come_back(one: Bed, *, keep: bool) -> None:
    """What is kept is copied, because the container stays longer than the workspace."""
    assert isinstance(one.files(keep=keep).way, Copies if keep else Binds)
    said, left = collected(
        one, f"cat /job/inputs.json {PHOTO}; mkdir /job/out/a; echo hi > /job/out/a/b", keep=keep
    )
    assert said == '{"n":1}blob'
    assert left == {"a/b": cid_of(b"hi\n")}


@pytest.mark.parametrize(
    ("user", "keep"),
    [(None, False), (None, True), ("0:0", False), ("image", True), ("nobody", False), ("7:8", False)],
    ids=["mounted", "copied", "root", "the image's root", "a name", "somebody"],
)
def test_no_user_inside_can_change_what_is_only_to_be_read(
    one: Bed, tmp_path: Path, user: str | None, *, keep: bool
) -> None:
    """Not even by a second name in out; and the outputs belong to the caller in the end."""
    blob = tmp_path / "blobs" / cid_of(b"blob")
    before = blob.stat()
    said, left = collected(
        one,
        f"""
        exec 2>/dev/null
        echo x > {PHOTO} || echo no; chmod 777 {PHOTO} || echo no; rm -f {PHOTO} || echo no
        echo x > /job/inputs.json || echo no; chmod 777 /job/inputs.json || echo no
        ln {PHOTO} /job/out/l || echo no; ln /job/inputs.json /job/out/l || echo no
        mv /job/out /job/o || echo no; rmdir /job/out || echo no; umount /job/out || echo no
        id -u > /job/out/id; cat {PHOTO}
        """,
        user=user,
        keep=keep,
    )
    assert said.split() == ["no"] * 10 + ["blob"]
    uid = {None: "65534" if IS_ROOT else str(os.geteuid()), "7:8": "7", "nobody": "65534"}.get(user, "0")
    assert left == {"id": cid_of(f"{uid}\n".encode())}
    after = blob.stat()
    assert blob.read_bytes() == b"blob"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_what_is_mounted_costs_no_copy_and_the_blob_keeps_its_mode(one: Bed, tmp_path: Path) -> None:
    files = one.files()
    assert isinstance(files.way, Binds)
    link = one.workspace.root / PHOTO.lstrip("/")
    assert link.stat().st_nlink == 2
    assert (tmp_path / "blobs" / cid_of(b"blob")).stat().st_mode & 0o777 == 0o444
    files.close()
    assert not link.exists(), "a workspace that is hard to remove has its modes changed"


@BOTH
def test_inputs_can_be_read_whatever_the_umask(
    engine: Engine, image: str, tmp_path: Path, *, keep: bool
) -> None:
    old = os.umask(0o077)
    try:
        said, _ = collected(
            bed(engine, image, tmp_path, {PHOTO: b"blob"}), f"cat /job/inputs.json {PHOTO}", keep=keep
        )
    finally:
        os.umask(old)
    assert said == '{"n":1}blob'


@BOTH
def test_what_a_command_closes_is_collected_too(one: Bed, *, keep: bool) -> None:
    _, left = collected(
        one, "cd /job/out; mkdir d; echo x > d/f; echo y > g; chmod 0 d/f g d; chmod 0 .", keep=keep
    )
    assert left == {"d/f": cid_of(b"x\n"), "g": cid_of(b"y\n")}


OWN = (os.geteuid(), os.getegid())
DEFAULT = NOBODY if IS_ROOT else OWN


@pytest.mark.parametrize(
    ("sight", "asked", "expected"),
    [
        (Sight(binds=True, rootless=False), None, ("%d:%d" % DEFAULT, DEFAULT, DEFAULT)),  # noqa: UP031 - a pair
        (Sight(binds=True, rootless=True), None, ("0:0", (0, 0), OWN)),
        (Sight(binds=True, rootless=True), "7:8", ("7:8", (7, 8), None)),
        (Sight(binds=False, rootless=True), None, ("%d:%d" % DEFAULT, DEFAULT, None)),  # noqa: UP031 - a pair
        (Sight(binds=True, rootless=False), "7:8", ("7:8", (7, 8), (7, 8) if IS_ROOT else None)),
        (Sight(binds=True, rootless=False), "image", ("app", None, None)),
        (Sight(binds=True, rootless=False), "7", ("7", None, None)),
    ],
    ids=["usual", "rootless", "rootless, asked", "rootless, blind", "asked", "the image's", "no group"],
)
def test_files_are_mounted_only_for_whom_they_belong_to(
    sight: Sight, asked: str | None, expected: tuple[object, ...]
) -> None:
    """The root of a rootless engine is its caller; its other users are nobody that this machine knows."""
    assert person_of(sight, asked, "app") == expected


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Have no other rights than this user's, where we are root."""
    if not IS_ROOT:
        yield
        return
    own = os.getegid()
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own)


def test_who_is_not_root_runs_the_command_as_himself_and_can_read_all_of_it(
    engine: Engine, image: str
) -> None:
    with TemporaryDirectory() as folder:  # others get here, too
        one = bed(engine, image, Path(folder))
        place = str(one.workspace.root.parent.parent)
        sight_of(engine, image, one.workspace.root, place, one.workspace.cache)
        if IS_ROOT:
            for path in (Path(folder), *Path(folder).rglob("*")):
                os.chown(path, 4711, 4711)
        with as_user(4711):
            files = one.files()
            assert files.user == f"{os.geteuid()}:{os.getegid()}"
            assert isinstance(files.way, Binds)
        script = "cd /job/out; mkdir d; echo x > d/f; chmod 0 d/f d; chmod 0 ."
        with created(engine, image, files, script) as container:
            run(engine, container)
            with as_user(4711):
                files.watch()
                files.collect(container)
                left = answer(one.job.processor, one.workspace.out, one.workspace.cache / "store")
        assert left == {"d/f": cid_of(b"x\n")}


def test_where_a_mount_is_refused_after_all_files_are_copied(one: Bed) -> None:
    files = one.files()
    moved = one.workspace.root.rename(one.workspace.root.with_name("moved"))
    with (
        pytest.raises(Refused, match="bind source path does not exist") as refused,
        created(one.engine, one.ready.id, files),
    ):
        pass
    moved.rename(one.workspace.root)
    other = files.instead(refused.value)
    assert other is not None
    assert isinstance(other.way, Copies)
    assert not list((one.workspace.cache / "sight").iterdir()), "the next run finds out anew"
    assert other.instead(refused.value) is None, "there is no third way"
    assert other.instead(Refused(500, "None")) is None
    with created(one.engine, one.ready.id, other, f"cat {PHOTO}") as container:
        assert run(one.engine, container) == "blob"
    files.close()
    other.close()


def test_a_workspace_that_cannot_be_used_is_told(one: Bed) -> None:
    one.workspace.inputs.unlink()
    with pytest.raises(StoreFailed, match=r"cannot use /.*/inputs.json: No such file"):
        one.files()


def test_too_many_open_files_are_worth_another_try(one: Bed) -> None:
    files = one.files()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held, limits[1]))
    try:
        with pytest.raises(Retry, match="this process has too many files open"):
            files.collect("")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(held)
        files.close()


def test_what_is_refused_for_another_reason_stays_refused(one: Bed) -> None:
    files = one.files()
    assert (
        files.instead(Refused(400, "invalid mount config: bind source path does not exist: /of/the/user"))
        is None
    )
    assert files.instead(Refused(404, "No such image")) is None
    files.close()

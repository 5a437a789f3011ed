"""What comes from an engine as an archive becomes what a mount would have shown, or is refused alike."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_local.staging import Bed, answer, bed, created
from theory import cid_of
from theory.disk import removal
from theory.errors import BadOutputPath, OutputLimit, Retry, TheoryError
from theory_adapter_local.files.archives import Copies
from theory_adapter_local.files.binds import Binds
from theory_adapter_local.files.tarball import Packed, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theory_adapter_local.engine.client import Engine

LARGE = 1024  # MiB
IS_ROOT = os.geteuid() == 0


class Pair(NamedTuple):
    """A tree that a container has in /job/out, and an empty one that it is fetched into."""

    made: Bed
    fetched: Bed
    container: str

    def both(self) -> list[dict[str, str] | str]:
        """What core makes of it the one way and the other."""
        own, job = (os.geteuid(), os.getegid()), self.made.job
        ways = (
            (self.made, Binds(job, self.made.workspace, own, LARGE)),
            (self.fetched, Copies(self.made.engine, job, self.fetched.workspace, None, LARGE)),
        )
        answers: list[dict[str, str] | str] = []
        for one, way in ways:
            try:
                way.collect(self.container)
            except TheoryError as error:
                answers.append(error.code)
            else:
                answers.append(answer(job.processor, one.workspace.out, one.workspace.cache / "store"))
        return answers

    def clear(self) -> Path:
        """Begin anew: the folder for the next tree."""
        for one in (self.made, self.fetched):
            removal.remove(one.workspace.out)
            one.workspace.out.mkdir(mode=0o700)
        return self.made.workspace.out


@pytest.fixture(scope="module")
def pair(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    image = str(engine.call("GET", f"/images/{base_image}/json")["Id"])
    made = bed(engine, image, tmp_path_factory.mktemp("made"))
    fetched = bed(engine, image, tmp_path_factory.mktemp("fetched"))
    files = made.files()
    with created(engine, image, files) as container:
        yield Pair(made, fetched, container)
    files.close()


SAFE = st.text("abcö🜁-. ", min_size=1, max_size=8).filter(lambda name: name.strip(".") != "")
PLAIN = st.dictionaries(
    st.lists(SAFE, min_size=1, max_size=3).map("/".join), st.binary(max_size=600), max_size=6
)


@settings(max_examples=12)
@given(plain=PLAIN)
def test_plain_outputs_are_the_same_both_ways(pair: Pair, plain: dict[str, bytes]) -> None:
    tree = pair.clear()
    for name, content in plain.items():
        path = tree / name
        if all(not above.is_file() for above in path.parents) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    left, fetched = pair.both()
    assert left == fetched
    if isinstance(left, dict):
        files = [path for path in tree.rglob("*") if path.is_file()]
        assert left == {str(path.relative_to(tree)): cid_of(path.read_bytes()) for path in files}


def deep(tree: Path, levels: int, name: str = "d") -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT, dir_fd=here))
    os.close(here)


def swapped(tree: Path) -> None:
    tree.rmdir()
    tree.symlink_to("/etc")


def closed(tree: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "f").write_bytes(b"x")
    (tree / "d" / "f").chmod(0)
    (tree / "d").chmod(0)


def second_name(tree: Path) -> None:
    (tree / "a").write_bytes(b"x")
    (tree / "b").hardlink_to(tree / "a")


def set_user(tree: Path) -> None:
    (tree / "a").write_bytes(b"x")
    (tree / "a").chmod(0o6777)


def sparse(tree: Path) -> None:
    os.truncate(os.open(tree / "a", os.O_CREAT | os.O_WRONLY), (LARGE + 1) * 1024**2)


def device(tree: Path) -> None:
    os.mknod(tree / "a", 0o20666, os.makedev(1, 3))  # /dev/null


def named(name: bytes) -> Callable[[Path], None]:
    return lambda tree: Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).touch()


def folding(tree: Path) -> None:
    (tree / "a").touch()
    (tree / "A").touch()


HOSTILE: dict[str, tuple[Callable[[Path], None], str | dict[str, str]]] = {
    "a link to a file": (lambda tree: (tree / "a").symlink_to("/etc/passwd"), "ERR_OUTPUT_PATH"),
    "a link to a folder": (lambda tree: (tree / "a").symlink_to("/etc"), "ERR_OUTPUT_PATH"),
    "a link to itself": (lambda tree: (tree / "a").symlink_to("a"), "ERR_OUTPUT_PATH"),
    "a link to nothing": (lambda tree: (tree / "a").symlink_to("x" * 4000), "ERR_OUTPUT_PATH"),
    "a pipe": (lambda tree: os.mkfifo(tree / "a"), "ERR_OUTPUT_PATH"),
    "a second name": (second_name, {"a": cid_of(b"x"), "b": cid_of(b"x")}),
    "a file that runs as its owner": (set_user, {"a": cid_of(b"x")}),
    "what nobody may read": (closed, {"d/f": cid_of(b"x")}),
    "a sparse file": (sparse, "ERR_OUTPUT_LIMIT"),
    "33 folders": (lambda tree: deep(tree, 33), "ERR_OUTPUT_LIMIT"),
    "400 folders": (lambda tree: deep(tree, 400), "ERR_OUTPUT_LIMIT"),
    "32 folders": (lambda tree: deep(tree, 32), {"d/" * 32 + "f": cid_of(b"")}),
    "a path of 1,200 bytes": (lambda tree: deep(tree, 6, "d" * 200), "ERR_OUTPUT_PATH"),
    "a path of 5,000 bytes": (lambda tree: deep(tree, 20, "d" * 250), "ERR_OUTPUT_PATH"),
    "no UTF-8": (named(b"\xff"), "ERR_OUTPUT_PATH"),
    "a line end": (named(b"a\nb"), "ERR_OUTPUT_PATH"),
    "an escape": (named(b"\x1b[2J"), "ERR_OUTPUT_PATH"),
    "a backslash": (named(b"a\\b"), "ERR_OUTPUT_PATH"),
    "255 bytes": (named(b"a" * 255), {"a" * 255: cid_of(b"")}),
    "no normal form": (named("e\u0301".encode()), "ERR_OUTPUT_PATH"),
    "an option": (named(b"-rf"), {"-rf": cid_of(b"")}),
    "two that fold to one": (folding, "ERR_OUTPUT_DUPLICATE"),
    "nothing": (lambda _: None, {}),
}
if IS_ROOT:
    HOSTILE["a device"] = (device, "ERR_OUTPUT_PATH")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_outputs_are_the_same_both_ways(pair: Pair, name: str) -> None:
    make, expected = HOSTILE[name]
    make(pair.clear())
    assert pair.both() == [expected, expected]
    pair.clear()


def test_a_socket_is_refused_where_the_engine_shows_it(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine puts one into an archive, so there it is missing: the one known difference."""
    monkeypatch.chdir(pair.clear())
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("a")
        assert pair.both() == ["ERR_OUTPUT_PATH", {}]


def test_out_that_is_not_there_is_refused(pair: Pair) -> None:
    with created(pair.made.engine, pair.made.ready.id, None) as container:
        way = Copies(pair.made.engine, pair.made.job, pair.fetched.workspace, None, LARGE)
        with pytest.raises(BadOutputPath, match="the folder for outputs was replaced or removed"):
            way.collect(container)


def test_an_early_end_of_the_reading_does_not_delay_the_removal(pair: Pair) -> None:
    """The engine would stream 2 GiB of zeros, and removes no container meanwhile: it would take a minute."""
    tree = pair.clear()
    for name in "abcd":
        os.truncate(os.open(tree / name, os.O_CREAT | os.O_WRONLY), 512 * 1024**2)
    with created(pair.made.engine, pair.made.ready.id, pair.made.files()) as container:
        way = Copies(pair.made.engine, pair.made.job, pair.fetched.workspace, None, 1)
        with pytest.raises(OutputLimit, match="larger than 1 MiB"):
            way.collect(container)
    pair.clear()


def test_what_did_not_arrive_whole_is_worth_another_try(pair: Pair) -> None:
    class Cut:
        """An engine whose answer is cut between two members, in valid HTTP."""

        def stream(self, *_: object, **__: object) -> Any:
            things = [Packed("out", 0o700, (0, 0), None), Packed("out/a", 0o600, (0, 0), b"")]
            return io.BytesIO(b"".join(pack(things))[:1024])

    cut: Any = Cut()
    way = Copies(cut, pair.made.job, pair.fetched.workspace, None, LARGE)
    pair.clear()
    with pytest.raises(Retry, match="did not arrive whole"):
        way.collect("")

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.entries import tree
from theory.entries.tree import files_of, tree_of
from theory.errors import RegistryFault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOLDEN = "b3:719bc6100a6ffc137e5876bce6370d84199b74414e83129859a4e11283258b2f"


def put(folder: Path, name: str, content: str = "", mode: int = 0o644) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(mode)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "main.py", "print(1)\n")
    put(tmp_path, "bin/run", "#!/bin/sh\n", 0o755)
    return tmp_path


def names_of(folder: Path, dockerfile: str | None = None) -> set[str]:
    return {path for path, _, _ in files_of(folder, dockerfile)}


# ---------------------------------------------------------------- what counts


def test_the_address_of_a_folder_stays_what_it_is(folder: Path) -> None:
    assert tree_of(folder) == GOLDEN


def test_what_is_not_part_of_the_work_changes_nothing(folder: Path) -> None:
    put(folder, "processor.yaml", "ref: x")
    put(folder, "__pycache__/main.cpython-311.pyc", "x")
    put(folder, "bin/__pycache__/deep/x.txt", "x")
    put(folder, "old.pyc", "x")
    (folder / "empty").mkdir()
    os.utime(folder / "main.py", (1, 1))
    (folder / "main.py").chmod(0o645)  # only the owner's bit counts
    assert tree_of(folder) == GOLDEN


def test_an_entry_further_down_is_a_file_like_any_other(folder: Path) -> None:
    put(folder, "data/processor.yaml", "x")
    assert tree_of(folder) != GOLDEN


def test_the_order_of_making_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "bin/run", "#!/bin/sh\n", 0o755)
    put(tmp_path, "main.py", "print(1)\n")
    assert tree_of(tmp_path) == GOLDEN


@pytest.mark.parametrize("change", ["content", "name", "executable", "more", "less"])
def test_each_of_content_name_mode_and_number_counts(folder: Path, change: str) -> None:
    main = folder / "main.py"
    if change == "content":
        main.write_text("print(2)\n")
    elif change == "name":
        main.rename(folder / "Main.py")
    elif change == "executable":
        main.chmod(0o744)
    elif change == "more":
        put(folder, "extra", "")
    else:
        main.unlink()
    assert tree_of(folder) != GOLDEN


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "dangling link", "pipe"])
def test_what_means_something_else_elsewhere_is_refused(folder: Path, kind: str) -> None:
    thing = folder / "thing"
    if kind == "pipe":
        os.mkfifo(thing)
    else:
        thing.symlink_to({"link to a file": "main.py", "link to a folder": "bin"}.get(kind, "nowhere"))
    with pytest.raises(RegistryFault, match="thing is a link or a special file"):
        tree_of(folder)


def test_a_name_that_is_not_utf_8_is_refused(folder: Path) -> None:
    try:
        (folder / os.fsdecode(b"\xff")).write_text("")
    except OSError:
        pytest.skip("the file system takes only UTF-8 names")
    with pytest.raises(RegistryFault, match="has a name that is not UTF-8"):
        tree_of(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryFault, match="gone cannot be read"):
        tree_of(tmp_path / "gone")


# ---------------------------------------------------------------- .dockerignore

FILES = [
    "a.md",
    "a.txt",
    "docs/a.md",
    "docs/deep/b.md",
    "docs/deep/c.txt",
    "tmp/x",
    "x[1]",
    "#hash",
    "ab",
    "axb",
    "a/z/b",
]


@pytest.mark.parametrize(
    ("rules", "left_out"),
    [
        ("*.md", {"a.md"}),
        ("**/*.md", {"a.md", "docs/a.md", "docs/deep/b.md"}),
        ("docs", {"docs/a.md", "docs/deep/b.md", "docs/deep/c.txt"}),
        ("/docs/", {"docs/a.md", "docs/deep/b.md", "docs/deep/c.txt"}),
        ("./docs/../tmp", {"tmp/x"}),
        ("docs/*", {"docs/a.md", "docs/deep/b.md", "docs/deep/c.txt"}),
        ("docs/**/b.md", {"docs/deep/b.md"}),
        ("docs/**\n!docs/deep", {"docs/a.md"}),
        ("**\n!a.txt", set(FILES) - {"a.txt"}),
        ("*\n! a.txt \n", set(FILES) - {"a.txt"}),
        ("!a.md\n*.md", {"a.md"}),
        ("a?md", {"a.md"}),
        ("a.[l-n]d", {"a.md"}),
        ("a.[^t]*", {"a.md"}),
        ("x\\[1\\]", {"x[1]"}),
        ("x[[]1]", {"x[1]"}),
        ("a**b", {"ab", "a/z/b"}),
        ("# a comment\n#hash\n\n   \n!", set()),
        (" #hash", {"#hash"}),
        ("\ufeffa.md", {"a.md"}),
        ("a.md\r\na.txt\r\n", {"a.md", "a.txt"}),
        ("deep", set()),
        ("A.MD", set()),
    ],
)
def test_dockerignore_leaves_out_what_docker_leaves_out(
    tmp_path: Path, rules: str, left_out: set[str]
) -> None:
    for name in FILES:
        put(tmp_path, name)
    (tmp_path / ".dockerignore").write_text(rules, encoding="utf-8", newline="")
    assert set(FILES) - names_of(tmp_path) == left_out


def test_what_is_left_out_may_be_anything(folder: Path) -> None:
    put(folder, ".dockerignore", "venv\n")
    before = tree_of(folder)
    put(folder, "venv/lib/x.py", "x")
    (folder / "venv/python").symlink_to("/usr/bin/python3")
    assert tree_of(folder) == before


def test_dockerignore_itself_and_the_dockerfile_always_count(folder: Path) -> None:
    put(folder, ".dockerignore", "*\n!main.py\n")
    put(folder, "docker/Dockerfile", "FROM scratch\n")
    assert names_of(folder, "./docker/Dockerfile") == {".dockerignore", "docker/Dockerfile", "main.py"}
    before = tree_of(folder, "docker/Dockerfile")
    put(folder, "docker/Dockerfile", "FROM python\n")
    assert tree_of(folder, "docker/Dockerfile") != before


@pytest.mark.parametrize("pattern", ["[]", "a[z-a]", "x[", "[^]"])
def test_a_rule_that_is_no_pattern_is_refused_with_its_line(folder: Path, pattern: str) -> None:
    put(folder, ".dockerignore", f"a\n{pattern}\n")
    with pytest.raises(RegistryFault, match=r"\.dockerignore:2: not a pattern"):
        tree_of(folder)


def test_rules_that_are_not_utf_8_are_refused(folder: Path) -> None:
    (folder / ".dockerignore").write_bytes(b"\xff")
    with pytest.raises(RegistryFault, match=r"\.dockerignore is not UTF-8"):
        tree_of(folder)


@given(st.text(alphabet="ab*?[]^-\\/!.#", max_size=12))
def test_whatever_a_rule_is_the_answer_is_a_tree_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, rule: str
) -> None:
    folder = tmp_path_factory.mktemp("rule")
    put(folder, "a/b")
    put(folder, ".dockerignore", rule)
    try:
        assert tree_of(folder).startswith("b3:")
    except RegistryFault as error:
        assert "not a pattern" in error.message  # noqa: PT017 - either way is good


# ---------------------------------------------------------------- read once


def test_a_change_that_keeps_size_and_mtime_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_SETTLED_NS", -(10**18))  # as if the files were old
    assert tree_of(folder) == GOLDEN
    rewritten(folder)
    assert tree_of(folder) != GOLDEN


def test_a_file_that_has_just_been_written_is_read_again_whatever_its_stamp_says(folder: Path) -> None:
    tree_of(folder)
    young = {(file.stat().st_ino, file.stat().st_ctime_ns) for file in folder.rglob("*")}
    known = {(stamp[1], stamp[-1]) for stamp in tree._known}  # noqa: SLF001 - here two contents cannot have one stamp
    assert young.isdisjoint(known)


# ---------------------------------------------------------------- seen


def rewritten(folder: Path) -> None:
    """Other content, the same size and mtime."""
    file = folder / "main.py"
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system ticks coarsely
        file.write_text("print(2)\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a change that keeps size and mtime": rewritten,
    "a new file": lambda folder: put(folder, "new.txt"),
    "a new file below": lambda folder: put(folder, "bin/new.txt"),
    "a file less": lambda folder: (folder / "bin/run").unlink(),
    "a mode": lambda folder: (folder / "main.py").chmod(0o755),
    "another name": lambda folder: (folder / "main.py").rename(folder / "other.py"),
    "a folder in its place": lambda folder: folder.rename(folder.with_name("gone")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_folder_is_no_longer_as_it_was_seen_after(
    folder: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_SETTLED_NS", -(10**18))  # as if the files were old
    seen = tree.Seen(folder)
    assert seen.holds()
    tree_of(folder)
    assert seen.holds()  # reading is no change
    change(folder)
    assert not seen.holds()


def test_what_python_makes_of_its_files_is_no_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_SETTLED_NS", -(10**18))  # as above
    (folder / "__pycache__").mkdir()
    (folder / "old.pyc").write_bytes(b"1")
    address, seen = tree_of(folder), tree.Seen(folder)
    (folder / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"1")
    (folder / "old.pyc").write_bytes(b"22")
    assert seen.holds()
    assert tree_of(folder) == address


def test_of_a_folder_that_was_just_changed_nothing_is_believed(folder: Path) -> None:
    assert not tree.Seen(folder).holds()

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from theory.discovery import EntryPoint, allowed, installed

if TYPE_CHECKING:
    from pathlib import Path


def distribution(path: Path, folder: str, entry_points: str | None) -> None:
    (path / folder).mkdir(parents=True)
    if entry_points is not None:
        (path / folder / "entry_points.txt").write_text(entry_points)


def found(*paths: Path) -> list[tuple[str, str, str, str, str]]:
    points = installed([str(path) for path in paths])
    return [(point.group, point.name, point.value, point.distribution, point.version) for point in points]


def test_entry_points_of_our_groups_are_read(tmp_path: Path) -> None:
    distribution(
        tmp_path,
        "acme_tools-1.2.3.dist-info",
        "[console_scripts]\nacme = acme:main\n\n# note\n[theory.adapters]\nrocket = acme.rocket\n"
        "; more\nmoon=acme.moon:Adapter [extra]\n\n[theory.stores]\nftp = acme.ftp : store\n[other]\nx = y\n",
    )
    assert found(tmp_path) == [
        ("theory.adapters", "rocket", "acme.rocket", "acme-tools", "1.2.3"),
        ("theory.adapters", "moon", "acme.moon:Adapter", "acme-tools", "1.2.3"),
        ("theory.stores", "ftp", "acme.ftp : store", "acme-tools", "1.2.3"),
    ]


def test_an_egg_info_of_an_editable_install_is_read(tmp_path: Path) -> None:
    distribution(tmp_path, "Acme.Tools.egg-info", "[theory.plugins]\nlog = acme.log\n")
    assert found(tmp_path) == [("theory.plugins", "log", "acme.log", "acme-tools", "")]


@pytest.mark.parametrize(
    "text",
    [None, "", "[console_scripts]\na = b\n", "[theory.adapters]\nno equals sign\n", "[theory.adapters"],
)
def test_a_distribution_without_plugins_has_none(tmp_path: Path, text: str | None) -> None:
    distribution(tmp_path, "acme-1.dist-info", text)
    assert found(tmp_path) == []


def test_entry_points_that_are_not_utf_8_harm_nobody(tmp_path: Path) -> None:
    distribution(tmp_path, "aaa-1.dist-info", None)
    (tmp_path / "aaa-1.dist-info/entry_points.txt").write_bytes(b"[theory.adapters]\nx = \xff\n")
    distribution(tmp_path, "bbb-1.dist-info", "[theory.adapters]\ny = b\n")
    assert [point[1] for point in found(tmp_path)] == ["y"]


def test_of_one_distribution_the_first_on_the_path_counts_as_in_imports(tmp_path: Path) -> None:
    distribution(tmp_path / "first", "acme_tools-2.dist-info", "[theory.adapters]\nnew = a\n")
    distribution(tmp_path / "second", "acme.tools-1.dist-info", "[theory.adapters]\nold = a\n")
    assert [point[1] for point in found(tmp_path / "first", tmp_path / "second")] == ["new"]
    assert [point[1] for point in found(tmp_path / "second", tmp_path / "first")] == ["old"]


def test_two_distributions_with_one_name_are_both_listed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        distribution(tmp_path, f"{name}-1.dist-info", f"[theory.adapters]\nx = {name}\n")
    assert [point[3] for point in found(tmp_path)] == ["one", "two"]


def test_a_path_that_is_no_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "archive.zip").write_text("")
    assert found(tmp_path / "archive.zip", tmp_path / "gone") == []


def test_an_empty_path_is_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "acme-1.dist-info", "[theory.adapters]\nx = a\n")
    monkeypatch.chdir(tmp_path)
    assert [point.name for point in installed(["", ""])] == ["x"]


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (None, {"ours", "theirs", "others"}),
        ("", {"ours"}),
        ("their_Plugin", {"ours", "theirs"}),
        (" their.plugin , other-plugin ", {"ours", "theirs", "others"}),
        ("unheard-of", {"ours"}),
    ],
)
def test_the_variable_lets_in_what_it_lists_and_ours(variable: str | None, names: set[str]) -> None:
    points = [
        EntryPoint("theory.plugins", name, "x", owner, "1")
        for name, owner in (
            ("ours", "theory-adapter-mock"),
            ("theirs", "their-plugin"),
            ("others", "other-plugin"),
        )
    ]
    environ = {} if variable is None else {"THEORY_PLUGINS": variable}
    assert {point.name for point in allowed(points, environ)} == names

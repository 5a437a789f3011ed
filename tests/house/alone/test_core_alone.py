"""The wheel of theory-core and no plugin: it runs, lists nothing, and says what to install."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from house.command import EntryMaker, Theory


@pytest.fixture
def theory(theory: Theory, installed_core: Path) -> Theory:
    """`theory` with nothing beside it."""
    from dataclasses import replace

    return replace(theory, prefix=installed_core)


def test_help_is_given(theory: Theory) -> None:
    assert "run" in theory("--help").ok().stdout


def test_no_adapter_is_listed_and_the_package_to_install_is_told(theory: Theory) -> None:
    result = theory("adapters", "ls").ok()
    assert result.stdout == ""
    assert "pip install theory-adapter-mock" in result.stderr


@pytest.mark.parametrize("name", ["mock", "process", "local", "modal"])
def test_an_adapter_of_ours_that_is_missing_has_its_package_as_hint(
    theory: Theory, entry: EntryMaker, name: str
) -> None:
    root = entry("test/nothing@1", "")
    result = theory("run", "test/nothing@1", "--adapter", name, "--registry", root, "--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_UNKNOWN_ADAPTER", 2)
    assert f"pip install theory-adapter-{name}" in result.line["error"]["hint"]


def test_the_documents_first_command_tells_what_to_install(theory: Theory) -> None:
    result = theory.hello()
    assert result.code == 2
    assert result.stdout == ""
    assert "pip install theory-" in result.stderr


def test_a_missing_adapter_is_told_before_a_missing_registry(theory: Theory) -> None:
    result = theory.hello("--json")
    assert (result.line["error"]["code"], result.code) == ("ERR_UNKNOWN_ADAPTER", 2)
    assert "pip install theory-adapter-mock" in result.line["error"]["hint"]


@pytest.mark.parametrize("command", ["plugins", "ls", "config", "registry ls", "plan ls"])
def test_what_needs_no_plugin_works(theory: Theory, command: str) -> None:
    theory(*command.split()).ok()

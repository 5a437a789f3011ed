"""docs/reference/ says what the code says: help pages, errors, hooks."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from theory import errors, hookspecs
from theory_adapter_local.engine import faults as docker_faults
from theory_adapter_modal import faults as modal_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PAGE = re.compile(r"^(#+ `?(theory[^`\n]*?)`?)\n(?:(?!^#).)*?^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| *`?(ERR_\w+)`? *\| *([\d, ]+?) *\| *(.*?) *\|$", re.MULTILINE)
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(theory: Callable[..., str], *path: str) -> Iterator[tuple[str, str]]:
    """Every command with its help page."""
    page = theory(*path, "--help")
    yield " ".join(("theory", *path)), page
    listed = page.partition("\nCommands:\n")[2].partition("\n\n")[0]
    for name in re.findall(r"^  (\S+)", listed, re.MULTILINE):
        yield from commands(theory, *path, name)


def test_every_command_has_its_help_page(theory: Callable[..., str], regenerate: bool) -> None:
    file = REFERENCE / "cli.md"
    text = file.read_text("utf-8")
    real = dict(commands(theory))
    shown = {match[2]: match[3] for match in PAGE.finditer(text)}
    if regenerate and shown != real:
        front, _, _ = text.partition("\n## ")
        pages = "".join(f"\n## `{name}`\n\n```text\n{page}```\n" for name, page in real.items())
        file.write_text(front.rstrip("\n") + "\n" + pages, "utf-8")
        return
    assert shown == real


def classes(family: type[errors.TheoryError] = errors.TheoryError) -> Iterator[type[errors.TheoryError]]:
    """Every class that has a code of its own, those of our adapters too."""
    for child in family.__subclasses__():
        if child.__module__ in {errors.__name__, docker_faults.__name__, modal_faults.__name__}:
            if "code" in vars(child):
                yield child
            yield from classes(child)


def test_every_error_is_in_the_table_with_its_exit_status(regenerate: bool) -> None:
    file = REFERENCE / "errors.md"
    text = file.read_text("utf-8")
    status = {of.code: str(of.exit_code) for of in classes()} | {"ERR_INTERRUPTED": "130, 143"}
    rows = {match[1]: (match[2], match[3]) for match in ROW.finditer(text)}
    if regenerate and {code: row[0] for code, row in rows.items()} != status:
        first = {of.code: (inspect.getdoc(of) or "").partition("\n")[0] for of in classes()}
        lines = [
            f"| `{code}` | {status[code]} | {rows[code][1] if code in rows else first[code]} |"
            for code in sorted(status)
        ]
        table = "\n".join(["| code | exit | meaning |", "|---|---|---|", *lines])
        old = re.search(r"^\| *code.*?(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        text = text.replace(old[0], table) if old else f"{text.rstrip()}\n\n{table}\n"
        file.write_text(text.rstrip("\n") + "\n", "utf-8")
        return
    assert {code: row[0] for code, row in rows.items()} == status
    assert [code for code, row in rows.items() if not row[1]] == []


def signatures(source: str) -> dict[str, str]:
    """Functions with decorators, arguments and answers, spelled one way, their bodies left out."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Expr(ast.Constant(...))]
            found[node.name] = ast.unparse(node)
    return found


def test_every_hook_is_shown_with_its_signature(regenerate: bool) -> None:
    file = REFERENCE / "hooks.md"
    text = file.read_text("utf-8")
    real = {name: one for name, one in signatures(inspect.getsource(hookspecs)).items() if "hookspec" in one}
    shown: dict[str, str] = {}
    for fence in FENCE.finditer(text):
        found = {name: one for name, one in signatures(fence[1]).items() if one.startswith("@hookspec")}
        assert not set(found) & set(shown), "a hook that is shown twice"
        shown |= found
        if regenerate and any(real.get(name) != one for name, one in found.items()):
            fresh = "\n\n".join(real[name] for name in found if name in real)
            text = text.replace(fence[1], f"{fresh}\n")
    if regenerate and shown != real:
        missing = [
            f"\n## `{name}`\n\n```python\n{one}\n```\n" for name, one in real.items() if name not in shown
        ]
        file.write_text(text.rstrip("\n") + "\n" + "".join(missing), "utf-8")
        return
    assert shown == real


def test_every_hook_belongs_to_a_group() -> None:
    real = {name for name, one in signatures(inspect.getsource(hookspecs)).items() if "hookspec" in one}
    assert set().union(*hookspecs.HOOKS_OF_GROUP.values()) == real


@pytest.mark.parametrize("code", sorted({of.code for of in classes()}))
def test_no_two_families_share_a_code(code: str) -> None:
    assert len([of for of in classes() if of.code == code]) == 1

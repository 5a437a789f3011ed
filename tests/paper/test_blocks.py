"""The commands that README.md and docs/ show print what is shown."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from paper.documents import HOUSE, blocks, clone, documents

if TYPE_CHECKING:
    from paper.documents import Block

OUTSIDE = dict(os.environ)
KINDS = {"run", "clone", "tests", "output"}

MARK = re.compile(r"^<!-- paper:", re.MULTILINE)
DOCUMENTS = [path for path in documents() if MARK.search(path.read_text("utf-8"))]
VOLATILE = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "…"),  # execution ids
    (r'("duration_ms": ?)\d+', r"\1…"),
    (r'("(?:started_at|finished_at|env_fingerprint|memo_key)": ?")[^"]*"', r'\1…"'),
)


def matches(shown: str, printed: str) -> bool:
    """Whether a document shows what was printed; `…` is any text, a line of it any lines.

    >>> matches('{"id": "…"}', '{"id": "0190"}'), matches("a\\n…\\nz", "a\\nb\\nc\\nz"), matches("a", "b")
    (True, True, False)
    """
    pattern = "\n".join(
        "§" if line.strip() == "…" else re.escape(line.rstrip()).replace("…", "[^\n]*?")
        for line in shown.strip("\n").split("\n")
    )
    pattern = pattern.replace("§\n", "(?:[^\n]*\n)*?").replace("\n§", "(?:\n[^\n]*)*?").replace("§", ".*")
    stripped = "\n".join(line.rstrip() for line in printed.strip("\n").split("\n"))
    return re.fullmatch(pattern, stripped) is not None


def steady(printed: str) -> str:
    """What was printed, with its volatile parts as `…`."""
    for pattern, replacement in VOLATILE:
        printed = re.sub(pattern, replacement, printed)
    return printed.rstrip("\n") + "\n"


def run(block: Block, cwd: Path, environment: dict[str, str]) -> str:
    """What a block prints on stdout."""
    shell = (
        ["python", "-c", block.body]
        if block.language == "python"
        else ["bash", "-euo", "pipefail", "-c", block.body]
    )
    done = subprocess.run(
        shell, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode} of\n{block.body}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_document_shows_what_its_commands_print(
    document: Path, prefix: Path, tmp_path: Path, regenerate: bool
) -> None:
    text = document.read_text("utf-8")
    found: list[Block] = blocks(text)
    assert {block.kind for block in found} <= KINDS
    marked = len(MARK.findall(text))
    assert marked == len(found), f"{marked} marks, {len(found)} fenced blocks right below one"

    checkout = clone(tmp_path / "checkout")
    kept = {
        name: value
        for name, value in OUTSIDE.items()
        if name not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
    }
    bare = os.pathsep.join(
        folder
        for folder in OUTSIDE["PATH"].split(os.pathsep)
        if not (Path(folder).parent / "pyvenv.cfg").exists()
    )
    state = {
        "THEORY_HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": OUTSIDE.get("XDG_CONFIG_HOME", ""),
        "COLUMNS": "100",
    }
    state = {name: value for name, value in state.items() if value}
    environments = {
        "run": {**kept, **state, "PATH": f"{prefix / 'bin'}{os.pathsep}{bare}"},
        "clone": {**kept, **state, "PATH": bare},
    }
    written, printed = text, None
    for block in found:
        if block.kind in environments:
            printed = run(block, checkout, environments[block.kind])
        elif block.kind == "output":
            assert printed is not None, "an output without a command before it"
            if block.body.strip() == "…" or not matches(block.body, printed):  # `…` alone shows nothing
                assert regenerate, f"printed:\n{printed}\nshown:\n{block.body}"
                written = written.replace(block.body, steady(printed), 1)
    if written != text:
        document.write_text(written, "utf-8")


def test_readme_shows_both_commands_of_a_fresh_clone() -> None:
    kinds = [block.kind for block in blocks((HOUSE / "README.md").read_text("utf-8"))]
    assert kinds.count("tests") == 1
    assert kinds.count("clone") == 1
    assert "output" in kinds[kinds.index("clone") :]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\n…\nz", "a\nb\nc\nz", True),
        ("a\n…", "a\nb\nc", True),
        ("…\nz", "a\nb\nz", True),
        ("x … y", "x 12 y", True),
        ("x … y", "x\ny", False),
        ("a", "ab", False),
        ("a.c", "abc", False),
    ],
    ids=[
        "lines in the middle",
        "lines at the end",
        "lines at the start",
        "text",
        "text is one line",
        "whole",
        "no regex",
    ],
)
def test_an_ellipsis_stands_for_what_is_volatile(shown: str, printed: str, *, same: bool) -> None:
    assert matches(shown, printed) is same

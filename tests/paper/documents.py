"""The documents, and what is marked in them.

In README.md and docs/, a comment on the line before a fenced block says what the block is:

    <!-- paper: run -->      commands (bash or python), run in a copy of the checkout with `theory` installed
    <!-- paper: clone -->    commands, run as in a fresh clone: nothing is installed but Python
    <!-- paper: tests -->    the command that runs the tests; `.ci/run` runs it
    <!-- paper: output -->   what the block before it prints on stdout

`…` in an output stands for any text on its line; a line of `…` alone for any lines.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- paper: (\w+) -->\n+```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A marked block of a document."""

    kind: str
    language: str
    body: str
    span: tuple[int, int]  # of the body in the document


def blocks(text: str) -> list[Block]:
    """The marked blocks of a document, in order."""
    return [Block(match[1], match[2], match[3], match.span(3)) for match in BLOCK.finditer(text)]


def documents() -> list[Path]:
    """Every document."""
    return sorted(HOUSE / name for name in tracked() if name.endswith(".md"))


def tracked() -> list[str]:
    """Every file that git has or would take, relative to the root."""
    git = ("git", "-C", str(HOUSE), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(listed.split("\0")) if name and (HOUSE / name).is_file())


def clone(target: Path) -> Path:
    """Copy what a clone would have."""
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(HOUSE / name, target / name, follow_symlinks=False)
    return target

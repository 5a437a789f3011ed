"""What is in the files: links that lead somewhere, examples that run, nothing of one machine."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paper.documents import HOUSE, documents, tracked

LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|^\[[^\]\n]+\]: (\S+)", re.MULTILINE)
DOCUMENTS = documents()


def anchors(document: Path) -> set[str]:
    """The anchors that headings of a document have on the web."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_link_inside_the_repository_leads_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for match in LINK.finditer(text):
        target, _, anchor = (match[1] or match[2]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (document.parent / target) if target else document
        assert file.exists(), f"{match[0]}: no such file"
        assert file.resolve().is_relative_to(HOUSE), f"{match[0]}: leaves the repository"
        if anchor:
            assert anchor in anchors(file), f"{match[0]}: no such heading"


def of_this_machine() -> list[str]:
    """Texts that only a file written on this machine, about this machine, would have."""
    told = [str(HOUSE), str(Path.home()) + os.sep, sys.prefix]
    if re.search(r"[\d.-]", socket.gethostname()):
        told.append(socket.gethostname())
    indexes = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    told += re.findall(r"://(?:[^/@\s']*@)?([^/\s']+)", indexes)
    return [text for text in told if text not in {"pypi.org", "/"}]


def test_no_file_names_a_path_or_a_host_of_one_machine() -> None:
    patterns = [re.escape(text) for text in of_this_machine()] + [r"/(?:home|Users)/[a-z]\w+/"]
    harmful = re.compile("|".join(patterns).encode())
    faults = [
        f"{name}: {match[0].decode(errors='replace')}"
        for name in tracked()
        if (match := harmful.search((HOUSE / name).read_bytes()))
    ]
    assert faults == []


def modules() -> list[str]:
    """Every module of core and of our plugins."""
    names = []
    for name in ("theory", *(f"theory_adapter_{name}" for name in ("mock", "process", "local", "modal"))):
        package = importlib.import_module(name)
        names += [name, *(found.name for found in pkgutil.walk_packages(package.__path__, f"{name}."))]
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0

"""What a processor left behind, and where the entries are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRIES = REPOSITORY / "registry" / "processors"
CID = "b3:" + "ab" * 32
MIB = 1 << 20
JSON_LIMIT = 4 * MIB  # larger JSON files are only measured
MIMES = {".json": "application/json", ".html": "text/html", ".txt": "text/plain"}


@dataclass(frozen=True)
class Done:
    """What a processor left: its exit code, its log and its files."""

    exit_code: int
    stdout: str
    stderr: str
    out: Path
    peak: int  # bytes of resident memory, where it was watched

    def __getitem__(self, name: str) -> Any:
        text = (self.out / name).read_text(encoding="utf-8")
        return json.loads(text) if name.endswith(".json") else text

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a profile by name."""
        return {column["name"]: column for column in self["profile.json"]["columns"]}

    @property
    def files(self) -> dict[str, bytes]:
        """All files by relative path."""
        found = (path for path in sorted(self.out.rglob("*")) if path.is_file())
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in found}

    def document(self) -> dict[str, Any]:
        """The outputs document: JSON files by content, others by mime and size."""
        document: dict[str, Any] = {}
        for name, content in self.files.items():
            mime = MIMES[Path(name).suffix]
            parsed = mime == "application/json" and len(content) <= JSON_LIMIT
            document[name] = json.loads(content) if parsed else {"mime": mime, "size_bytes": len(content)}
        return document


Run = Callable[..., Done]


def entry(ref: str) -> dict[str, Any]:
    """Read a registry entry."""
    path = ENTRIES / ref.replace("@", "/") / "processor.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found

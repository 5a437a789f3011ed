"""Count lines, words, characters and bytes of a text: /job/inputs.json in, /job/out/counts.json out."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TextIO

ROOT = os.environ.get("THEORY_ROOT", "")  # empty in a container, a folder where there is none
CHUNK = 1 << 16  # characters a read: a line may have any length
COMMON = 10
SPACE = re.compile(r"[ \t\r\n\f\v]")  # written out: `\s` depends on the Unicode tables of the Python


def open_text(inputs: dict[str, dict[str, str] | str]) -> TextIO:
    """Open what is to be counted: the text of the request, or the file."""
    if isinstance(file := inputs.get("file"), dict):
        return Path(ROOT + file["$artifact"]).open(encoding="utf-8", newline="")
    return io.StringIO(str(inputs["text"]), newline="")


def count(text: TextIO) -> dict[str, object]:
    """Count, a chunk at a time; a word that a chunk ends in is carried over to the next."""
    totals: Counter[str] = Counter()
    words: Counter[str] = Counter()
    rest = ""
    while chunk := text.read(CHUNK):
        totals.update(bytes=len(chunk.encode()), characters=len(chunk), lines=chunk.count("\n"))
        *whole, rest = SPACE.split(rest + chunk)
        words.update(word for word in whole if word)
    words.update([rest] if rest else [])
    common = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:COMMON]
    sizes = {unit: totals[unit] for unit in ("bytes", "characters", "lines")}
    return {
        **sizes,
        "words": words.total(),
        "common": [{"word": word, "count": times} for word, times in common],
    }


def main() -> str | None:
    """Run the job; return what is wrong, which `sys.exit` writes to stderr before it fails."""
    inputs = json.loads(Path(f"{ROOT}/job/inputs.json").read_text(encoding="utf-8"))
    try:
        with open_text(inputs) as text:
            counts = count(text)
    except UnicodeDecodeError as error:
        return f"text/wordcount: the file is not UTF-8: {error.reason}"
    out = Path(f"{ROOT}/job/out/counts.json")
    out.write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return None


if __name__ == "__main__":
    sys.exit(main())

"""Parsers with a planted fault each, for the proof that the driver finds such; nothing else fuzzes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proofs.fuzz_table import Parser

if TYPE_CHECKING:
    from pathlib import Path

    from proofs.fuzz_table import Parse


def _traceback(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        if b"[" in data and data.count(b"]") > 1:
            raise KeyError("no such key")
        raise ValueError("refused, as it should be")

    return parse


def _deep(_: Path) -> Parse:
    """Only who sees how far it came gets there: one byte after the other has to be right."""

    def parse(data: bytes) -> object:
        for number, byte in enumerate(b"Kq~7"):
            if len(data) <= number or data[number] != byte:
                break
        else:
            raise KeyError("no such key")
        raise ValueError("refused, as it should be")

    return parse


def _slow(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        return re.search(rb"\s+c", data)  # a square of the length of a run of spaces

    return parse


def _memory(_: Path) -> Parse:
    def parse(data: bytes) -> object:
        return [data[:at] for at in range(0, len(data), 64)]

    return parse


PARSERS: dict[str, Parser] = {
    "control-traceback": Parser(_traceback, (ValueError,), (b"[1,2]",)),
    "control-deep": Parser(_deep, (ValueError,), (b"abcdef",)),
    "control-slow": Parser(_slow, (), (b"xa  bx",), 1 << 17),
    "control-memory": Parser(_memory, (), (b"abc",), 1 << 20),
}

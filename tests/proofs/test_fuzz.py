# ruff: noqa: E501 - a bomb is easiest to read on a line
"""Whatever comes from outside: an answer or a named refusal, within a second, and no memory to speak of.

The long form: ``tox -e fuzz -- --minutes 60``, or more cases of these: ``--hypothesis-profile long``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.fuzz import mutated, words_of
from proofs.fuzz_judge import judged, verdict
from proofs.fuzz_table import table

if TYPE_CHECKING:
    from random import Random

    from proofs.fuzz_judge import Piece
    from proofs.fuzz_table import Parse, Parser

PARSERS = table()
PATIENCE = 4  # times the limit of the long form: a machine that does other things too is no fault
MIB = 1 << 20

# What has been found, or was thought of: each took seconds or minutes, hundreds of MiB, or ended with a traceback.
BOMBS: dict[str, tuple[str, list[Piece]]] = {
    "JSON: many values below a long name": (
        "inputs",
        [(b'{"' + b"k" * (8 * MIB) + b'":[', 1, -1), (b"0,", 400_000, -1), (b"0]}", 1, -1)],
    ),
    "JSON: many files below a long name": (
        "inputs",
        [(b'{"' + b"k" * (8 * MIB) + b'":[', 1, -1), (b"[],", 300_000, -1), (b"0]}", 1, -1)],
    ),
    "JSON: nothing but lists": ("inputs", [(b'{"a":[', 1, -1), (b"[],", 5 * MIB, -1), (b"0]}", 1, -1)]),
    "JSON: nothing but objects": ("inputs", [(b'{"a":[', 1, -1), (b'{"a":1},', 2_000_000, -1), (b"0]}", 1, -1)]),
    "JSON: nothing but numbers": ("inputs", [(b'{"rest":[', 1, -1), (b"1.5,", 3 * MIB, -1), (b"0]}", 1, -1)]),
    "JSON: as many values as may be": ("json", [(b"[", 1, -1), (b"{},", 249_000, -1), (b"0]", 1, -1)]),
    "JSON: a fault in every value": ("inputs", [(b'{"rest":[', 1, -1), (b"1,", 249_000, -1), (b"0]}", 1, -1)]),
    "JSON: a long text": ("inputs", [(b'{"a":"', 1, -1), (b"x", 15 * MIB, -1), (b'"}', 1, -1)]),
    "outputs: many values below a long name": (
        "outputs",
        [(b'{"' + b"k" * (2 * MIB) + b'":[', 1, -1), (b"0,", 200_000, -1), (b"0]}", 1, -1)],
    ),
    "outputs: nothing but lists": ("outputs", [(b"[", 1, -1), (b"[],", 1_300_000, -1), (b"0]", 1, -1)]),
    "YAML: many values below a long name": (
        "yaml",
        [(b"? " + b"k" * 500_000 + b"\n:\n", 1, -1), (b" - 0\n", 100_000, -1)],
    ),
    "YAML: many values far below": ("yaml", [(b'{"a":' + b"[" * 60, 1, -1), (b"0,", 450_000, -1)]),
    "YAML: aliases of aliases": ("yaml", [(b"a: &a [x,x]\n", 1, -1), (b"b: &b [*a,*a]\n", 60_000, 1)]),
    "YAML: deep": ("yaml", [(b"[", 1_000_000, -1)]),
    "entry: thousands of defaults": (
        "entry",
        [(b"inputs: {properties: {", 1, -1), (b"a: {type: string, default: a}, ", 20_000, 1), (b"}}", 1, -1)],
    ),
    "entry: thousands of faults": ("entry", [(b"command: [", 1, -1), (b"0, ", 90_000, -1), (b"0]", 1, -1)]),
    "schema: an item of 5,000 digits": (
        "schema",
        [(b'{"schema":{"allOf":[{"$ref":"#/allOf/', 1, -1), (b"9", 5000, -1), (b'"}]}}', 1, -1)],
    ),
    "schema: many parts below a long name": (
        "schema",
        [(b'{"schema":{"properties":{"' + b"k" * 500_000 + b'":{"properties":{', 1, -1),
         (b'"a":{"default":1},', 20_000, 2), (b'"z":{}}}}}}', 1, -1)],
    ),
    "schema: patterns that backtrack elsewhere": (
        "schema",
        [(b'{"schema":{"pattern":"^(a+)+$","patternProperties":{"^(x*)*$":false}},"value":"', 1, -1),
         (b"a", 500_000, -1), (b'b"}', 1, -1)],
    ),
    "schema: a pattern that is a bomb": (
        "schema", [(b'{"schema":{"pattern":"', 1, -1), (b"(a?){0,99}", 5000, -1), (b'"},"value":"a"}', 1, -1)],
    ),
    "config: lists in lists": ("config", [(b"a = ", 1, -1), (b"[", 30_000, -1)]),
    "config: a number of 5,000 digits": ("config", [(b"a = ", 1, -1), (b"9", 5000, -1)]),
    "config: a key of many parts": ("config", [(b"a.", 30_000, -1), (b"b = 1", 1, -1)]),
    "config: a table of many parts": ("config", [(b"[a.", 1, -1), (b"a.", 8000, -1), (b"b]\n", 1, -1), (b"k=1\n", 9000, 1)]),
    "ignore: many wildcards": ("ignore", [(b"*a", 20, -1), (b"b\n", 1, -1)]),
    "ignore: many folders": ("ignore", [(b"**/", 25, -1), (b"zz\n", 1, -1)]),
    "ignore: nothing but stars": ("ignore", [(b"*", 81, -1), (b"b\n", 1, -1)]),
    "ignore: thousands of patterns": ("ignore", [(b"a*b\n", 100_000, 1)]),
    "Dockerfile: variables in variables": ("dockerfile", [(b"FROM ", 1, -1), (b"${a-{", 200_000, -1)]),
    "Dockerfile: mounts": ("dockerfile", [(b"RUN ", 1, -1), (b"--mount=", 120_000, -1)]),
    "Dockerfile: lines that go on": ("dockerfile", [(b"a\\\n", 330_000, -1)]),
    "Dockerfile: a stage of 5,000 digits": (
        "dockerfile", [(b"FROM a\nCOPY --from=", 1, -1), (b"9", 5000, -1), (b" a b\n", 1, -1)],
    ),
    "log: a secret again and again": ("redact", [(b"a", MIB, -1)]),
    "log: two halves of a secret": ("redact", [(b"ab", MIB // 2, -1)]),
    "name: nothing but accents": ("request", [(b"a/b@1\nx\n/artifacts/x/\n\nx=", 1, -1), ("\u0300\u0316".encode(), 25_000, -1)]),
    "mock: large files": (
        "mock",
        [(b'{"outputs":{"properties":{', 1, -1),
         (b'"a.txt":{"properties":{"size_bytes":{"const":1048576}}},', 10_000, 2), (b'"z.txt":true}}}', 1, -1)],
    ),
    "mock: a path of many folders": (
        "mock", [(b'{"outputs":{},"mock":{"outputs":{"', 1, -1), (b"a/", 400_000, -1), (b'":""}}}', 1, -1)],
    ),
    "memo: lists in lists": ("memo", [(b'{"meta":', 1, -1), (b"[", 200_000, -1)]),
    "engine: a context of lists in lists": ("endpoint", [(b"[", 100_000, -1)]),
    "engine: a message of lists in lists": ("progress", [(b"[", 100_000, -1)]),
    "engine: a chunk a byte": (
        "http1", [(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", 1, -1), (b"1\r\na\r\n", 20_000, -1)],
    ),
    "engine: frames of nothing": ("frames", [(b"\1\0\0\0\0\0\0\0", 15_000, -1)]),
}  # fmt: skip


@pytest.fixture(scope="module", params=PARSERS)
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Parser, Parse]:
    parser = PARSERS[request.param]
    return parser, parser.make(tmp_path_factory.mktemp(request.param))


@given(choice=st.randoms())
def test_what_is_nearly_right_is_answered_or_refused(fuzzed: tuple[Parser, Parse], choice: Random) -> None:
    parser, parse = fuzzed
    data = mutated(choice, list(parser.seeds), words_of(parser))
    try:
        parse(data)
    except parser.refusals:
        return


def test_no_bomb_costs_seconds_or_hundreds_of_mib(tmp_path: Path) -> None:
    found = judged(list(BOMBS.values()), tmp_path)
    whys = {name: why for name, one in zip(BOMBS, found, strict=True) if (why := verdict(one, PATIENCE))}
    assert not whys


def test_the_driver_finds_a_traceback_a_hang_and_a_bomb_that_were_planted(tmp_path: Path) -> None:
    controls = ["control-traceback", "control-slow", "control-memory"]
    driver = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(driver), "--inputs", "600", "--folder", str(tmp_path), *controls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr
    assert all(f"/{name}-" in done.stdout for name in controls), done.stdout

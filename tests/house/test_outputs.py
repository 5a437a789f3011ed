"""What a processor may not leave: each is one line with a code, the name of the file and the next step."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory

HEAD = "import json, os, socket\nos.chdir(os.environ['THEORY_ROOT'] + '/job/out')\n"
# name: (program, code, what its message begins with)
FAULTS = {
    "out is a link": (
        "os.chdir('..'); os.rmdir('out'); os.symlink('/etc', 'out')",
        "ERR_OUTPUT_PATH",
        "the folder for outputs was replaced or removed",
    ),
    "a link": ("os.symlink('/etc/passwd', 'a')", "ERR_OUTPUT_PATH", "the output 'a' is a link"),
    "a pipe": ("os.mkfifo('a')", "ERR_OUTPUT_PATH", "the output 'a' is a pipe"),
    "a socket": ("socket.socket(socket.AF_UNIX).bind('a')", "ERR_OUTPUT_PATH", "the output 'a' is a socket"),
    "sparse": (
        "[open(n, 'w').truncate(9 << 30) for n in 'abcdefgh']",
        "ERR_OUTPUT_LIMIT",
        "the outputs are larger than 64 GiB with '",
    ),
    "too many": (
        "[open(str(n), 'w').close() for n in range(20_001)]",
        "ERR_OUTPUT_LIMIT",
        "the outputs are more than 20,000 files",
    ),
    "too deep": (
        "[(os.mkdir('d'), os.chdir('d')) for _ in range(1_500)]",
        "ERR_OUTPUT_LIMIT",
        "the outputs are nested deeper than 32 folders: 'd/d/",
    ),
    "undecodable": ("open(b'\\xff', 'w')", "ERR_OUTPUT_PATH", "the output '?' has a name that is not UTF-8"),
    "control": (
        "open('a\\x1b[31m\\n', 'w')",
        "ERR_OUTPUT_PATH",
        "the output 'a\\u001b[31m\\u000a' has a control",
    ),
    "bidi": ("open('a\\u202ecod.exe', 'w')", "ERR_OUTPUT_PATH", "the output 'a\\u202ecod.exe' has a control"),
    "one name": (
        "open('\\ufb01le', 'w'); open('FILE', 'w')",
        "ERR_OUTPUT_DUPLICATE",
        "the outputs 'FILE' and 'ﬁle' are one file on some systems",
    ),
    "bad JSON": (
        "open('a.json', 'w').write('{\\n \"a\": oops}')",
        "ERR_OUTPUTS",
        "the output 'a.json' is not JSON: expecting value at line 2, column 7",
    ),
    "meta is no object": (
        "open('meta.json', 'w').write('[]')",
        "ERR_OUTPUTS",
        "meta.json is not a JSON object",
    ),
    "meta is huge": (
        "open('meta.json', 'w').write(json.dumps({'a': 'x' * 5_000_000}))",
        "ERR_OUTPUTS",
        "meta.json is larger than 4 MiB: 5,000,009 bytes",
    ),
    "meta is deep": (
        "open('meta.json', 'w').write('[' * 100_000 + ']' * 100_000)",
        "ERR_OUTPUTS",
        "the output 'meta.json' is not JSON: nested deeper than 64 levels",
    ),
    "meta has NaN": (
        "open('meta.json', 'w').write('{\"a\": NaN}')",
        "ERR_OUTPUTS",
        "the output 'meta.json' is not JSON: NaN",
    ),
}


@pytest.mark.parametrize(("program", "code", "message"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_output_is_told(
    theory: Theory, entry: EntryMaker, program: str, code: str, message: str
) -> None:
    root = entry("test/bad@1", HEAD + program)
    result = theory("run", "test/bad@1", "--adapter", "process", "--registry", root, "--json")
    error = result.line["error"]
    assert (error["code"], result.code) == (code, 1)
    assert error["message"].startswith(message)
    assert error["hint"]
    assert os.listdir(theory.home / "state") == []


def test_no_output_at_all_is_a_success_and_modes_are_left_behind(theory: Theory, entry: EntryMaker) -> None:
    root = entry(
        "test/odd@1", HEAD + "if os.environ['THEORY_SEED'] == '1':\n  open('a', 'w'); os.chmod('a', 0o6777)"
    )
    run = ("run", "test/odd@1", "--adapter", "process", "--registry", root, "--json", "--save-dir", "saved")
    assert theory(*run).ok().line["outputs"] == []
    assert len(theory(*run, "--seed", "1").ok().line["outputs"]) == 1
    assert (theory.cwd / "saved" / "artifacts" / "outputs" / "a").stat().st_mode & 0o7111 == 0


def test_meta_that_tries_to_be_cores_is_warned_of_and_left_out(theory: Theory, entry: EntryMaker) -> None:
    said = {
        "memo": "hit",
        "adapter": "mine",
        "model": "m",
        "\x1b[2Jkey": "v",
        **{f"k{n}": n for n in range(40)},
    }
    root = entry("test/meta@1", HEAD + f"open('meta.json', 'w').write({json.dumps(said)!r})")
    result = theory("run", "test/meta@1", "--adapter", "process", "--registry", root, "--json").ok()
    meta = result.line["meta"]
    assert (meta["adapter"], meta["memo"], meta["model"]) == ("process", "off", "m")
    assert sum(key.startswith("k") for key in meta) < 32
    assert "Warning: adapter in meta.json is a name of core's own" in result.stderr
    assert "more than 32 scalars" in result.stderr
    assert "\x1b" not in result.stderr

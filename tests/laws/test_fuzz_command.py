# ruff: noqa: RUF005 - lists of odd things are easier to read in parts
"""Whatever is typed: no traceback, a documented exit status, one answer, no hang, bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.bed import write_entry
from core.commandline import ADAPTER
from theory.request import is_execution_id

if TYPE_CHECKING:
    from collections.abc import Iterator

STATUSES = {
    0,
    1,
    2,
    3,
    4,
    5,
    69,
    75,
    124,
    130,
    141,
    143,
}  # docs/reference/errors.md, but for 70: our own bugs
TESTS = Path(__file__).parent.parent

# Neither / nor ~ where a name may become a path: nothing is written outside the folder of the test.
NAMES = st.text(st.characters(exclude_characters="/~\0", exclude_categories=["Cs"]), max_size=12)
ODD = st.sampled_from(
    ["", " ", "-", "@", "@x", "\x1b[31m", "\u202e", "é", "e\u0301", "\udce9", "-1", "1e3", "NaN", "9" * 400]
)
NUMBERS = st.integers(-(2**63), 2**64).map(str) | st.floats().map(str)
WORLD = st.lists(
    st.sampled_from(["a", "..", "outputs", "a.txt", "{execution_id}", "{x}", "\x1b", "inputs"]) | NAMES,
    max_size=4,
).map(lambda steps: "/artifacts/" + "/".join(steps))
REFS = st.sampled_from(
    ["test/thing@1", "test/strict@1", "test/thing", "TEST/thing@1", "test/thnig@1", "bad/entry@1", "a/b@0"]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | NAMES
    | st.sampled_from(["\ud800", "$attach"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "file", "$attach", "$artifact", "cid", "exit_code", "lines"]) | NAMES,
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
).map(json.dumps)
INPUTS = JSON | st.sampled_from(
    ["{", "[]", "{}", '{"text": "a"}', '{"file": {"$attach": "x"}}', "-", "@x", "[" * 9000, '{"a":1,"a":2}']
)
VALUES = NAMES | ODD | NUMBERS | WORLD | INPUTS
IDS = (
    st.sampled_from(["01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058"]) | VALUES
)
FLAGS = ["--json", "--stream", "--memo", "--no-memo", "--refresh", "--quiet", "--build", "--help", "--debug"]


def option(name: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return values.map(
        lambda value: [name, value] if name == "-o" or value.startswith("-") else [f"{name}={value}"]
    )


def pairs(names: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}={}".format, st.sampled_from(names), values)


# Each is nearly right, so that a line of several gets far; one in a few is anything.
PLAUSIBLE = st.one_of(
    st.sampled_from(FLAGS).map(lambda flag: [flag]),
    option("--inputs-json", INPUTS),
    option("--inputs-json", INPUTS),
    option("--adapter-opts-json", JSON | st.sampled_from(['{"exit_code": 3}', '{"lines": "\\\\x1b[31m"}'])),
    option("-o", pairs(["exit_code", "lines", "cost_micro_usd"], st.integers(-2, 300).map(str) | NAMES)),
    option("--attach", pairs(["x", "y"], st.sampled_from(["-", "stdin", ".", "entries", "none"]))),
    option("--adapter", st.sampled_from(["fake", "fake", "broken", "mock", "local"])),
    option("--plan", st.sampled_from(["default", "team a", "é", "e\u0301", " "])),
    option("--write-prefix", WORLD.map(lambda path: path + "/")),
    option("--seed", st.integers(-1, 2**53).map(str)),
    option("--timeout", st.sampled_from(["1", "0.5", "1e3", "0", "inf"])),
    option("--reserve-usd", st.sampled_from(["0.02", "0", "1e3", "9007199254.740991"])),
    option("--execution-id", IDS),
    option("--store", st.sampled_from(["elsewhere", "s3:", "file:", "stdin"])),
    option("--registry", st.sampled_from(["entries", "nowhere", "stdin"])),
    option("--save-first", st.sampled_from(["first", "entries", "", "x" * 300])),
    option("--save-dir", st.sampled_from(["saved", "stdin", "x" * 300])),
)
NAMED = [
    "--inputs-json",
    "--adapter-opts-json",
    "-o",
    "--attach",
    "--adapter",
    "--plan",
    "--write-prefix",
    "--seed",
]
NAMED += [
    "--timeout",
    "--reserve-usd",
    "--execution-id",
    "--store",
    "--registry",
    "--save-first",
    "--save-dir",
    "--ref",
]
ANYTHING = st.tuples(st.sampled_from(NAMED), VALUES).map(list) | VALUES.map(lambda value: [value])


def joined(parts: list[list[str]]) -> list[str]:
    return [word for part in parts for word in part]


LINES = st.lists(PLAUSIBLE, max_size=4)
RUNS = st.one_of(
    st.builds(lambda options: ["run", "test/strict@1", *joined(options)], LINES),
    st.builds(lambda options: ["run", "test/thing@1", *joined(options)], LINES),
    st.builds(lambda options, odd: ["run", "test/thing@1", *joined(options), *odd], LINES, ANYTHING),
    st.builds(lambda ref, options: ["run", ref, *joined(options)], REFS | VALUES, LINES),
)
OTHERS = st.builds(
    lambda command, words: [*command, *joined(words)],
    st.sampled_from(
        [
            ["ls"],
            ["show"],
            ["cat"],
            ["get"],
            ["plan"],
            ["plan", "create"],
            ["plan", "limit"],
            ["plan", "show"],
            ["plan", "ls"],
        ]
        + [
            ["registry", "ls"],
            ["registry", "show"],
            ["registry", "check"],
            ["adapters", "show"],
            ["adapters", "ls"],
            ["schema"],
        ]
        + [["config"], ["plugins"], ["doctor"], []]
    ),
    st.lists(
        VALUES.map(lambda value: [value]) | option("--limit", NUMBERS) | option("--plan", NAMES) | ANYTHING,
        max_size=3,
    ),
)
ENVIRONS = st.dictionaries(
    st.sampled_from(
        [
            "THEORY_ADAPTER",
            "THEORY_PLAN",
            "THEORY_WRITE_PREFIX",
            "THEORY_STORE",
            "THEORY_PLUGINS",
            "THEORY_REGISTRY",
        ]
        + ["THEORY_SECRETS_FILE", "COLUMNS", "NO_COLOR", "THEORY_HOME", "XDG_CONFIG_HOME", "LC_ALL"]
    ),
    NAMES | ODD | st.sampled_from(["0", "20", "C", "fake", "ftp://x"]),
    max_size=2,
)
NOTHING: st.SearchStrategy[dict[str, str]] = st.just({})
NOW_AND_THEN = NOTHING | NOTHING | ENVIRONS


class Server:
    """The child, and how to ask it; one that has died is named with what it was asked."""

    def __init__(self, folder: Path) -> None:
        site, info = folder / "site", folder / "site" / "theory_cli_fake-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "theory_cli_fake.py").write_text(ADAPTER)
        (site / "theory_cli_broken.py").write_text("raise RuntimeError('\x1b[31mno')\n")
        (info / "entry_points.txt").write_text(
            "[theory.adapters]\nfake = theory_cli_fake:adapter\nbroken = theory_cli_broken\n"
        )
        self.cwd = folder / "a" / "b" / "c"
        self.cwd.mkdir(parents=True)
        entries = self.cwd / "entries"
        write_entry(entries)
        write_entry(
            entries,
            "test/strict@1",
            inputs={"properties": {"text": {"type": "string"}}, "additionalProperties": False},
        )
        (write_entry(entries, "bad/entry@1") / "processor.yaml").write_text("ref: &a bad\nx: *a\n")
        paths = [*sys.path, str(TESTS), str(site)]
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.cwd),
            "THEORY_HOME": str(self.cwd / "home"),
            "THEORY_REGISTRY": str(entries),
            "THEORY_ADAPTER": "fake",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }
        self._complaints = folder / "complaints"
        with self._complaints.open("wb") as complaints:
            self._child = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("served.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                cwd=self.cwd,
                env=environ,
            )

    def __call__(self, arguments: list[str], environ: dict[str, str], stdin: bytes) -> tuple[int, str, str]:
        case = json.dumps({"arguments": arguments, "environ": environ, "stdin": stdin.hex()})
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(case.encode() + b"\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        assert answer, f"the child hung or died: {self._complaints.read_text()}"
        code, out, err = json.loads(answer)
        return code, out, err

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(60)
        assert self._child.stdout is not None
        self._child.stdout.close()


@pytest.fixture(scope="module")
def theory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("served"))
    yield server
    server.close()


def check(code: int, out: str, err: str) -> None:
    assert code in STATUSES, err
    assert "Traceback" not in err
    assert "\x1b" not in out + err


@given(
    arguments=RUNS,
    environ=NOW_AND_THEN,
    stdin=st.binary(max_size=20) | INPUTS.map(lambda text: text.encode("utf-8", "replace")),
)
@example(arguments=["run", "test/thing@1"], environ={}, stdin=b"")
@example(
    arguments=["run", "test/strict@1", "--attach", "x=stdin", "--inputs-json", '{"text": 1}'],
    environ={},
    stdin=b"",
)
def test_a_run_answers_with_one_line_and_a_documented_status(
    theory: Server, arguments: list[str], environ: dict[str, str], stdin: bytes
) -> None:
    arguments = [word for word in arguments if word != "--debug"]
    code, out, err = theory([*arguments, "--json"], environ, stdin)
    check(code, out, err)
    if "--" in arguments or out.startswith("Usage: ") or "--help" in arguments:
        return
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 1 or "--stream" in arguments
    assert out.endswith("\n")
    answer: dict[str, Any] = lines[-1]
    assert is_execution_id(answer["execution_id"])
    assert (answer["status"] == "success") == (code == 0)
    if code:
        assert answer["error"]["exit_status"] == code
        assert answer["error"]["message"]
        assert answer["error"]["hint"] or code == 1, answer


@given(arguments=OTHERS | st.lists(VALUES, max_size=3), environ=NOW_AND_THEN)
def test_any_other_command_says_what_is_wrong_on_stderr_alone(
    theory: Server, arguments: list[str], environ: dict[str, str]
) -> None:
    arguments = [word for word in arguments if word != "--debug"]
    code, out, err = theory(arguments, environ, b"")
    check(code, out, err)
    if code == 2 and arguments[:2] != ["registry", "check"]:
        assert err.startswith(("Error: ", "Usage: ", "Warning: "))
        assert "run" in arguments or out == ""

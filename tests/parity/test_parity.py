"""One request gives the same bytes, names and index everywhere; and the same failure, in the same words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from parity.parity import ANYTHING, CHECKED, WAYS, Way, answer, run
from processors.runs import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from theory import Runner

HERE = Way("process")
AT_ONCE = 6
TRIPS = (REPOSITORY / "examples" / "bike_trips.csv").read_bytes()
ODD = 'né,"a ""b""",c\n1,,2026-01-01\n\n-2.5,x,2026-02-30\n3,"l\nl",\n'.encode("cp1252")

PUBLISHED: dict[str, tuple[str, dict[str, Any], bytes | None]] = {
    "a table": ("data/profile@1", {"table": {"$attach": "file"}}, TRIPS),
    "an odd table": ("data/profile@1", {"table": {"$attach": "file"}, "sample_rows": 2}, ODD),
    "no table": ("data/profile@1", {"table": {"$attach": "file"}}, b"\0\1\2"),
    "a file": ("text/wordcount@1", {"file": {"$attach": "file"}}, "to be or not to bé\n".encode() * 1000),
    "a text": ("text/wordcount@1", {"text": "to be or not to be"}, None),
    "a wrong input": ("text/wordcount@1", {"text": 5}, None),
}


@pytest.mark.parametrize("way", [WAYS["local"], WAYS["modal"]], ids=lambda way: way.adapter)
@pytest.mark.parametrize("case", PUBLISHED)
def test_what_we_publish_answers_alike(runner: Runner, way: Way, case: str, tmp_path: Path) -> None:
    ref, inputs, content = PUBLISHED[case]
    attached = None
    if content is not None:
        (tmp_path / "some file.csv").write_bytes(content)
        attached = {"file": tmp_path / "some file.csv"}
    here, there = (answer(runner, run(runner, at, ref, inputs, attachments=attached)) for at in (HERE, way))
    assert there == here


# What a program may do well, and what each way has to keep of it.
GOOD = {
    "nothing": "",
    "a name of 255 bytes": "open('é' * 126 + 'abc', 'w').write('x')",
    "folders and empty files": "os.makedirs('a/b'); open('a/b/c', 'w'); open('a/e', 'w'); os.mkdir('empty')",
    "modes": "open('a', 'w').write('x'); os.chmod('a', 0); open('b', 'w').write('y'); os.chmod('b', 0o6755)",
    "several megabytes": "open('big.bin', 'wb').write(bytes(range(256)) * 20_000)",
    "a hundred files": "[open(f'{n:03}.txt', 'w').write(str(n)) for n in range(100)]",
    "meta": 'open(\'meta.json\', \'w\').write(\'{"model": "m", "n": 5, "deep": {}}\')',
    "odd names": "[open(n, 'w') for n in ('a b', \"a'b\", 'a\"b', '$HOME', '-rf', 'a;b', '*', '漢', '#')]",
    "its environment": (
        "open('env.json', 'w').write(json.dumps({n: os.environ.get(n) for n in ('THEORY_REF', 'THEORY_SEED',"
        " 'PYTHONHASHSEED', 'SOURCE_DATE_EPOCH', 'TZ', 'LC_ALL', 'OMP_NUM_THREADS', 'USER', 'LOGNAME',"
        " 'PYTHONUNBUFFERED')}))"
    ),
}

# What a program may do that is a failure everywhere, and its code.
BAD = {
    "an exit code": (
        "import sys; print('so', 'it ends', sep='\\n', file=sys.stderr); sys.exit(7)",
        "ERR_PROCESSOR",
    ),
    "an exception": ("raise SystemExit('no more')", "ERR_PROCESSOR"),
    "a signal": ("import signal; os.kill(os.getpid(), signal.SIGTERM)", "ERR_PROCESSOR"),
    "a crash": ("import signal; os.kill(os.getpid(), signal.SIGSEGV)", "ERR_PROCESSOR"),
    "no time left": ("import time; time.sleep(60)", "ERR_TIMEOUT"),
    "a link": ("os.symlink('/etc/passwd', 'a')", "ERR_OUTPUT_PATH"),
    "a link that leads nowhere": ("os.symlink('/nowhere', 'a')", "ERR_OUTPUT_PATH"),
    "a link to a folder": ("os.mkdir('d'); os.symlink('d', 'a')", "ERR_OUTPUT_PATH"),
    "a pipe": ("os.mkfifo('a')", "ERR_OUTPUT_PATH"),
    "a socket": ("import socket; socket.socket(socket.AF_UNIX).bind('a')", "ERR_OUTPUT_PATH"),
    "bytes that are no name": ("open(b'\\xff', 'w')", "ERR_OUTPUT_PATH"),
    "a control character": ("open('a\\x1b[31m\\n', 'w')", "ERR_OUTPUT_PATH"),
    "a bidi character": ("open('a\\u202ecod.exe', 'w')", "ERR_OUTPUT_PATH"),
    "a name in another form": ("open('a\\u0301', 'w')", "ERR_OUTPUT_PATH"),
    "a backslash": ("open('a\\\\b', 'w')", "ERR_OUTPUT_PATH"),
    "a percent sign": ("open('a%20b', 'w')", "ERR_OUTPUT_PATH"),
    "one name twice": ("open('\\ufb01le', 'w'); open('FILE', 'w')", "ERR_OUTPUT_DUPLICATE"),
    "too deep": ("[(os.mkdir('d'), os.chdir('d')) for _ in range(40)]; open('f', 'w')", "ERR_OUTPUT_LIMIT"),
    "no JSON": ("open('a.json', 'w').write('{\\n \"a\": oops}')", "ERR_OUTPUTS"),
    "meta that is no object": ("open('meta.json', 'w').write('[]')", "ERR_OUTPUTS"),
    "meta with NaN": ("open('meta.json', 'w').write('{\"a\": NaN}')", "ERR_OUTPUTS"),
}

# What the schema of the outputs refuses, and its words.
UGLY = {
    "a file is missing": ("pass", '"answer.json" is a required property'),
    "a member is missing": ("open('answer.json', 'w').write('{}')", '"n" is a required property'),
    "another type": ("open('answer.json', 'w').write('[1]')", 'is not of type "object"'),
}


@pytest.fixture(scope="module")
def asked(runner: Runner) -> Iterator[Callable[[Way, str], Any]]:
    """What each way answers in each case: all are asked at once, since most of the time they wait."""
    programs = {case: (ANYTHING, program) for case, program in GOOD.items()}
    programs |= {case: (ANYTHING, program) for case, (program, _) in BAD.items()}
    programs |= {case: (CHECKED, program) for case, (program, _) in UGLY.items()}

    def ask(way: Way, ref: str, program: str, timeout: float | None) -> Any:
        return answer(runner, run(runner, way, ref, {"program": program}, timeout=timeout, seed=7))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = {
            (way, case): pool.submit(ask, way, ref, program, 1 if "sleep" in program else None)
            for case, (ref, program) in programs.items()
            for way in (HERE, *WAYS.values())
        }
        yield lambda way, case: answers[way, case].result()


@pytest.mark.parametrize("case", GOOD)
def test_what_a_program_leaves_is_kept_alike(asked: Callable[[Way, str], Any], way: Way, case: str) -> None:
    assert asked(way, case) == asked(HERE, case)
    assert "outputs" in asked(way, case)


@pytest.mark.parametrize("case", BAD)
def test_a_failure_is_told_alike(asked: Callable[[Way, str], Any], way: Way, case: str) -> None:
    assert asked(way, case) == asked(HERE, case)
    assert asked(way, case)["code"] == BAD[case][1]


@pytest.mark.parametrize("case", UGLY)
def test_what_the_schema_refuses_is_refused_alike(
    asked: Callable[[Way, str], Any], way: Way, case: str
) -> None:
    assert asked(way, case) == asked(HERE, case)
    assert asked(way, case)["code"] == "ERR_OUTPUTS"
    assert UGLY[case][1] in asked(way, case)["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"write_prefix": "/artifacts/outputs"},
        {"attachments": {"file": "/nowhere/at/all"}},
        {"inputs": {"program": "", "file": {"$attach": "other"}}},
        {"options": {"nosuch": 1}},
        {"timeout": -1},
        {"seed": 2**53},
    ],
    ids=", ".join,
)
def test_a_wrong_request_is_refused_alike(runner: Runner, way: Way, more: dict[str, Any]) -> None:
    inputs = {"program": "", **more.get("inputs", {})}
    options = more.get("options")
    asked = {name: value for name, value in more.items() if name not in {"inputs", "options"}}
    here, there = (
        answer(runner, run(runner, at, ANYTHING, inputs, options=options or at.options, **asked))
        for at in (HERE, way)
    )
    assert there["code"] == here["code"]
    assert there["exit"] == here["exit"] == 2

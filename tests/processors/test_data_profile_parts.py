"""data/profile reads a large file in parts, several at once: the same bytes come out as from one reading."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from processors.runs import ENTRIES, MIB, Run

if TYPE_CHECKING:
    from pathlib import Path

REF = "data/profile@1"
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

cells = st.one_of(
    st.sampled_from(["", "NA", "7", "-3.5", "2024-02-29", "yes", "word", "\xfc", " "]),
    st.text(st.sampled_from('ab"\n\r,;1\xe9'), max_size=12),
)
rows = st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=40)


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """The program with parts of some fifty bytes."""
    return changed(tmp_path / "parted", "parts.py", r"PAIR = 1 << 25", "PAIR = 96")


def changed(folder: Path, module: str, pattern: str, replacement: str) -> Path:
    """Copy the program, with one line of one module put differently."""
    if not folder.exists():
        shutil.copytree(ENTRIES / "data" / "profile" / "1", folder)
    path = folder / module
    text, number = re.subn(pattern, replacement, path.read_text(encoding="utf-8"))
    assert number == 1
    path.write_text(text, encoding="utf-8")
    return folder


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set('",\r\n') else cell


def table(content: list[list[str]], end: str = "\n") -> str:
    return end.join(["x,y", *(",".join(map(quoted, row)) for row in content)]) + end


START = datetime(2020, 1, 1)  # noqa: DTZ001 - what the cells say, without a time zone
LOOKS_LIKE_ROWS = [["7", "\n" + "8,9\n" * 60], ["1", "2"], *[["3", "4"]] * 30]


@few
@given(content=rows, end=st.sampled_from(["\n", "\r\n"]))
@example(content=LOOKS_LIKE_ROWS, end="\n")
@example(content=[*[["3", "4"]] * 30, ["7", "8,9\n" * 200]], end="\n")
def test_a_table_in_parts_is_the_table(run: Run, parted: Path, content: list[list[str]], end: str) -> None:
    whole = run(REF, table(content, end))
    assert whole.exit_code == 0
    assert run(REF, table(content, end), program=parted).files == whole.files


@few
@given(
    lines=st.lists(
        st.builds(
            str.__add__,
            st.text(st.sampled_from('ab",1\xe9'), max_size=12),
            st.sampled_from(["\n", "\n", "\r\n", "\r"]),
        ),
        min_size=20,
        max_size=60,
    )
)
@example(lines=[*["1,2\n", "3,4,5\r"] * 12, *["6,7\n"] * 30])
def test_quotes_that_enclose_nothing_do_not_disturb_the_parts(
    run: Run, parted: Path, lines: list[str]
) -> None:
    content = "x,y\n" + "".join(lines)
    assert run(REF, content, program=parted).files == run(REF, content).files


def test_lines_that_end_in_cr_alone_are_read_as_one_part(run: Run, parted: Path) -> None:
    changed(parted, "reading.py", "LINE_LIMIT = 16 << 20", "LINE_LIMIT = 64")
    content = "x,y\r" + "".join(f"{n},{n % 7}\r" for n in range(300))
    assert run(REF, content, program=parted).files == run(REF, content).files


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_an_encoding_does_not_disturb_the_parts(run: Run, parted: Path, codec: str) -> None:
    for text in ("x,y\n" + "1,\xfc\u20ac\n" * 90, "x\n" + "\xfc\u20ac\n" * 90):
        content = text.encode(codec)
        assert run(REF, content, program=parted, processes=2).files == run(REF, content).files


def test_damaged_bytes_do_not_disturb_the_parts(run: Run, parted: Path) -> None:
    cell = "\xfc" * 60
    content = b"x,y\n" + (f'1,"{cell}\n{cell}'.encode() + b'\xfc"\n') * 100
    assert run(REF, content)["profile.json"]["table"]["replaced_characters"] == 100
    assert run(REF, content, program=parted).files == run(REF, content).files


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(run: Run, parted: Path, processes: int) -> None:
    content = table([*LOOKS_LIKE_ROWS, *[["5", "six"]] * 200])
    alone = run(REF, content, program=parted)
    together = run(REF, content, program=parted, processes=processes)
    assert (together.files, together.stdout, together.stderr) == (alone.files, alone.stdout, alone.stderr)


def test_each_process_reads_its_parts(run: Run, parted: Path) -> None:
    changed(parted, "worker.py", "for span in spans:", "for span in spans:\n    sys.stderr.write('part.')")
    content = "x,y\n" + "5,six\n" * 500
    assert run(REF, content, program=parted).stderr == ""
    assert run(REF, content, program=parted, processes=2).stderr == "part." * 16


def test_a_part_does_not_begin_inside_a_quoted_cell(run: Run, parted: Path) -> None:
    begin = "table, fault = task.table\\(\\), None"
    changed(
        parted,
        "table.py",
        begin,
        "__import__('sys').stderr.write('part.'); table, fault = task.table(), None",
    )
    content = "x,y\n" + '5,"a\nb\nc\nd"\n' * 300
    assert run(REF, content, program=parted, processes=2).stderr == "part." * 16


@pytest.mark.parametrize(
    ("line", "changed_to", "columns"),
    [
        pytest.param("import pickle", "raise SystemExit", 9000, id="before it was told"),
        pytest.param("for span in spans:", "raise SystemExit", 2, id="at once"),
        pytest.param(
            "for span in spans:",
            "for span in spans:\n    sys.stdout.buffer.write(b'\\\\x80\\\\x05half'); raise SystemExit",
            2,
            id="in a part",
        ),
    ],
)
def test_a_process_that_is_lost_costs_time_and_nothing_else(
    run: Run, parted: Path, line: str, changed_to: str, columns: int
) -> None:
    content = ",".join(f"c{n}" for n in range(columns)) + "\n" + (",".join(["5"] * columns) + "\n") * 40
    alone = run(REF, content, program=parted)
    changed(parted, "worker.py", line, f"{changed_to}\n{line}")
    together = run(REF, content, program=parted, processes=2)
    assert (together.exit_code, together.files, together.stderr) == (0, alone.files, "")


def test_a_fault_in_a_later_part_names_the_record_of_the_file(run: Run, parted: Path) -> None:
    content = "x,y\n" + "5,six\n" * 100_000 + '1,"' + "z" * (MIB + 1) + '"\n' + "5,six\n" * 50
    done = run(REF, content, program=parted, processes=2)
    assert (done.exit_code, done.files) == (1, {})
    assert done.stderr == run(REF, content).stderr
    assert "record 100,002: a cell is longer than" in done.stderr


def test_figures_of_parts_are_exact_or_as_near_as_they_say(run: Run, parted: Path, tmp_path: Path) -> None:
    number = 30_000
    lines = (
        f"{n * 7919 % number},{n * 7919 % 99_991 / 8},{'w' * (n % 40)}{n},{'' if n % 3 else n % 5},d{n % 9},"
        f"{'often' if n % 4 == 0 else n},"
        f"{f'odd{n}' if n % 4000 == 3999 else n},"  # no misfit in the first part
        f"{f't{n}' if n % 25 == 0 else ('yes', 'no')[n % 2]},"
        f"{n if n < 20_000 else n + 0.5},"
        f"{(START + timedelta(minutes=n)).isoformat()}{'' if n < 15_000 else 'Z'},"
        f"{blank(n) if n > 10_000 else f'w{n}'}"
        for n in range(number)
    )
    content = "id,value,word,gaps,few,skewed,misfits,flag,late,zone,blanks\n" + "\n".join(lines) + "\n"
    changed(parted, "parts.py", "PAIR = 96", f"PAIR = {len(content) // 4}")
    changed(parted, "columns.py", r"min\(16_384,", "min(128,")
    undivided = changed(tmp_path / "undivided", "columns.py", r"min\(16_384,", "min(128,")
    whole, parts = (run(REF, content, program=program).columns for program in (undivided, parted))
    assert not whole["word"]["top"]["exact"]
    assert [exact(column) for column in parts.values()] == [exact(column) for column in whole.values()]
    quantiles = parts["id"]["quantiles"]
    assert 0.7 * whole["id"]["quantiles"]["rank_error"] < quantiles["rank_error"] < 0.02
    for percent in (5, 25, 50, 75, 95):
        assert quantiles[f"p{percent:02}"] / number == pytest.approx(
            percent / 100, abs=quantiles["rank_error"]
        )
    top = parts["skewed"]["top"]
    assert 0.5 * whole["skewed"]["top"]["error"] < top["error"]
    assert (top["values"][0]["value"], number // 4 - top["error"] <= top["values"][0]["count"]) == (
        "often",
        True,
    )


def blank(number: int) -> str:
    """One of a thousand cells without a value."""
    return f"{number % 1024:010b}".replace("0", " ").replace("1", "\t")


def exact(column: dict[str, Any]) -> dict[str, Any]:
    """What is no estimate."""
    names = (
        "type", "present", "missing", "missing_markers", "unique", "kinds", "mismatched", "min", "max",
        "lengths", "examples", "true", "false", "offsets",
    )  # fmt: skip
    found = {name: column.get(name) for name in names}
    if column.get("top", {}).get("exact"):
        found["top"] = column["top"]
    if "histogram" in column:
        found["values"] = sum(column["histogram"]["counts"])
    found["moments"] = [f"{column[name]:.9g}" for name in ("mean", "stddev") if name in column]
    return found


def test_progress_of_parts_grows_to_one(run: Run, parted: Path) -> None:
    events = [
        json.loads(line) for line in run(REF, "x,y\n" + "5,six\n" * 500, program=parted).stdout.splitlines()
    ]
    fractions = [event["fraction"] for event in events]
    assert fractions == sorted(set(fractions))
    assert (len(fractions), fractions[-1], events[-1]["message"]) == (16, 1.0, "500 rows")


def test_a_process_beside_the_first_one_needs_as_little_memory(run: Run, parted: Path) -> None:
    changed(parted, "parts.py", "PAIR = 96", f"PAIR = {8 * MIB}")
    told = "print(open('/proc/self/status').read(), file=sys.stderr)"
    with (parted / "worker.py").open("a", encoding="utf-8") as file:
        file.write(f"{told}\n")
    lines = "".join(f"{n},{n * 7919 % 999983:06d}{'-filler' * 12},{n / 7:.9f}\n" for n in range(200_000))
    done = run(REF, "id,text,number\n" + lines, program=parted, processes=2)
    peaks = [int(kib) / 1024 for kib in re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)]
    assert len(peaks) == 2
    assert max(peaks) < 80

"""data/profile as a user meets it: a file goes in, figures come out."""

from __future__ import annotations

import hashlib
import html
import json
import math
import random
import re
import shutil
import statistics
import subprocess
import sys
from datetime import date, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from processors.runs import MIB, REPOSITORY, Run

if TYPE_CHECKING:
    from pathlib import Path

REF = "data/profile@1"
EXAMPLE = REPOSITORY / "examples" / "bike_trips.csv"
EXAMPLE_SHA256 = "5205c7211762b027e8ec4ea5215d0b95f6792b817d8ab2b53353436f7cd6ef15"
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def column(cells: list[str]) -> str:
    return "x,y\n" + "".join(f"{cell},1\n" for cell in cells)


def test_the_profile_of_the_example_is_the_one_we_know(run: Run) -> None:
    done = run(REF, EXAMPLE, name="bike_trips.csv")
    assert hashlib.sha256(done.files["profile.json"]).hexdigest() == EXAMPLE_SHA256


def test_the_example_has_the_types_that_its_columns_mean(run: Run) -> None:
    columns = run(REF, EXAMPLE).columns
    assert {name: found["type"] for name, found in columns.items()} == {
        "trip_id": "integer", "started_at": "datetime", "day": "date", "from_station": "text",
        "to_station": "text", "bike": "text", "distance_km": "number", "minutes": "integer",
        "member": "boolean", "rating": "integer", "fare_chf": "number", "remark": "text",
    }  # fmt: skip


def test_rows_and_columns_reach_the_meta_file(run: Run) -> None:
    assert run(REF, "a,b\n1,2\n3,4\n")["meta.json"] == {"rows": 2, "columns": 2}


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        pytest.param(["1", "-2", "+3"], "integer", id="integers with signs"),
        pytest.param(["1", "2.5"], "number", id="integers and a decimal"),
        pytest.param(["1e3", "-.5", "5."], "number", id="exponents and bare points"),
        pytest.param(["007", "008"], "text", id="leading zeros are codes"),
        pytest.param(["-01.5", "-02.5"], "text", id="leading zeros behind a minus"),
        pytest.param(["1_000", "2_000"], "text", id="underscores, which int() accepts"),
        pytest.param(["\u0661\u0662", "\u0663"], "text", id="digits beyond ASCII, which int() accepts"),
        pytest.param(["inf", "Infinity"], "text", id="infinity, which float() accepts"),
        pytest.param(["1e999"], "text", id="a number that is infinite"),
        pytest.param(["1e300"], "text", id="a number too large to compute with"),
        pytest.param(["1", '"2\n"'], "text", id="a line break behind a digit, which int() accepts"),
        pytest.param(["12345678901234567890"] * 2, "text", id="more digits than 64 bits hold"),
        pytest.param(["true", "FALSE", "Yes", "n"], "boolean", id="booleans of several spellings"),
        pytest.param(["0", "1"], "integer", id="zero and one stay numbers"),
        pytest.param(["2024-02-29", "1999-12-31"], "date", id="ISO dates"),
        pytest.param(["29.2.2024", "01.12.1999"], "date", id="dates with points"),
        pytest.param(["2023-02-29", "2024-13-01"], "text", id="days that never were"),
        pytest.param(["2024-W01-1", "20240101T"], "text", id="ISO forms only newer Pythons read"),
        pytest.param(["2024-01-01T10:00:00Z", "2024-01-01 10:00"], "datetime", id="datetimes"),
        pytest.param(["2024-01-01T25:00", "2024-01-01T10:61"], "text", id="hours that never were"),
        pytest.param(["red", "green"], "text", id="words"),
        pytest.param(["", "NA"], "empty", id="nothing at all"),
    ],
)
def test_a_column_has_the_type_of_its_cells(run: Run, cells: list[str], kind: str) -> None:
    assert run(REF, column(cells)).columns["x"]["type"] == kind


def test_a_few_misfits_do_not_change_the_type_but_are_counted_and_shown(run: Run) -> None:
    found = run(REF, column(["7"] * 97 + ["oops", "oops", "later"])).columns["x"]
    assert (found["type"], found["max"]) == ("integer", 7)
    assert found["mismatched"] == {"count": 3, "examples": ["oops", "later"]}


def test_a_column_with_many_misfits_is_text(run: Run) -> None:
    assert run(REF, column(["7"] * 94 + ["oops"] * 6)).columns["x"]["type"] == "text"


def test_missing_values_are_counted_by_how_they_are_spelled(run: Run) -> None:
    found = run(REF, column(["1", "", "NA", "  ", "null", "NA", "2"])).columns["x"]
    assert (found["missing"], found["present"], found["missing_fraction"]) == (5, 2, 0.714286)
    assert found["missing_markers"] == {"": 2, "NA": 2, "null": 1}


def test_figures_of_a_hundred_numbers_are_those_of_the_books(run: Run) -> None:
    found = run(REF, column([str(number) for number in range(1, 101)])).columns["x"]
    assert (found["min"], found["max"], found["mean"], found["stddev"]) == (1, 100, 50.5, 29.0114919759)
    assert found["quantiles"] == {
        "exact": True, "p05": 5.95, "p25": 25.75, "p50": 50.5, "p75": 75.25, "p95": 95.05,
    }  # fmt: skip
    assert found["unique"] == {"count": 100, "exact": True}


def test_the_mean_of_large_close_numbers_does_not_cancel(run: Run) -> None:
    found = run(REF, column(["1000000000.1", "1000000000.2", "1000000000.3"])).columns["x"]
    assert found["stddev"] == pytest.approx(0.1, rel=1e-6)


def test_the_mean_keeps_what_large_numbers_would_swallow(run: Run) -> None:
    found = run(REF, column(["100000000000000000.0", "0.25", "-100000000000000000.0"])).columns["x"]
    assert found["mean"] == 0.0833333333333


def test_one_number_has_no_deviation(run: Run) -> None:
    found = run(REF, column(["4"])).columns["x"]
    assert (found["mean"], found["stddev"], found["histogram"]["counts"]) == (4.0, None, [1])


@few
@given(numbers=st.lists(st.integers(-(10**9), 10**9), min_size=2, max_size=60))
def test_figures_agree_with_the_standard_library(run: Run, numbers: list[int]) -> None:
    found = run(REF, column([str(number) for number in numbers])).columns["x"]
    quartiles = statistics.quantiles(numbers, n=4, method="inclusive")
    assert [found["quantiles"][name] for name in ("p25", "p50", "p75")] == pytest.approx(quartiles, rel=1e-9)
    assert found["mean"] == pytest.approx(statistics.fmean(numbers), rel=1e-9, abs=1e-6)
    assert found["stddev"] == pytest.approx(statistics.stdev(numbers), rel=1e-9, abs=1e-6)


@few
@given(numbers=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
@example(numbers=[-0.0, 0.0])
@example(numbers=[0.1, 0.2, 0.30000000000000004])
@example(numbers=[5e-324, 1e-300])
def test_a_histogram_holds_every_value_between_its_edges(run: Run, numbers: list[float]) -> None:
    found = run(REF, column([repr(number) for number in numbers])).columns["x"]
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    assert sum(counts) == len(numbers)
    assert len(edges) == len(counts) + 1 <= 25
    assert edges == sorted(edges)
    assert edges[0] <= min(numbers) <= max(numbers) <= edges[-1]


def test_dates_have_extremes_and_a_median_in_iso(run: Run) -> None:
    found = run(REF, column(["2024-03-01", "2024-01-01", "2024-02-01"])).columns["x"]
    assert (found["min"], found["quantiles"]["p50"], found["max"]) == (
        "2024-01-01",
        "2024-02-01",
        "2024-03-01",
    )


def test_datetimes_with_an_offset_are_given_in_utc(run: Run) -> None:
    found = run(REF, column(["2024-01-01T01:30+02:00", "2024-01-01T12:00:00.25Z"])).columns["x"]
    assert (found["min"], found["max"]) == ("2023-12-31T23:30:00Z", "2024-01-01T12:00:00.250000Z")
    assert found["offsets"] == "all"


@pytest.mark.parametrize("clock", ["", " 00:00", " 23:59:59.5"], ids=["date", "midnight", "late"])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_of_the_calendar_have_a_histogram(run: Run, day: str, clock: str) -> None:
    found = run(REF, column([day + clock, "2024-01-01" + clock])).columns["x"]
    edges = found["histogram"]["edges"]
    assert sum(found["histogram"]["counts"]) == 2
    assert edges[0] <= found["min"] < found["max"] <= edges[-1]


@pytest.mark.parametrize(
    "cell", ["0001-01-01T00:00+01:00", "9999-12-31T23:30-01:00"], ids=["before", "after"]
)
def test_a_moment_outside_the_calendar_is_text(run: Run, cell: str) -> None:
    assert run(REF, column([cell])).columns["x"]["type"] == "text"


def test_top_values_are_ordered_by_count_and_then_by_spelling(run: Run) -> None:
    found = run(REF, column(["b", "a", "c", "c", "b", "a", "d"])).columns["x"]
    assert [(top["value"], top["count"]) for top in found["top"]["values"]] == [
        ("a", 2),
        ("b", 2),
        ("c", 2),
        ("d", 1),
    ]


def test_booleans_are_counted(run: Run) -> None:
    found = run(REF, column(["yes", "no", "yes"])).columns["x"]
    assert (found["true"], found["false"]) == (2, 1)


def test_lengths_of_text_are_in_characters(run: Run) -> None:
    found = run(REF, column(["\u00fc", "abc", "\U0001f6b2\U0001f6b2"])).columns["x"]
    assert found["lengths"] == {"min": 1, "max": 3, "mean": 2.0}


@pytest.mark.parametrize(
    ("codec", "prefix", "name", "mark"),
    [
        pytest.param("utf-8", b"", "utf-8", False, id="UTF-8"),
        pytest.param("utf-8", b"\xef\xbb\xbf", "utf-8", True, id="UTF-8 with a mark"),
        pytest.param("utf-16-le", b"\xff\xfe", "utf-16", True, id="UTF-16, little end first"),
        pytest.param("utf-16-be", b"\xfe\xff", "utf-16", True, id="UTF-16, big end first"),
        pytest.param("cp1252", b"", "cp1252", False, id="Windows-1252"),
    ],
)
def test_an_encoding_is_recognised(run: Run, codec: str, prefix: bytes, name: str, mark: bool) -> None:
    done = run(REF, prefix + "Stra\u00dfe,n\nZ\u00fcrich,1\n\u00d6rebro,2\n".encode(codec))
    table = done["profile.json"]["table"]
    assert (table["encoding"], table["byte_order_mark"]) == (name, mark)
    assert done.columns["Stra\u00dfe"]["examples"] == ["Z\u00fcrich", "\u00d6rebro"]


def test_bytes_that_windows_does_not_know_are_latin_1(run: Run) -> None:
    assert run(REF, b"a,b\n\x81\xe9,1\n")["profile.json"]["table"]["encoding"] == "latin-1"


def test_one_broken_byte_does_not_turn_utf_8_into_something_else(run: Run) -> None:
    done = run(REF, b"a,b\n" + "\u00e9t\u00e9,1\n".encode() * 100 + b"\xff,1\n")
    table = done["profile.json"]["table"]
    assert (table["encoding"], table["replaced_characters"]) == ("utf-8", 1)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "bar"])
def test_the_delimiter_is_found(run: Run, delimiter: str) -> None:
    rows = [["name", "note"], ["Ann", "one. two: three"], ["Bob", "four"]]
    done = run(REF, "".join(delimiter.join(row) + "\n" for row in rows))
    assert (done["profile.json"]["table"]["delimiter"], list(done.columns)) == (delimiter, ["name", "note"])


def test_a_delimiter_that_is_given_is_taken(run: Run) -> None:
    assert list(run(REF, "a:b,c\n1:2,3\n", delimiter=":").columns) == ["a", "b,c"]


def test_one_column_needs_no_delimiter(run: Run) -> None:
    assert run(REF, "word\nred\nblue\n").columns["word"]["present"] == 2


def test_a_decimal_comma_is_a_point_where_semicolons_separate(run: Run) -> None:
    assert run(REF, "a;b\n1,5;x\n2,5;y\n").columns["a"]["mean"] == 2.0


@pytest.mark.parametrize(
    ("content", "ends"),
    [
        ("a,b\n1,2\n", "lf"),
        ("a,b\r\n1,2\r\n", "crlf"),
        ("a,b\r1,2\r", "cr"),
        ("a,b\r", "cr"),
        ("a,b\r\n1,2\n", "mixed"),
        ("a,b", "none"),
    ],
)
def test_the_ends_of_lines_are_reported(run: Run, content: str, ends: str) -> None:
    done = run(REF, content)
    assert (done["profile.json"]["table"]["line_ends"], list(done.columns)) == (ends, ["a", "b"])


def test_a_line_end_on_the_edge_of_a_chunk_is_one(run: Run) -> None:
    content = "aaa,b\r\n" + "1,2\r\n" * 300_000
    assert content[(1 << 20) - 1 : (1 << 20) + 1] == "\r\n"
    table = run(REF, content)["profile.json"]["table"]
    assert (table["line_ends"], table["rows"]) == ("crlf", 300_000)


def test_lines_that_end_in_cr_alone_are_not_one_long_line(run: Run) -> None:
    assert run(REF, "a,b\r" + "1,2\r" * 4_300_000)["meta.json"]["rows"] == 4_300_000


def test_a_quoted_cell_may_hold_delimiters_quotes_and_line_breaks(run: Run) -> None:
    done = run(REF, 'a,b\n"one, ""two""\nthree",1\nx,2\n')
    assert done.columns["a"]["examples"] == ['one, "two"\nthree', "x"]
    assert done["meta.json"]["rows"] == 2


def test_uneven_rows_are_evened_and_reported(run: Run) -> None:
    done = run(REF, "a,b,c\n1,2,3\n4\n\n5,6,7,8\n")
    table = done["profile.json"]["table"]
    assert (table["rows"], table["short_rows"], table["long_rows"], table["blank_lines"]) == (3, 1, 1, 1)
    assert (done.columns["c"]["present"], done.columns["c"]["missing"]) == (2, 1)


def test_a_header_without_rows_is_a_profile(run: Run) -> None:
    done = run(REF, "a,b\n")
    assert (done.exit_code, [found["type"] for found in done.columns.values()]) == (0, ["empty", "empty"])


def test_a_column_without_a_name_gets_one(run: Run) -> None:
    assert list(run(REF, "a,,c\n1,2,3\n").columns) == ["a", "column_2", "c"]


@pytest.mark.parametrize("rows", [0, 2, 5])
def test_the_sample_has_as_many_rows_as_asked_for(run: Run, rows: int) -> None:
    done = run(REF, "a,b\n1,x\n\n2,y\n3,z\n4,u\n5,v\n6,w\n", sample_rows=rows)
    assert (
        done["profile.json"]["sample"] == [["1", "x"], ["2", "y"], ["3", "z"], ["4", "u"], ["5", "v"]][:rows]
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "the file is empty", id="no bytes"),
        pytest.param(b"\n\n\r\n", "nothing but blank lines", id="blank lines"),
        pytest.param(b"a,b\n1,\x002\n", "NUL near byte 6", id="a NUL"),
        pytest.param("a,b\n1,2\n".encode("utf-16-le"), "NUL near byte 1", id="UTF-16 without a mark"),
        pytest.param(b"PK\x03\x04rest", "Excel", id="a workbook"),
        pytest.param(b"\x1f\x8brest", "gzip", id="compressed"),
        pytest.param(b'a,b\n"' + b"x\n" * 600_000, "is a quote never closed", id="a quote without end"),
        pytest.param(b"x" * 18_000_000, "a line is longer than", id="a line without end"),
        pytest.param(b"c," * 20_001, "at most 20,000", id="too many columns"),
    ],
)
def test_what_is_no_table_fails_with_one_line_and_no_files(run: Run, content: bytes, reason: str) -> None:
    done = run(REF, content)
    assert done.exit_code == 1
    assert re.fullmatch(rf"data/profile: [^\n]*{reason}[^\n]*\n", done.stderr)
    assert done.files == {}


def test_pieces_with_and_without_quotes_give_every_row_once(run: Run) -> None:
    plain = "".join(f"{number},{'x' * 90}\n" for number in range(2_500))
    quoted = "".join(f'{number},"{"y" * 40}\n""{"z" * 40}"\n' for number in range(2_500))
    done = run(REF, "a,b\n" + (plain + quoted) * 3 + "1,2\r\n")
    columns = done.columns
    assert (done["meta.json"]["rows"], columns["a"]["unique"]["count"]) == (15_001, 2_500)
    assert (columns["b"]["unique"]["count"], columns["b"]["missing"]) == (3, 0)


def test_a_cell_on_many_lines_ends_where_its_quote_does(run: Run) -> None:
    cell = "line\n" * 100_000
    columns = run(REF, f'a,b\n1,"{cell}"\n2,"x"\n' + "3,z\n" * 50_000).columns
    assert columns["b"]["lengths"]["max"] == 500_000
    assert columns["a"]["present"] == 50_002


def test_a_wrong_delimiter_makes_one_column_and_no_failure(run: Run) -> None:
    done = run(REF, "a,b\n1,2\n3,4\n", delimiter=";")
    assert (done.exit_code, list(done.columns)) == (0, ["a,b"])


def test_header_names_that_occur_twice_are_two_columns_and_remarked(run: Run) -> None:
    profile = run(REF, "a,a\n1,x\n")["profile.json"]
    assert [column["type"] for column in profile["columns"]] == ["integer", "text"]
    assert any("occur before" in note for note in profile["notes"])


def test_what_a_column_means_does_not_change_where_cells_become_many(run: Run) -> None:
    rows = [
        f"{n},{n / 100:.2f},{n * 1.1!r},{'NA' if n % 7 == 0 else n * 3},"
        f"{date.fromordinal(700_000 + n % 20_000)}T10:{n % 60:02}:00,word{n},{'' if n % 5 else n}\n"
        for n in range(1, 40_001)
    ]
    columns = run(REF, "i,f,r,gaps,at,text,few\n" + "".join(rows)).columns
    types = [found["type"] for found in columns.values()]
    assert types == ["integer", "number", "number", "integer", "datetime", "text", "integer"]
    assert columns["gaps"]["missing_markers"] == {"NA": 5_714}
    assert (columns["i"]["min"], columns["i"]["max"], columns["i"]["mean"]) == (1, 40_000, 20_000.5)
    assert (columns["f"]["max"], columns["f"]["mean"]) == (400.0, 200.005)
    assert columns["f"]["stddev"] == pytest.approx(statistics.stdev(n / 100 for n in range(1, 40_001)))
    assert columns["r"]["max"] == 44_000.0
    assert columns["few"]["missing"] == 32_000
    assert columns["text"]["kinds"] == {"text": 40_000}
    assert columns["text"]["lengths"]["max"] == 9
    assert not [name for name, found in columns.items() if "mismatched" in found]


def test_integers_keep_their_signs_and_every_digit_where_cells_become_many(run: Run) -> None:
    rows = "".join(f"{10**17 + n},{n:+d},{n}.50\n" for n in range(1, 40_004))
    columns = run(REF, "long,signed,half\n" + rows).columns
    assert (columns["long"]["min"], columns["long"]["max"]) == (10**17 + 1, 10**17 + 40_003)
    assert (columns["signed"]["type"], columns["signed"]["max"]) == ("integer", 40_003)
    assert (columns["half"]["type"], columns["half"]["min"]) == ("number", 1.5)


@pytest.mark.parametrize("made", ["{}", "é{}", "w{}", "{}.5"])
def test_lengths_and_numbers_of_cells_are_exact_where_cells_become_many(run: Run, made: str) -> None:
    cells = [made.format(number) for number in range(70_000)]
    found = run(REF, column(cells)).columns["x"]
    sizes = list(map(len, cells))
    if "lengths" in found:
        assert found["lengths"]["min"] == min(sizes)
        assert found["lengths"]["max"] == max(sizes)
        assert found["lengths"]["mean"] == pytest.approx(statistics.fmean(sizes), abs=1e-6)
    else:
        assert sum(found["histogram"]["counts"]) == len(cells)
    assert found["present"] == len(cells)


def test_blanks_around_a_boolean_do_not_matter_among_words(run: Run) -> None:
    cells = ["true ", " true", "true"]
    few = run(REF, column(["true ", "word"])).columns["x"]
    many = run(REF, column([f"word{n}" for n in range(40_000)] + cells)).columns["x"]
    assert (few["kinds"]["boolean"], many["kinds"]["boolean"]) == (1, 3)


@pytest.mark.parametrize("blank", [" ", "\t", "\v", "\f", "\xa0", " \xa0 "])
def test_a_blank_cell_is_missing_where_cells_become_many(run: Run, blank: str) -> None:
    found = run(REF, column([*(f"word{n}" for n in range(40_000)), blank, "", "NA", f"{blank}word"])).columns[
        "x"
    ]
    assert found["missing_markers"] == {"": 2, "NA": 1}
    assert found["kinds"] == {"text": 40_001}


def test_the_hour_24_is_no_time_on_any_python(run: Run) -> None:
    rows = [f"{date.fromordinal(700_000 + n)}T24:00:00" for n in range(40_000)]
    assert run(REF, column(rows)).columns["x"]["type"] == "text"


def test_the_shown_misfits_of_many_cells_differ(run: Run) -> None:
    cells = ["oops" if n % 10_000 == 0 else str(n) for n in range(60_000)]
    assert run(REF, column(cells)).columns["x"]["mismatched"] == {"count": 6, "examples": ["oops"]}


def test_the_sample_goes_on_where_the_first_piece_of_the_file_ends(run: Run) -> None:
    rows = [[str(number), "x" * 3_000] for number in range(200)]
    sample = run(REF, "a,b\n" + "".join(",".join(row) + "\n" for row in rows), sample_rows=100)[
        "profile.json"
    ]["sample"]
    assert [row[0] for row in sample] == [row[0] for row in rows[:100]]


def test_blank_lines_before_the_header_are_counted_however_many(run: Run) -> None:
    table = run(REF, "\n" * 300_000 + "a,b\n1,2\n")["profile.json"]["table"]
    assert (table["blank_lines"], table["rows"]) == (300_000, 1)


def test_a_header_that_begins_a_piece_of_the_file_is_no_row(run: Run) -> None:
    done = run(REF, "\n" * (1 << 15) + "x,y\n" + "1,2\n" * 9000)
    assert list(done.columns) == ["x", "y"]
    table = done["profile.json"]["table"]
    assert (table["rows"], table["blank_lines"]) == (9000, 1 << 15)
    assert done["profile.json"]["sample"][0] == ["1", "2"]


def test_a_cell_beyond_all_measure_is_named_by_its_record(run: Run) -> None:
    done = run(REF, "a,b\n" + "1,2\n" * 40_000 + f'3,"x\n{"x" * 1_100_000}"\n')
    assert done.stderr.startswith("data/profile: record 40,002: a cell is longer than")


def test_a_quote_that_is_not_closed_at_the_end_is_remarked(run: Run) -> None:
    notes = run(REF, 'a,b\n1,"never closed\n2,3\n')["profile.json"]["notes"]
    assert any("never closed" in note for note in notes)


def test_progress_grows_to_one_in_at_most_twenty_steps(run: Run) -> None:
    done = run(REF, "a,b\n" + "1,2\n" * 1_500_000)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    fractions = [event["fraction"] for event in events]
    assert {event["event"] for event in events} == {"progress"}
    assert fractions == sorted(set(fractions))
    assert (len(fractions) <= 20, fractions[-1]) == (True, 1.0)


def busy() -> str:
    """Return a table that fills every sketch: more different cells than are counted exactly."""
    chance = random.Random(3)  # noqa: S311  (test data)
    days = [(date(2000, 1, 1) + timedelta(days=day)).isoformat() for day in range(9000)]
    rows = (
        f"{number},{chance.gauss(0, 1):.6f},w{chance.randrange(30_000)},{days[chance.randrange(9000)]},"
        f"{'often' if number % 4 == 0 else 'x' * (number % 1500) + str(number)}\n"
        for number in range(60_000)
    )
    return "id,value,word,day,skewed\n" + "".join(rows)


@pytest.fixture(scope="module")
def busy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("busy") / "busy.csv"
    path.write_text(busy(), encoding="utf-8")
    return path


@pytest.mark.parametrize("content", ["example", "busy"])
def test_two_seeds_of_hashing_give_the_same_bytes(run: Run, content: str, busy_file: Path) -> None:
    path = EXAMPLE if content == "example" else busy_file
    assert run(REF, path, seed="1").files == run(REF, path, seed="4242").files


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_every_python_gives_the_same_bytes(run: Run, version: str, busy_file: Path) -> None:
    python = shutil.which(f"python{version}")
    works = python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    if not python or not works:
        pytest.skip(f"python{version} is not installed")
    assert run(REF, EXAMPLE, python=python).files == run(REF, EXAMPLE).files
    assert run(REF, busy_file, python=python).files == run(REF, busy_file).files


def test_what_is_estimated_says_so_and_is_near(run: Run, busy_file: Path) -> None:
    content = busy_file.read_text(encoding="utf-8")
    columns = run(REF, busy_file).columns
    rows = [line.split(",") for line in content.splitlines()[1:]]
    for index, name in ((0, "id"), (2, "word"), (4, "skewed")):
        unique = columns[name]["unique"]
        truth = len({row[index] for row in rows})
        assert unique["exact"] is False
        assert unique["count"] == pytest.approx(truth, rel=4 * unique["relative_error"])
    values = sorted(float(row[1]) for row in rows)
    quantiles = columns["value"]["quantiles"]
    assert quantiles["exact"] is False
    assert 0 < quantiles["rank_error"] < 0.02
    for percent in (5, 25, 50, 75, 95):
        below = sum(number <= quantiles[f"p{percent:02}"] for number in values) / len(values)
        assert below == pytest.approx(percent / 100, abs=quantiles["rank_error"] + 1e-3)
    assert columns["value"]["mean"] == pytest.approx(math.fsum(values) / len(values), rel=1e-9, abs=1e-9)
    assert (columns["value"]["min"], columns["value"]["max"]) == (values[0], values[-1])


def test_thinning_favours_neither_small_nor_large_values(run: Run) -> None:
    shares = []
    for number in (200_000, 250_000, 300_000, 350_000, 400_000):
        shuffled = [str(place * 172_633 % number) for place in range(number)]
        found = run(REF, column(shuffled)).columns["x"]["quantiles"]
        worst = number * found["rank_error"]
        errors = [found[f"p{percent:02}"] - (number - 1) * percent / 100 for percent in (5, 25, 50, 75, 95)]
        assert 0 < max(map(abs, errors)) <= worst
        shares.append(statistics.fmean(errors) / worst)
    assert abs(statistics.fmean(shares)) < 1 / 20


def test_few_different_values_are_exact_in_a_table_of_any_length(run: Run, busy_file: Path) -> None:
    found = run(REF, busy_file).columns["day"]
    assert (found["unique"]["exact"], found["quantiles"]["exact"], found["top"]["exact"]) == (
        True,
        True,
        True,
    )


def test_a_frequent_value_among_many_is_found_with_its_error(run: Run, busy_file: Path) -> None:
    top = run(REF, busy_file).columns["skewed"]["top"]
    assert top["exact"] is False
    assert [value["value"] for value in top["values"]] == ["often"]
    assert 15_000 - top["error"] <= top["values"][0]["count"] <= 15_000


def test_long_cells_that_differ_at_the_end_are_different(run: Run) -> None:
    found = run(REF, column(["x" * 3000 + end for end in "abca"])).columns["x"]
    assert found["unique"]["count"] == 3
    assert found["lengths"] == {"min": 3001, "max": 3001, "mean": 3001.0}


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_memory_does_not_grow_with_the_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("id,text,number\n")
        file.writelines(f"{n},{n * 7919 % 999983:06d}{'-filler' * 12},{n / 7:.9f}\n" for n in range(350_000))
    assert path.stat().st_size > 35 * MIB
    assert run(REF, path, watch=True).peak < 80 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_memory_does_not_grow_with_the_width(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(f"c{index}" for index in range(10_000)) + "\n")
        file.writelines(
            ",".join(str(row * index % 9973) for index in range(10_000)) + "\n" for row in range(150)
        )
    done = run(REF, path, watch=True)
    assert (done.exit_code, done["meta.json"]) == (0, {"rows": 150, "columns": 10_000})
    assert done.peak < 200 * MIB


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a\u202eb",
    "\u2066isolate",
    "bell\x07esc\x1b[31m",
    "tag\U000e0041",
    "&lt;already&gt;",
    "https://example.invalid/x",
)


@pytest.fixture
def hostile_report(run: Run) -> str:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    rows = [",".join(quoted(cell) for cell in HOSTILE)] * 3
    done = run(REF, "\n".join(rows) + "\n", name="<b>\u202ename.csv")
    assert done.exit_code == 0
    report = done["report.html"]
    assert isinstance(report, str)
    return report


def test_a_hostile_cell_makes_no_element(hostile_report: str) -> None:
    elements = set(re.findall(r"<([a-z0-9]+)", hostile_report))
    assert elements.isdisjoint({"script", "img", "b", "a", "iframe", "object", "link", "form"})
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile_report
    assert "&amp;lt;already&amp;gt;" in hostile_report


def test_no_invisible_character_reaches_the_report(hostile_report: str) -> None:
    assert not set(html.unescape(hostile_report)) & set("\u202e\u2066\x07\x1b\U000e0041")
    assert "a[U+202E]b" in hostile_report
    assert "bell\u2407esc\u241b[31m" in hostile_report


def test_no_invisible_character_reaches_the_profile(run: Run) -> None:
    done = run(REF, "a,b\n" + "x\u202e\U000e0041,1\n")
    assert done.columns["a"]["examples"] == ["x\u202e\U000e0041"]
    assert not set(done.files["profile.json"].decode()) & set("\u202e\U000e0041")


class Elements(HTMLParser):
    """Follows the elements of a page; `open` is empty when each was closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("content", ["example", "busy", "hostile"])
def test_every_element_of_the_report_is_closed(
    run: Run, content: str, busy_file: Path, hostile_report: str
) -> None:
    page = hostile_report
    if content != "hostile":
        page = run(REF, EXAMPLE if content == "example" else busy_file)["report.html"]
    elements = Elements()
    elements.feed(page)
    elements.close()
    assert elements.open == []


@pytest.mark.parametrize("content", ["example", "busy"])
def test_the_report_needs_nothing_from_outside(run: Run, content: str, busy_file: Path) -> None:
    report = run(REF, EXAMPLE if content == "example" else busy_file)["report.html"]
    assert not re.search(r"(?i)https?:|//[a-z]|\bsrc=|\bhref=|url\(|@import|<script|\son[a-z]+=", report)


def test_the_report_shows_what_the_profile_says(run: Run) -> None:
    report = run(REF, EXAMPLE, name="bike_trips.csv")["report.html"]
    for words in (
        "bike_trips.csv",
        "<dd>160</dd>",
        "132 missing (82.5 %)",
        "Z\u00fcrich HB",
        "Histogram of fare_chf",
    ):
        assert words in report

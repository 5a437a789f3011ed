"""text/wordcount: like wc, and the most common words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from processors.runs import Run

REF = "text/wordcount@1"


def test_a_text_is_counted(run: Run) -> None:
    assert run(REF, text="to be or\nnot to b\u00e9\n")["counts.json"] == {
        "bytes": 20,
        "characters": 19,
        "lines": 2,
        "words": 6,
        "common": [
            {"word": "to", "count": 2},
            {"word": "be", "count": 1},
            {"word": "b\u00e9", "count": 1},
            {"word": "not", "count": 1},
            {"word": "or", "count": 1},
        ],
    }


def test_an_empty_text_has_nothing(run: Run) -> None:
    assert run(REF, text="")["counts.json"] == {
        "bytes": 0,
        "characters": 0,
        "lines": 0,
        "words": 0,
        "common": [],
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_file_counts_like_the_text_in_it(run: Run, text: str) -> None:
    assert run(REF, text, key="file").files == run(REF, text=text).files


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_a_word_on_the_edge_of_a_chunk_stays_whole(run: Run, shift: int) -> None:
    counts = run(REF, "x" * shift + " word" * 40_000, key="file")["counts.json"]
    assert counts["common"][0] == {"word": "word", "count": 40_000}


def test_of_equally_common_words_ten_are_named_in_order(run: Run) -> None:
    counts = run(REF, text=" ".join("lkjihgfedcba"))["counts.json"]
    assert [item["word"] for item in counts["common"]] == list("abcdefghij")


def test_a_file_that_is_not_utf_8_fails_with_one_line(run: Run) -> None:
    done = run(REF, b"caf\xe9 latin\n", key="file")
    assert (done.exit_code, done.stderr.count("\n"), done.files) == (1, 1, {})
    assert "not UTF-8" in done.stderr

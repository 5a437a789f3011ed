from __future__ import annotations

import mimetypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.formats import mime
from theory.formats.mime import mime_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.jpg", "image/jpeg"),
        ("PHOTO.JPEG", "image/jpeg"),
        ("response.txt", "text/plain"),
        ("meta.json", "application/json"),
        ("data.csv", "text/csv"),
        ("report.html", "text/html"),
        ("a.tar.gz", "application/gzip"),
        ("/artifacts/v1.2/Makefile", "application/octet-stream"),
        ("Makefile", "application/octet-stream"),
        ("a.", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("x.unheard-of", "application/octet-stream"),
    ],
)
def test_the_ending_of_a_name_gives_its_type(name: str, expected: str) -> None:
    assert mime_of(name) == expected


def test_the_table_of_this_machine_has_no_say() -> None:
    mimetypes.add_type("application/x-ours", ".unheard-of")
    try:
        assert mime_of("x.unheard-of") == "application/octet-stream"
    finally:
        mimetypes.init()


@given(st.text(), st.sampled_from(["json", "csv", "png"]))
def test_only_what_stands_after_the_last_dot_counts(stem: str, ending: str) -> None:
    assert mime_of(f"{stem}.{ending}") == mime_of(f"x.{ending}")


def test_every_type_is_spelled_as_a_type() -> None:
    table = mime._BY_ENDING  # noqa: SLF001 - the table itself is what is looked at
    assert all(ending == ending.lower() and "." not in ending for ending in table)
    assert all(kind.count("/") == 1 and kind == kind.lower() for kind in table.values())

"""Which images a Dockerfile takes from elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.entries.dockerfile import Base, bases_of


@pytest.mark.parametrize(
    ("text", "bases"),
    [
        ("FROM python:3.11-slim\nRUN true\n", ["python:3.11-slim"]),
        ("# a comment\n\nfrom  --platform=linux/arm64   a:1  as  one\n", ["a:1 for linux/arm64"]),
        ("FROM scratch\nCOPY a /\n", []),
        ("FROM a AS one\nFROM one AS two\nFROM ONE\n", ["a"]),
        ("FROM a AS one\nFROM b\nCOPY --from=one /x /\nCOPY --chown=1 --from=c:2 /x /\n", ["a", "b", "c:2"]),
        ("FROM a\nFROM b\nCOPY --from=0 /x /\n", ["a", "b"]),
        ("FROM a\nRUN --mount=type=bind,from=b,target=/b --mount=type=cache,target=/c true\n", ["a", "b"]),
        ("ARG TAG=3.11\nARG NAME=python VERSION='x'\nFROM ${NAME}:$TAG\n", ["python:3.11"]),
        ('ARG A="one"\nARG B=$A/two\nFROM $B\n', ["one/two"]),
        ("FROM ${NONE:-a:1}\nFROM ${NONE-b}\n", ["a:1", "b"]),
        ("ARG A=1\nFROM a${A:+:yes}\nFROM b${NONE:+:no}\n", ["a:yes", "b"]),
        ("FROM $NONE\n", [""]),
        ("FROM \\\n  # a comment between\n\n  a:1 \\\n  AS one\nFROM one\n", ["a:1"]),
        ("# escape=`\nFROM `\n a:1\n", ["a:1"]),
        ("FROM a\nRUN <<EOF\nFROM b\nEOF\nFROM c\n", ["a", "c"]),
        ("FROM a\nCOPY <<-'ONE' <<TWO /\nFROM b\n\tONE\nFROM c\nTWO\nFROM d\n", ["a", "d"]),
        ("FROM a\nRUN cat <<EOF\nnever ended\n", ["a"]),
        ("\ufeffFROM a\r\nFROM b\r\n", ["a", "b"]),
        ("", []),
    ],
)
def test_the_bases_of_a_dockerfile_are_found(text: str, bases: list[str]) -> None:
    assert [f"{name} for {platform}" if platform else name for name, platform in bases_of(text)] == bases


@given(st.text(st.sampled_from("FROMARG run=-:$Q{}+\\\"'<#\n\tE@0a"), max_size=80))
def test_no_text_is_too_odd_for_a_dockerfile(text: str) -> None:
    assert all(isinstance(base, Base) for base in bases_of(text))


@pytest.mark.parametrize(
    "line",
    ["RUN echo $((1<<N))", "RUN cat <<<foo", 'RUN echo "x <<y"', "RUN cat <<END", "COPY a<<b /"],
)
def test_what_is_no_here_document_hides_no_base(line: str) -> None:
    assert [base.name for base in bases_of(f"FROM a\n{line}\nFROM b\n")] == ["a", "b"]

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from theory import errors
from theory.errors import Interrupted, TheoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

# design.md, 10: the codes of core's own errors and what the command exits with.
EXITS = {
    "ERR_USAGE": 2,
    "ERR_UNKNOWN_REF": 2,
    "ERR_REGISTRY": 2,
    "ERR_INPUTS": 2,
    "ERR_UNKNOWN_ADAPTER": 2,
    "ERR_ADAPTER_OPTIONS": 2,
    "ERR_MISSING_SECRET": 2,
    "ERR_UNSUPPORTED": 2,
    "ERR_ARTIFACT_NOT_FOUND": 2,
    "ERR_ATTACHMENT_NOT_FOUND": 2,
    "ERR_WRITE_PREFIX": 2,
    "ERR_PROCESSOR": 1,
    "ERR_OUTPUTS": 1,
    "ERR_OUTPUT_PATH": 1,
    "ERR_OUTPUT_DUPLICATE": 1,
    "ERR_OUTPUT_LIMIT": 1,
    "ERR_OUT_OF_MEMORY": 1,
    "ERR_IMAGE_BUILD": 1,
    "ERR_TIMEOUT": 124,
    "ERR_BUDGET": 4,
    "ERR_LEDGER": 4,
    "ERR_INTEGRITY": 3,
    "ERR_STORE": 3,
    "ERR_SAVE": 3,
    "ERR_IMAGE_NOT_FOUND": 69,
    "ERR_PLUGIN": 69,
    "ERR_BUSY": 5,
    "ERR_RETRY": 75,
    "ERR_INTERRUPTED": 130,
    "ERR_INTERNAL": 70,
}


def leaves(cls: type[TheoryError] = TheoryError) -> Iterator[type[TheoryError]]:
    for below in cls.__subclasses__():
        if below.__module__ == "theory.errors":
            if "code" in vars(below):
                yield below
            yield from leaves(below)


def test_every_code_has_the_exit_status_of_the_table() -> None:
    assert {cls.code: cls("x").exit_code for cls in leaves()} == EXITS


def test_a_code_belongs_to_one_class() -> None:
    codes = [cls.code for cls in leaves()]
    assert len(codes) == len(set(codes))


def test_the_tree_at_the_top_names_every_class() -> None:
    drawn = set(re.findall(r"[A-Z]\w+", str(errors.__doc__).partition("\n\nA family")[0]))
    assert {name for name, value in vars(errors).items() if inspect_error(value)} <= drawn


def inspect_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, TheoryError)


def test_an_error_says_what_it_is_what_next_and_more() -> None:
    error = errors.ProcessorFailed("it ended with 3", hint="look at the log", meta={"exit_code": 3})
    assert (str(error), error.message, error.hint, error.meta) == (
        "it ended with 3",
        "it ended with 3",
        "look at the log",
        {"exit_code": 3},
    )
    assert errors.Busy("x").meta == {}


@pytest.mark.parametrize(("signal", "status"), [(2, 130), (15, 143), (1, 129)])
def test_an_interruption_exits_as_shells_have_it(signal: int, status: int) -> None:
    assert Interrupted("x", signal=signal).exit_code == status
    assert Interrupted.code == "ERR_INTERRUPTED"


def test_a_plugin_may_have_a_code_of_its_own() -> None:
    class DockerUnavailable(errors.Unavailable):
        """As the design has it."""

        code = "ERR_DOCKER_UNAVAILABLE"

    assert (DockerUnavailable("x").exit_code, DockerUnavailable.code) == (69, "ERR_DOCKER_UNAVAILABLE")

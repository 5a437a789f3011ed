from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.errors import UnknownRef
from theory.types import Failure, Ref, Secrets, Success, Workspace

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)


@given(NAMES, NAMES, st.integers(1, 10**9))
def test_a_ref_is_read_again_from_its_text(namespace: str, name: str, version: int) -> None:
    ref = Ref(namespace, name, version)
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "litellm",
        "llm/litellm",
        "llm/litellm@",
        "llm/litellm@0",
        "llm/litellm@01",
        "llm/litellm@1.0",
        "llm/litellm@latest",
        "LLM/litellm@1",
        "llm/a/b@1",
        "/litellm@1",
        "llm/@1",
        "-llm/x@1",
        "_a/x@1",
        "llm/litellm@1\n",
        " llm/litellm@1",
        "llm/../x@1",
        "llm/lite llm@1",
        "llm/litellm@\u0661",
        "é/x@1",
        "a/b@" + "1" * 300,
    ],
)
def test_what_is_no_ref_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UnknownRef, match="is not a processor reference") as caught:
        Ref.parse(text)
    assert caught.value.hint.endswith("write namespace/name@version, such as llm/litellm@1")
    assert len(caught.value.message) < 150
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", ["LLM/LiteLLM@1", " llm/litellm@1", "llm/litellm@1\n", "llm/litellm"])
def test_a_ref_that_needs_but_a_touch_is_offered(text: str) -> None:
    with pytest.raises(UnknownRef, match="is not a processor reference") as caught:
        Ref.parse(text)
    assert caught.value.hint.startswith("did you mean llm/litellm@1? ")


def test_refs_are_ordered_by_number_not_by_text() -> None:
    assert max(Ref("a", "b", 9), Ref("a", "b", 10), Ref("a", "a", 11)) == Ref("a", "b", 10)


def test_secrets_show_their_names_and_never_their_values() -> None:
    secrets = Secrets({"B": "sk-very-secret", "A": "x"})
    assert repr(secrets) == str(secrets) == f"{secrets}" == "Secrets(A, B)"
    assert (secrets["B"], len(secrets), sorted(secrets)) == ("sk-very-secret", 2, ["A", "B"])
    with pytest.raises(KeyError, match="C") as caught:
        secrets["C"]
    assert "very-secret" not in "".join(traceback.format_exception(caught.value))
    assert not Secrets()


def test_secrets_do_not_follow_the_mapping_that_they_came_from() -> None:
    values = {"A": "1"}
    secrets = Secrets(values)
    values["A"] = "2"
    assert secrets["A"] == "1"


def test_a_workspace_knows_its_parts() -> None:
    workspace = Workspace(Path("/r"), Path("/s"), Path("/c"))
    assert (workspace.inputs, workspace.out) == (Path("/r/inputs.json"), Path("/r/out"))


def test_an_envelope_knows_its_status() -> None:
    success, failure = Success("id", (), "i", "r"), Failure("id", "ERR_X", "m")
    assert (success.status, success.exit_code) == ("success", 0)
    assert (failure.status, failure.exit_code) == ("error", 70)
    assert pickle.loads(pickle.dumps(success)) == success  # noqa: S301 - made a moment ago

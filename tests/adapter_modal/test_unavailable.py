"""Modal that cannot be used: one message, and a hint for each of the three reasons."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

import modal.exception
import pytest

import theory_adapter_modal.adapter
from adapter_modal.sandboxes import Sandboxes
from theory import errors
from theory.testing.channel import Later, RecordingChannel, Stream
from theory_adapter_modal import account, faults
from theory_adapter_modal.account import check_enabled, client
from theory_adapter_modal.faults import ModalUnavailable
from theory_adapter_modal.patience import Stopped

if TYPE_CHECKING:
    from pathlib import Path

    from modal_emulator.handle import Handle

MESSAGE = "Modal not available. Install 'modal' package and set MODAL_ENABLED=True"


def test_the_message_is_that_of_the_requirements() -> None:
    error = ModalUnavailable("a hint")
    assert (error.message, error.code, error.exit_code) == (MESSAGE, "ERR_MODAL_UNAVAILABLE", 69)


def test_the_three_hints_differ() -> None:
    assert len({faults.NOT_INSTALLED, faults.NOT_ENABLED, faults.NO_TOKEN}) == 3


def test_a_missing_package_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(ModalUnavailable, match="Modal not available") as caught:
        check_enabled({})
    assert caught.value.hint == faults.NOT_INSTALLED


@pytest.mark.parametrize("value", [None, "", "no", "0", "False", "maybe"])
def test_what_is_not_allowed_is_not_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("MODAL_ENABLED", raising=False)
    else:
        monkeypatch.setenv("MODAL_ENABLED", value)
    with pytest.raises(ModalUnavailable, match="Modal not available") as caught:
        Sandboxes(tmp_path).job("pass")  # identifies its image, before anything is reserved
    assert caught.value.hint == faults.NOT_ENABLED


@pytest.mark.parametrize("value", ["True", "true", "TRUE", "1", "yes", " on "])
def test_modal_is_enabled_in_any_spelling(value: str) -> None:
    check_enabled({"MODAL_ENABLED": value})


def test_a_missing_token_is_told(emulator: Handle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = Sandboxes(tmp_path).job("pass")
    monkeypatch.delenv("MODAL_TOKEN_ID")
    monkeypatch.delenv("MODAL_TOKEN_SECRET")
    with pytest.raises(ModalUnavailable, match="Modal not available") as caught:
        Sandboxes(tmp_path).bench.run(job)
    assert caught.value.hint == faults.NO_TOKEN
    assert emulator.requests() == []


def test_who_waits_for_modal_is_told_and_a_cancellation_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, channel = threading.Event(), RecordingChannel()
    put = channel.write
    monkeypatch.setattr(account, "client", answers.wait)
    monkeypatch.setattr(account, "_NEWS_S", 0.0)
    monkeypatch.setenv("MODAL_SERVER_URL", "http://127.0.0.1:1")

    def heard(stream: Stream, data: bytes) -> None:
        put(stream, data)
        channel.cancel()

    monkeypatch.setattr(channel, "write", heard)
    with pytest.raises(Stopped, match="cancelled"):
        Later(lambda: asyncio.run(account.connected(channel))).within(20)
    answers.set()
    assert channel.output("stderr") == b"theory: waiting for http://127.0.0.1:1 to answer\n"


def test_modal_that_cannot_be_reached_is_worth_another_try(
    emulator: Handle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nobody() -> None:
        raise modal.exception.ConnectionError("Could not connect to the Modal server.")

    job = Sandboxes(tmp_path).job("pass")
    monkeypatch.setattr(account, "client", nobody)
    with pytest.raises(errors.Retry, match="Could not connect"):
        Sandboxes(tmp_path).bench.run(job)
    assert emulator.requests() == []


def test_a_wrong_token_is_told_and_never_shown(
    emulator: Handle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-wrong-and-hidden")
    with pytest.raises(ModalUnavailable, match="Modal not available") as caught:
        Sandboxes(tmp_path).run("pass")
    assert caught.value.hint == faults.NO_TOKEN
    assert "hidden" not in repr(caught.value.__cause__)
    assert emulator.shown("sandboxes") == []


def test_a_changed_token_takes_effect_in_the_same_process(
    emulator: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client()
    assert client() is first
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-another")
    assert client() is not first
    assert emulator.requests() == []


def test_a_diagnosis_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_ENABLED", raising=False)
    found = {each.subject: each for each in theory_adapter_modal.adapter.diagnose()}
    assert not found["enabled"].ok
    assert found["enabled"].hint == faults.NOT_ENABLED


@pytest.mark.parametrize(("secret", "is_known"), [("", True), ("as-wrong", False)], ids=["right", "wrong"])
def test_a_diagnosis_tells_whether_modal_knows_the_token(
    emulator: Handle, monkeypatch: pytest.MonkeyPatch, secret: str, is_known: bool
) -> None:
    assert emulator.environ
    if secret:
        monkeypatch.setenv("MODAL_TOKEN_SECRET", secret)
    found = {each.subject: each for each in theory_adapter_modal.adapter.diagnose()}
    assert found["account"].ok == is_known

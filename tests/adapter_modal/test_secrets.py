"""Secrets of a job as Modal takes them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import modal
import pytest

from adapter_modal.deployments import Bench
from theory import Secrets, errors
from theory.types import SecretNeeds
from theory_adapter_modal.account import client
from theory_adapter_modal.options import Options
from theory_adapter_modal.secrets import names_in, secrets_for

if TYPE_CHECKING:
    from pathlib import Path

    from modal_emulator.handle import Handle

NEEDS = SecretNeeds(required=("A_KEY", "B_KEY"), optional=("C_KEY",))
HERE = Secrets({"A_KEY": "value-of-a", "B_KEY": "value-of-b"})


class Ask:
    """An account that keeps some secrets, and an entry that needs some."""

    def __init__(self, emulator: Handle, folder: Path) -> None:
        self.emulator = emulator
        self._entry = Bench(folder).script("true", secrets=NEEDS)
        keep = modal.Secret.objects.create
        keep("both", {"A_KEY": "1", "B_KEY": "2"}, client=client())
        keep("a", {"A_KEY": "1"}, client=client())
        keep("b", {"B_KEY": "2"}, client=client())

    def __call__(self, secret: str | None) -> int:
        """How many secrets a job gets with this option."""
        return len(asyncio.run(secrets_for(self._entry, HERE, Options(secret=secret), client())))


@pytest.fixture
def asked(emulator: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setenv("MODAL_ENABLED", "True")
    return Ask(emulator, tmp_path)


@pytest.mark.parametrize(("secret", "count"), [(None, 1), ("both", 1), ("a,b", 2), (" a , b , a ", 2)])
def test_a_job_gets_the_secrets_that_modal_keeps_or_one_of_its_own(
    asked: Ask, secret: str | None, count: int
) -> None:
    assert asked(secret) == count


def test_nothing_of_this_environment_is_sent_where_modal_keeps_the_secrets(asked: Ask) -> None:
    asked("both")
    assert "value-of-a" not in json.dumps(asked.emulator.requests())


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("none", "Modal has no secret named none"),
        ("a,none", "Modal has no secret named none"),
        ("a", "needs the secret B_KEY, which a on Modal does not have"),
        ("b", "needs the secret A_KEY, which b on Modal does not have"),
    ],
    ids=["no such name", "one of two", "a key is missing", "another key"],
)
def test_what_is_missing_on_modal_is_named_before_anything_is_made(
    asked: Ask, secret: str, said: str
) -> None:
    with pytest.raises(errors.MissingSecret, match=said):
        asked(secret)


def test_no_secrets_are_no_secret_of_modals(tmp_path: Path) -> None:
    entry = Bench(tmp_path).script("true")
    assert asyncio.run(secrets_for(entry, Secrets(), Options(), None)) == []  # type: ignore[arg-type]  # not asked


def test_names_stand_between_commas() -> None:
    assert names_in(None) == ()
    assert names_in(" a,,b , a") == ("a", "b")

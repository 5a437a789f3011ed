"""Apps on the emulator: deployed, deployed again, run for a while, broken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import modal
import modal.exception
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from modal_emulator.handle import Handle

pytestmark = pytest.mark.usefixtures("emulator")
LONG = 60  # seconds: for what takes less than one where nothing is wrong

CODE = """
import os

import modal

app = modal.App({name!r}, tags={{"team": "blue"}})
image = modal.Image.from_registry("python:3.11-slim")
SECRET = modal.Secret.from_dict({{"WORD": "hush"}})
if not modal.is_local() and not {good}:
    raise ImportError("no such thing")

@app.function(image=image, secrets=[SECRET], scaledown_window=2, timeout=60)
def answer():
    return {value!r}, os.environ["WORD"]
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Makes modules with an app in them, as a user's file would be."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(value: Any, *, name: str = "written", good: bool = True) -> ModuleType:
        import importlib
        import sys

        (tmp_path / "an_app.py").write_text(CODE.format(name=name, value=value, good=good))
        sys.modules.pop("an_app", None)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return importlib.import_module("an_app")

    return write


def until(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LONG
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)
    return found


def test_a_new_deployment_keeps_the_ids_and_changes_the_code(
    emulator: Handle, written: Callable[..., ModuleType]
) -> None:
    written(1).app.deploy()
    (before,) = emulator.shown("functions")
    found = modal.Function.from_name("written", "answer")
    assert found.spawn().get(timeout=LONG) == (1, "hush")
    written(2).app.deploy()
    (after,) = emulator.shown("functions")
    assert (before["id"], before["app"]) == (after["id"], after["app"])
    assert before["definition"] != after["definition"]
    assert found.spawn().get(timeout=LONG)[0] == 2
    (app,) = emulator.shown("apps")
    assert (app["version"], app["tags"]) == (2, {"team": "blue"})


def test_an_app_that_is_run_ends_with_its_caller(
    emulator: Handle, written: Callable[..., ModuleType]
) -> None:
    module = written(1)
    with module.app.run():
        assert module.answer.remote()[0] == 1
        assert emulator.shown("containers")
    until(lambda: not emulator.shown("containers"), "its containers to end")
    assert [app["state"] for app in emulator.shown("apps")] == ["APP_STATE_STOPPED"]


def test_code_that_cannot_be_imported_says_so_to_the_caller(written: Callable[..., ModuleType]) -> None:
    written(1, good=False).app.deploy()
    with pytest.raises(ImportError, match="no such thing"):
        modal.Function.from_name("written", "answer").spawn().get(timeout=LONG)


def test_an_idle_container_ends_by_itself(emulator: Handle, written: Callable[..., ModuleType]) -> None:
    written(1).app.deploy()
    modal.Function.from_name("written", "answer").spawn().get(timeout=LONG)
    assert len(emulator.shown("containers")) == 1
    until(lambda: not emulator.shown("containers"), "it to end after its two seconds")


def test_a_function_that_is_not_there_is_not_found() -> None:
    with pytest.raises(modal.exception.NotFoundError, match="nothing"):
        modal.Function.from_name("nothing", "answer").hydrate()


def test_only_the_server_knows_which_gpus_there_are(written: Callable[..., ModuleType]) -> None:
    written(1).app.deploy()
    found = modal.Function.from_name("written", "answer")
    found.with_options(gpu="h100:2").hydrate()
    with pytest.raises(modal.exception.InvalidError, match="GPU"):
        found.with_options(gpu="abacus").hydrate()


def test_reports_tell_what_each_app_cost(emulator: Handle, written: Callable[..., ModuleType]) -> None:
    from datetime import datetime, timedelta, timezone

    module = written(1)
    with module.app.run():
        module.answer.remote()
    until(lambda: not emulator.shown("containers"), "its containers to end")
    billing = modal.Workspace.from_context().billing
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    (line,) = billing.report(start=today - timedelta(days=1), tag_names=["*"])
    assert line.tags == {"team": "blue"}
    assert line.cost > 0
    assert billing.rates()["cpu"] > 0

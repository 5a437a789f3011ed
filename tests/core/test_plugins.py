from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from theory import hookimpl, plugins
from theory.discovery import EntryPoint
from theory.errors import PluginFailed, Retry, UnknownAdapter
from theory.plugins import ADAPTERS, ALWAYS_ON, COMMANDS, REGISTRIES, STORES, Plugins
from theory.types import AdapterInfo, Failure, Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

INFO = AdapterInfo("A fake.", frozenset())
ENVELOPE = Failure("01890a5d-ac96-774b-bcce-b302099a8057", "ERR_USAGE", "x")


class Fake:
    """An adapter whose answers are given."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"describe_adapter": INFO, **answers}

    def _answer(self, hook: str) -> Any:
        answer = self.answers.get(hook)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @hookimpl
    def describe_adapter(self) -> Any:
        return self._answer("describe_adapter")

    @hookimpl
    def identify(self) -> Any:
        return self._answer("identify")

    @hookimpl
    def execute(self) -> Any:
        return self._answer("execute")

    @hookimpl
    def diagnose(self) -> Any:
        return self._answer("diagnose")


class Listener:
    """A plugin that is always on."""

    def __init__(
        self, finalize: Callable[[], Any] | None = None, materialize: Callable[[], Any] | None = None
    ) -> None:
        self.calls = SimpleNamespace(finalize=finalize, materialize=materialize)
        self.heard: list[object] = []

    @hookimpl
    def finalize(self, envelope: object) -> None:
        self.heard.append(envelope)
        if self.calls.finalize:
            self.calls.finalize()

    @hookimpl
    def materialize(self) -> Any:
        return self.calls.materialize() if self.calls.materialize else None


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def adapter_of(fake: object) -> plugins.Adapter:
    return Plugins(named={f"{ADAPTERS}:fake": fake}).adapter("fake")


def execute(adapter: plugins.Adapter) -> object:
    nothing: Any = None
    return adapter.execute(nothing, nothing, nothing, nothing, nothing)


def point(value: str, name: str = "x", group: str = ADAPTERS, owner: str = "acme") -> EntryPoint:
    return EntryPoint(group, name, value, owner, "1.0")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module that an entry point can name, and gives its name."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def write(source: str) -> str:
        name = f"plugin_{tmp_path.name}_{len(made)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text("from theory import hookimpl, AdapterInfo\n" + source)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


GOOD = "@hookimpl\ndef describe_adapter():\n    return AdapterInfo('Good.', frozenset())\n"


# ---------------------------------------------------------------- answers


def test_an_adapter_answers_with_its_records() -> None:
    outcome = Outcome("exit", 0, 0.0, 0.0)
    adapter = adapter_of(Fake(execute=outcome))
    assert adapter.info is INFO
    assert execute(adapter) is outcome


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "^adapter 'fake' of this program does not answer execute$"),
        ("done", "^execute of adapter 'fake' of this program answered with str, not Outcome$"),
        (INFO, "answered with AdapterInfo, not Outcome"),
        (ValueError("boom"), "^execute of adapter 'fake' of this program raised ValueError: boom$"),
        (NotImplementedError(), "raised NotImplementedError"),
    ],
)
def test_what_is_no_answer_is_a_named_error(answer: object, message: str) -> None:
    with pytest.raises(PluginFailed, match=message):
        execute(adapter_of(Fake(execute=answer)))


def test_a_disk_that_is_full_is_no_bug_in_the_plugin() -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PluginFailed, match=r"raised OSError: .*No space left on device") as caught:
        execute(adapter_of(Fake(execute=error)))
    assert "free some space" in caught.value.hint


def test_a_hook_that_is_not_there_is_not_answered() -> None:
    class Half:
        @hookimpl
        def describe_adapter(self) -> AdapterInfo:
            return INFO

    with pytest.raises(PluginFailed, match="does not answer execute"):
        execute(adapter_of(Half()))


def test_an_error_of_ours_passes_unchanged() -> None:
    error = Retry("come back later")
    with pytest.raises(Retry, match="come back later") as caught:
        execute(adapter_of(Fake(execute=error)))
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit("stop")])
def test_the_end_of_the_program_is_no_answer_of_a_plugin(error: BaseException) -> None:
    with pytest.raises(type(error), match=r"^stop$"):
        execute(adapter_of(Fake(execute=error)))


@pytest.mark.parametrize("described", [None, "adapter", ValueError("x")])
def test_an_adapter_that_cannot_describe_itself_is_refused(described: object) -> None:
    with pytest.raises(PluginFailed, match="describe_adapter"):
        adapter_of(Fake(describe_adapter=described))


def test_options_that_are_no_dataclass_are_refused() -> None:
    with pytest.raises(PluginFailed, match="which is no dataclass"):
        adapter_of(Fake(describe_adapter=AdapterInfo("x", frozenset(), options=dict)))


def test_nobody_answers_for_another_adapter() -> None:
    eager = Fake(execute=Outcome("exit", 7, 0.0, 0.0))
    both = Plugins(
        named={f"{ADAPTERS}:eager": eager, f"{ADAPTERS}:shy": Fake(), f"{ALWAYS_ON}:spy": Listener()}
    )
    both.adapter("eager")
    with pytest.raises(PluginFailed, match="adapter 'shy' of this program does not answer execute"):
        execute(both.adapter("shy"))


def test_an_adapter_is_asked_once_what_it_is() -> None:
    there = Plugins(named={f"{ADAPTERS}:fake": Fake()})
    assert there.adapter("fake") is there.adapter("fake")


# ---------------------------------------------------------------- what may be a plugin


class Misspelt:
    @hookimpl
    def exekute(self) -> None: ...


class WrongArgument:
    @hookimpl
    def execute(self, jobb: object) -> None: ...


class OtherGroup:
    @hookimpl
    def describe_adapter(self) -> AdapterInfo:
        return INFO

    @hookimpl
    def finalize(self, envelope: object) -> None: ...


class Unmarked:
    def execute(self) -> None: ...


class Touchy:
    @hookimpl
    def identify(self) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        if name == "identify":
            raise RuntimeError("do not touch")
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            Misspelt(),
            "^adapter 'fake' of this program has a hook that does not exist or does not fit: .*exekute",
        ),
        (WrongArgument(), "has a hook that does not exist or does not fit: .*jobb"),
        (OtherGroup(), "implements finalize, which is no hook of theory.adapters"),
        (Unmarked(), "^adapter 'fake' of this program implements no hook$"),
        (object(), "implements no hook"),
        (None, "adapter 'fake' of this program"),
        (Touchy(), "do not touch|does not answer describe_adapter"),
    ],
)
def test_what_is_no_adapter_is_refused_with_the_reason(plugin: object, message: str) -> None:
    with pytest.raises(PluginFailed, match=message) as caught:
        adapter_of(plugin)
    assert "\n" not in caught.value.message


# ---------------------------------------------------------------- what is installed


def test_names_are_listed_without_importing_anything() -> None:
    there = Plugins([point("no.such.module", "b"), point("nor.this", "a"), point("x", "s3", STORES)])
    assert there.names(ADAPTERS) == ["a", "b"]
    assert there.names(STORES) == ["s3"]
    assert there.names(COMMANDS) == []


BROKEN = {
    "raises": ("raise ValueError('boom')", "^'x' of acme cannot be imported: ValueError: boom$"),
    "has a fault of syntax": ("def", "cannot be imported: SyntaxError"),
    "exits": ("raise SystemExit(0)", "^'x' of acme cannot be imported: SystemExit: 0$"),
    "misspells": (
        "@hookimpl\ndef exekute(): ...\n",
        "^adapter 'x' of acme has a hook that does not exist .*exekute",
    ),
    "belongs elsewhere": (
        GOOD + "@hookimpl\ndef resolve_ref(ref): ...\n",
        "implements resolve_ref, which is no hook of theory.adapters",
    ),
    "has no hook": ("", "^adapter 'x' of acme implements no hook$"),
}


@pytest.mark.parametrize(("source", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_plugin_that_is_broken_breaks_nothing_but_itself(
    module: Callable[[str], str], source: str, message: str
) -> None:
    there = Plugins([point(module(source)), point(module(GOOD), "good", owner="fine")])
    with pytest.raises(PluginFailed, match=message):
        there.adapter("x")
    assert there.adapter("good").info.summary == "Good."
    problems = {status.name: status.problem for status in there.survey()}
    assert problems["good"] == ""
    assert re.search(message, problems["x"])


def test_a_module_or_attribute_that_is_not_there_is_told() -> None:
    there = Plugins([point("no.such.module"), point("theory.plugins:Nope.deeper", "y")])
    with pytest.raises(PluginFailed, match="'x' of acme cannot be imported: ModuleNotFoundError") as caught:
        there.adapter("x")
    assert caught.value.hint == "pip install --upgrade acme, or uninstall it"
    with pytest.raises(PluginFailed, match="'y' of acme cannot be imported: AttributeError"):
        there.adapter("y")


def test_an_entry_point_may_name_an_attribute(module: Callable[[str], str]) -> None:
    method = (
        "    @hookimpl\n    def describe_adapter(self):\n        return AdapterInfo('Held.', frozenset())\n"
    )
    name = module(f"class Holder:\n{method}held = Holder()\n")
    assert Plugins([point(f"{name}:held")]).adapter("x").info.summary == "Held."


def test_one_name_of_two_distributions_is_refused_and_both_are_named(module: Callable[[str], str]) -> None:
    good = module(GOOD)
    there = Plugins([point(good, owner="one"), point(good, owner="two"), point(good, "y")])
    with pytest.raises(PluginFailed, match=r"^'x' in theory\.adapters is offered by one and two$"):
        there.adapter("x")
    assert there.adapter("y").name == "y"
    assert [(status.distribution, bool(status.problem)) for status in there.survey()] == [
        ("one", True),
        ("two", True),
        ("acme", False),
    ]


def test_the_survey_says_of_every_group_how_it_went(module: Callable[[str], str]) -> None:
    good = module(GOOD)
    there = Plugins(
        [
            point(good),
            point(good, "r", REGISTRIES),
            point("gone", "c", COMMANDS),
            point(good, "z", "theory.unheard"),
        ]
    )
    problems = {status.group: status.problem for status in there.survey()}
    assert problems[ADAPTERS] == problems[REGISTRIES] == ""
    assert "cannot be imported" in problems[COMMANDS]
    assert problems["theory.unheard"] == "theory.unheard is no group of theory"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("modal", "pip install theory-adapter-modal; installed: local"),
        ("rocket", "installed: local"),
        ("local ", "did you mean local?; installed: local"),
        ("Locla", "did you mean local?; installed: local"),
    ],
)
def test_an_adapter_that_is_not_installed_gets_the_next_step(name: str, hint: str) -> None:
    with pytest.raises(UnknownAdapter, match=f"^no adapter '{name}' is installed$") as caught:
        Plugins([point("x", "local")]).adapter(name)
    assert caught.value.hint == hint


def test_an_adapter_that_theory_plugins_leaves_out_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "acme_rocket-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[theory.adapters]\nrocket = acme_rocket\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    left_out = "^the adapter 'rocket' is installed, but THEORY_PLUGINS leaves it out$"
    with pytest.raises(UnknownAdapter, match=left_out) as caught:
        Plugins.installed({"THEORY_PLUGINS": ""}).adapter("rocket")
    assert caught.value.hint == "add acme-rocket to THEORY_PLUGINS, or unset it"


def test_without_any_adapter_the_hint_says_so() -> None:
    with pytest.raises(UnknownAdapter, match="no adapter 'rocket'") as caught:
        Plugins().adapter("rocket")
    assert caught.value.hint.startswith("pip install theory-adapter-local or theory-adapter-mock or ")


def test_what_we_publish_is_named_by_group_and_name() -> None:
    names = plugins.published()
    assert names[ADAPTERS]["process"] == "theory-adapter-process"
    assert all(group in {ADAPTERS, STORES, REGISTRIES} for group in names)


# ---------------------------------------------------------------- stores, fetchers, listeners, doctor


@dataclass
class Opens:
    """A store's plugin."""

    answer: object

    @hookimpl
    def open_store(self) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "^store 'ftp' of this program does not open"), ("text", "answered with str, which is no store")],
)
def test_what_is_no_store_is_refused_without_showing_the_url(answer: object, message: str) -> None:
    with pytest.raises(PluginFailed, match=message) as caught:
        Plugins(named={f"{STORES}:ftp": Opens(answer)}).open_store("ftp://me:sk-secret@host/x")
    assert "sk-secret" not in caught.value.message + caught.value.hint


def test_a_store_is_chosen_by_the_scheme_of_its_url() -> None:
    store = SimpleNamespace(put=None, memo_get=None)
    there = Plugins(named={f"{STORES}:ftp": Opens(store), f"{STORES}:other": Opens(None)})
    assert there.open_store("ftp://host") is store
    with pytest.raises(UnknownAdapter, match=r"^no store 's3' is installed$") as caught:
        there.open_store("s3://bucket")
    installed = "installed: ftp, other; file:///absolute/folder needs no plugin"
    assert caught.value.hint == f"pip install theory-store-s3; {installed}"


def test_the_first_fetcher_that_knows_the_scheme_answers(tmp_path: Path) -> None:
    file = tmp_path / "x"
    there = Plugins(
        named={f"{ALWAYS_ON}:a": Listener(), f"{ALWAYS_ON}:b": Listener(materialize=lambda: file)}
    )
    assert there.materialize("ftp://x", tmp_path) == file
    assert Plugins(named={f"{ALWAYS_ON}:a": Listener()}).materialize("ftp://x", tmp_path) is None


def test_a_fetcher_that_fails_or_answers_with_text_is_named(tmp_path: Path) -> None:
    for fetcher, message in (
        (failing(OSError("no route")), "raised OSError: no route"),
        (lambda: "x", "answered with str, not "),
    ):
        with pytest.raises(PluginFailed, match=f"materialize of plugin 'a' of this program {message}"):
            Plugins(named={f"{ALWAYS_ON}:a": Listener(materialize=fetcher)}).materialize("ftp://x", tmp_path)


def test_a_fetcher_that_cannot_be_loaded_harms_no_other(tmp_path: Path) -> None:
    there = Plugins(
        [point("gone", "a", ALWAYS_ON)], {f"{ALWAYS_ON}:b": Listener(materialize=lambda: tmp_path)}
    )
    assert there.materialize("ftp://x", tmp_path) == tmp_path
    with pytest.raises(PluginFailed, match="'a' of acme cannot be imported"):
        Plugins([point("gone", "a", ALWAYS_ON)]).materialize("ftp://x", tmp_path)


def test_a_listener_that_fails_is_a_warning_and_the_others_hear() -> None:
    good = Listener()
    there = Plugins(
        [point("gone", "c", ALWAYS_ON)],
        {
            f"{ALWAYS_ON}:a": Listener(failing(ValueError("deaf"))),
            f"{ALWAYS_ON}:b": Listener(failing(Retry("busy"))),
            f"{ALWAYS_ON}:d": good,
        },
    )
    warnings = there.finalize(ENVELOPE)
    assert good.heard == [ENVELOPE]
    assert warnings[:2] == ["finalize of plugin 'a' of this program raised ValueError: deaf", "busy"]
    assert "'c' of acme cannot be imported" in warnings[2]


def test_the_doctor_hears_everybody_and_those_that_fail() -> None:
    good = (Finding("disk", ok=True, message="fine"),)
    there = Plugins(
        [point("gone", "e")],
        {
            f"{ADAPTERS}:{name}": Fake(diagnose=answer)
            for name, answer in {"a": good, "b": ValueError("ill"), "c": 5, "d": ("text",)}.items()
        },
    )
    found = {name: (finding.ok, finding.subject) for name, finding in there.diagnose()}
    assert found == {
        "a": (True, "disk"),
        "b": (False, "adapter b"),
        "c": (False, "adapter c"),
        "d": (False, "adapter d"),
        "e": (False, "adapter e"),
    }


def test_an_adapter_that_has_nothing_to_say_says_nothing() -> None:
    assert list(adapter_of(Fake()).diagnose()) == []

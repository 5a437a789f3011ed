"""The plugins that are there, each in a pluggy manager of its own; the only module that calls pluggy.

One typed method a hook. A hook that nobody answers, an answer of a wrong type and whatever a plugin raises become
named errors here, so no room has to ask twice.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from theory import discovery
from theory.errors import PluginFailed, TheoryError, UnknownAdapter
from theory.hookspecs import HOOKS_OF_GROUP
from theory.types import AdapterInfo, Finding, Image, Outcome, Processor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from theory.discovery import EntryPoint
    from theory.types import Channel, Envelope, Job, Ref, Secrets, Store, Workspace

    Answer = TypeVar("Answer")

ADAPTERS = "theory.adapters"
STORES = "theory.stores"
REGISTRIES = "theory.registries"
ALWAYS_ON = "theory.plugins"
COMMANDS = "theory.commands"


@dataclass(frozen=True, slots=True)
class Status:
    """One line of ``theory plugins``."""

    group: str
    name: str
    distribution: str
    version: str
    problem: str  # empty when it loads


class Plugin:
    """One plugin, alone in its manager: nobody can answer for it or listen in."""

    def __init__(self, module: object, group: str, name: str, distribution: str) -> None:
        import pluggy  # noqa: PLC0415 - "theory --version" asks no plugin

        from theory import hookspecs  # noqa: PLC0415 - as above

        self.module = module
        self.name = name
        self.who = f"{group.removeprefix('theory.').rstrip('s')} {name!r} of {distribution}"
        self._manager = pluggy.PluginManager("theory")
        self._manager.add_hookspecs(hookspecs)
        try:
            self._manager.register(module)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginFailed(
                f"{self.who} has a hook that does not exist or does not fit: {error}",
                hint="compare it with docs/reference/hooks.md",
            ) from error
        answered = {caller.name for caller in self._manager.get_hookcallers(module) or ()}
        if extra := answered - HOOKS_OF_GROUP[group]:
            raise PluginFailed(
                f"{self.who} implements {', '.join(sorted(extra))}, which is no hook of {group}",
                hint=f"a plugin of {group} may implement {', '.join(sorted(HOOKS_OF_GROUP[group]))}",
            )
        if not answered:
            raise PluginFailed(f"{self.who} implements no hook", hint="mark its functions with theory.hookimpl")

    def ask(self, hook: str, expected: type[Answer], **arguments: Any) -> Answer:  # noqa: ANN401 - each hook has its own
        """The plugin's answer to a question.

        Raises:
            PluginFailed: It raised, did not answer, or answered with another type.
        """
        answer = self.ask_or_none(hook, expected, **arguments)
        if answer is None:
            raise PluginFailed(f"{self.who} does not answer {hook}", hint="its author has to implement that hook")
        return answer

    def ask_or_none(self, hook: str, expected: type[Answer], **arguments: Any) -> Answer | None:  # noqa: ANN401 - as above
        """The plugin's answer, or None for "not mine"."""
        answer = self.tell(hook, **arguments)
        if answer is not None and not isinstance(answer, expected):
            raise PluginFailed(
                f"{hook} of {self.who} answered with {type(answer).__name__}, not {expected.__name__}",
                hint="its author has to compare it with docs/reference/hooks.md",
            )
        return answer

    def tell(self, hook: str, **arguments: Any) -> Any:  # noqa: ANN401 - as above
        """Call a hook and hand back whatever comes."""
        try:
            return getattr(self._manager.hook, hook)(**arguments)
        except TheoryError:
            raise
        except Exception as error:
            raise PluginFailed(
                f"{hook} of {self.who} raised {type(error).__name__}: {error}",
                hint="that is a bug in the plugin; --debug shows where",
            ) from error


class Adapter:
    """The typed way to an adapter's hooks."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self.name = plugin.name
        self.info = plugin.ask("describe_adapter", AdapterInfo)

    def identify(self, processor: Processor, options: object) -> Image:
        """Which image the entry means here."""
        return self._plugin.ask("identify", Image, processor=processor, options=options)

    def execute(
        self, job: Job, workspace: Workspace, options: object, secrets: Secrets, channel: Channel
    ) -> Outcome:
        """Run the job."""
        return self._plugin.ask(
            "execute",
            Outcome,
            job=job,
            workspace=workspace,
            options=options,
            secrets=secrets,
            channel=channel,
        )

    def diagnose(self) -> Iterator[Finding]:
        """What the adapter says of its surroundings."""
        yield from _findings(self._plugin)


class Plugins:
    """All that is installed, and what was handed in by name; a plugin is imported when it is asked for.

    Args:
        points: The installed entry points; two of one name in a group are refused when asked for.
        named: Plugins by ``group:name``, for tests and for programs that bring their own.
    """

    def __init__(self, points: Iterable[EntryPoint] = (), named: Mapping[str, object] | None = None) -> None:
        self._points: dict[tuple[str, str], list[EntryPoint]] = {}
        for point in points:
            self._points.setdefault((point.group, point.name), []).append(point)
        self._named = {(key.partition(":")[0], key.partition(":")[2]): value for key, value in (named or {}).items()}
        self._loaded: dict[tuple[str, str], Plugin] = {}
        self._adapters: dict[str, Adapter] = {}
        self._lock = threading.RLock()

    @classmethod
    def installed(cls, environ: Mapping[str, str] = os.environ) -> Plugins:
        """The plugins that this Python has."""
        ours = frozenset(name for names in published().values() for name in names.values())
        return cls(discovery.allowed(discovery.installed(), environ, ours))

    def names(self, group: str) -> list[str]:
        """The names in a group, sorted, without importing anything."""
        return sorted({name for of, name in (*self._points, *self._named) if of == group})

    def adapter(self, name: str) -> Adapter:
        """The adapter of this name.

        Raises:
            UnknownAdapter: None is installed; the hint says which package to install.
            PluginFailed: It cannot be loaded, or two distributions offer it.
        """
        with self._lock:
            if name not in self._adapters:
                self._adapters[name] = Adapter(self._plugin(ADAPTERS, name, "adapter"))
            return self._adapters[name]

    def open_store(self, url: str) -> Store:
        """The store of this URL, from the plugin that its scheme names."""
        scheme = url.partition(":")[0]
        plugin = self._plugin(STORES, scheme, "store")
        store: Store | None = plugin.tell("open_store", url=url)
        if store is None:
            raise PluginFailed(f"{plugin.who} does not open {url}", hint="see the documentation of that store")
        if not (hasattr(store, "put") and hasattr(store, "memo_get")):
            raise PluginFailed(f"open_store of {plugin.who} answered with {type(store).__name__}, which is no store")
        return store

    def registry(self, registry: object, name: str) -> Callable[[Ref], Processor | None]:
        """The typed way to one registry's ``resolve_ref``."""
        plugin = Plugin(registry, REGISTRIES, name, "this program")
        return lambda ref: plugin.ask_or_none("resolve_ref", Processor, ref=ref)

    def materialize(self, uri: str, dest: Path) -> Path | None:
        """Ask every fetcher for the bytes of a URI; None when none knows its scheme."""
        answers = (plugin.ask_or_none("materialize", Path, uri=uri, dest=dest) for plugin in self._always_on())
        return next((answer for answer in answers if answer is not None), None)

    def finalize(self, envelope: Envelope) -> list[str]:
        """Tell every listener; what fails is a warning."""
        warnings = []
        for name in self.names(ALWAYS_ON):
            try:
                self._plugin(ALWAYS_ON, name, "plugin").tell("finalize", envelope=envelope)
            except TheoryError as error:
                warnings.append(error.message)
        return warnings

    def diagnose(self) -> Iterator[tuple[str, Finding]]:
        """What adapters and stores say for ``theory doctor``; one that fails is a finding itself."""
        for group, kind in ((ADAPTERS, "adapter"), (STORES, "store")):
            for name in self.names(group):
                try:
                    for finding in _findings(self._plugin(group, name, kind)):
                        yield name, finding
                except TheoryError as error:
                    yield name, Finding(f"{kind} {name}", ok=False, message=error.message, hint=error.hint)

    def survey(self) -> Iterator[Status]:
        """Load everything, each by itself, and say how it went."""
        for (group, name), points in sorted(self._points.items()):
            problem = ""
            try:
                if group == COMMANDS or group == REGISTRIES:
                    self.load(group, name)
                elif group in HOOKS_OF_GROUP:
                    self._plugin(group, name, group.removeprefix("theory.").rstrip("s"))
                else:
                    problem = f"{group} is no group of theory"
            except TheoryError as error:
                problem = error.message
            for point in points:
                yield Status(group, name, point.distribution, point.version, problem)

    def load(self, group: str, name: str) -> object:
        """The object behind one entry point.

        Raises:
            PluginFailed: Two distributions offer it, or its import fails.
        """
        if (group, name) in self._named:
            return self._named[group, name]
        points = self._points[group, name]
        if len(points) > 1:
            owners = " and ".join(point.distribution for point in points)
            raise PluginFailed(
                f"{name!r} in {group} is offered by {owners}", hint="uninstall all of them but one"
            )
        (point,) = points
        from importlib import import_module  # noqa: PLC0415 - nothing to import where no plugin is asked for

        try:
            module, _, attribute = point.value.partition(":")
            found: object = import_module(module)
            for part in attribute.split(".") if attribute else ():
                found = getattr(found, part)
        except TheoryError:
            raise
        except Exception as error:
            raise PluginFailed(
                f"{name!r} of {point.distribution} cannot be imported: {type(error).__name__}: {error}",
                hint=f"pip install --upgrade {point.distribution}, or uninstall it",
            ) from error
        return found

    def _plugin(self, group: str, name: str, kind: str) -> Plugin:
        with self._lock:
            if (group, name) not in self._points and (group, name) not in self._named:
                raise self._unknown(group, name, kind)
            if (group, name) not in self._loaded:
                points = self._points.get((group, name))
                owner = points[0].distribution if points else "this program"
                self._loaded[group, name] = Plugin(self.load(group, name), group, name, owner)
            return self._loaded[group, name]

    def _unknown(self, group: str, name: str, kind: str) -> UnknownAdapter:
        have = self.names(group)
        hint = f"installed: {', '.join(have)}" if have else f"no {kind} is installed"
        if package := published().get(group, {}).get(name):
            hint = f"pip install {package}"
        return UnknownAdapter(f"no {kind} {name!r} is installed", hint=hint)

    def _always_on(self) -> Iterator[Plugin]:
        for name in self.names(ALWAYS_ON):
            yield self._plugin(ALWAYS_ON, name, "plugin")


def published() -> dict[str, dict[str, str]]:
    """The names that we publish: group, name, distribution."""
    names: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("published.json").read_text("utf-8"))
    return names


def _findings(plugin: Plugin) -> Iterator[Finding]:
    for answer in plugin.tell("diagnose"):
        for finding in answer:
            if not isinstance(finding, Finding):
                raise PluginFailed(f"diagnose of {plugin.who} answered with {type(finding).__name__}, not Finding")
            yield finding

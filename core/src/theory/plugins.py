"""The plugins that are there, each in a pluggy manager of its own; the only module that calls pluggy.

One typed method a hook. A hook that nobody answers, an answer of a wrong type and whatever a plugin raises
become named errors here, so no room has to ask twice.
"""

from __future__ import annotations

import os
import threading
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from theory import discovery
from theory.discovery import published as published  # noqa: PLC0414 - told from here to others, found there without pluggy
from theory.disk import durable
from theory.errors import PluginFailed, TheoryError, UnknownAdapter
from theory.hookspecs import HOOKS_OF_GROUP
from theory.record import Record
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
_KINDS = {ADAPTERS: "adapter", STORES: "store", ALWAYS_ON: "plugin"}


class Status(Record):
    """One line of ``theory plugins``."""

    group: str
    name: str
    distribution: str
    version: str
    problem: str  # empty when it loads


class Plugin:
    """One plugin, alone in its manager: nobody can answer for it or listen in."""

    def __init__(self, module: object, group: str, name: str, who: str) -> None:
        import pluggy  # noqa: PLC0415 - "theory --version" asks no plugin

        from theory import hookspecs  # noqa: PLC0415 - as above

        self.module = module
        self.name = name
        self.who = who
        self._manager = pluggy.PluginManager("theory")
        self._manager.add_hookspecs(hookspecs)
        try:
            self._manager.register(module)
            self._manager.check_pending()
        except Exception as error:  # pluggy touches every attribute, and one may raise what it likes
            words = " ".join(str(error).split())
            raise PluginFailed(
                f"{self.who} has a hook that does not exist or does not fit: {words}",
                hint="compare it with docs/reference/hooks.md",
            ) from error
        answered = {caller.name for caller in self._manager.get_hookcallers(module) or ()}
        if extra := answered - HOOKS_OF_GROUP[group]:
            raise PluginFailed(
                f"{self.who} implements {', '.join(sorted(extra))}, which is no hook of {group}",
                hint=f"a plugin of {group} may implement {', '.join(sorted(HOOKS_OF_GROUP[group]))}",
            )
        if not answered:
            raise PluginFailed(
                f"{self.who} implements no hook", hint="mark its functions with theory.hookimpl"
            )

    def ask(self, hook: str, expected: type[Answer], **arguments: Any) -> Answer:  # noqa: ANN401 - each hook has its own
        """The plugin's answer to a question.

        Raises:
            PluginFailed: It raised, did not answer, or answered with another type.
        """
        answer = self.ask_or_none(hook, expected, **arguments)
        if answer is None:
            raise PluginFailed(
                f"{self.who} does not answer {hook}", hint="its author has to implement that hook"
            )
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
                hint=durable.remedy(error, "that is a bug in the plugin; --debug shows where"),
            ) from error


class Adapter:
    """The typed way to an adapter's hooks."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self.name = plugin.name
        self.info = plugin.ask("describe_adapter", AdapterInfo)
        if self.info.options is not None and not is_dataclass(self.info.options):
            raise PluginFailed(
                f"the options of {plugin.who} are {self.info.options!r}, which is no dataclass",
                hint="its author has to compare it with docs/reference/hooks.md",
            )

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
        hidden: Finds entry points that are installed and left out; asked only to say so.
    """

    def __init__(
        self,
        points: Iterable[EntryPoint] = (),
        named: Mapping[str, object] | None = None,
        *,
        hidden: Callable[[], Iterable[EntryPoint]] = tuple,
    ) -> None:
        self._points: dict[tuple[str, str], list[EntryPoint]] = {}
        for point in points:
            self._points.setdefault((point.group, point.name), []).append(point)
        self._named = {
            (key.partition(":")[0], key.partition(":")[2]): value for key, value in (named or {}).items()
        }
        self._loaded: dict[tuple[str, str], Plugin] = {}
        self._adapters: dict[str, Adapter] = {}
        self._hidden = hidden
        self._lock = threading.RLock()

    @classmethod
    def installed(cls, environ: Mapping[str, str] = os.environ) -> Plugins:
        """The plugins that this Python has."""
        hidden = discovery.installed if "THEORY_PLUGINS" in environ else tuple
        return cls(discovery.allowed(discovery.installed(), environ), hidden=hidden)

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
                self._adapters[name] = Adapter(self._plugin(ADAPTERS, name))
            return self._adapters[name]

    def open_store(self, url: str) -> Store:
        """The store of this URL, from the plugin that its scheme names."""
        scheme = url.partition(":")[0]
        plugin = self._plugin(STORES, scheme)
        store: Store | None = plugin.tell("open_store", url=url)
        if store is None:
            raise PluginFailed(
                f"{plugin.who} does not open the URL of the store", hint="see the documentation of that store"
            )
        if not (hasattr(store, "put") and hasattr(store, "memo_get")):
            raise PluginFailed(
                f"open_store of {plugin.who} answered with {type(store).__name__}, which is no store"
            )
        return store

    def registry(self, registry: object, name: str) -> Callable[[Ref], Processor | None]:
        """The typed way to one registry's ``resolve_ref``; its name is what errors call it."""
        plugin = Plugin(registry, REGISTRIES, name, name)
        return lambda ref: plugin.ask_or_none("resolve_ref", Processor, ref=ref)

    def materialize(self, uri: str, dest: Path) -> Path | None:
        """Ask every fetcher for the bytes of a URI; None when none knows its scheme.

        Raises:
            PluginFailed: A fetcher failed; one that cannot be loaded counts only if no other knows the
            scheme.
        """
        broken: list[PluginFailed] = []
        for name in self.names(ALWAYS_ON):
            try:
                plugin = self._plugin(ALWAYS_ON, name)
            except PluginFailed as error:
                broken.append(error)
                continue
            if (answer := plugin.ask_or_none("materialize", Path, uri=uri, dest=dest)) is not None:
                return answer
        if broken:
            raise broken[0]
        return None

    def finalize(self, envelope: Envelope) -> list[str]:
        """Tell every listener; what fails is a warning."""
        warnings = []
        for name in self.names(ALWAYS_ON):
            try:
                self._plugin(ALWAYS_ON, name).tell("finalize", envelope=envelope)
            except TheoryError as error:
                warnings.append(error.message)
        return warnings

    def diagnose(self) -> Iterator[tuple[str, Finding]]:
        """What adapters and stores say for ``theory doctor``; one that fails is a finding itself."""
        for group in (ADAPTERS, STORES):
            for name in self.names(group):
                try:
                    for finding in _findings(self._plugin(group, name)):
                        yield name, finding
                except TheoryError as error:
                    yield (
                        name,
                        Finding(f"{_KINDS[group]} {name}", ok=False, message=error.message, hint=error.hint),
                    )

    def survey(self) -> Iterator[Status]:
        """Load everything, each by itself, and say how it went."""
        for (group, name), points in sorted(self._points.items()):
            problem = ""
            try:
                if group in {COMMANDS, REGISTRIES}:
                    self.load(group, name)
                elif group == ADAPTERS:
                    self.adapter(name)  # it has to describe itself, or nobody can use it
                elif group in HOOKS_OF_GROUP:
                    self._plugin(group, name)
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
        except (Exception, SystemExit) as error:
            raise PluginFailed(
                f"{name!r} of {point.distribution} cannot be imported: {type(error).__name__}: {error}",
                hint=f"pip install --upgrade {point.distribution}, or uninstall it",
            ) from error
        return found

    def _plugin(self, group: str, name: str) -> Plugin:
        with self._lock:
            if (group, name) not in self._points and (group, name) not in self._named:
                raise self._unknown(group, name)
            if (group, name) not in self._loaded:
                owner = (
                    "this program"
                    if (group, name) in self._named
                    else self._points[group, name][0].distribution
                )
                who = f"{_KINDS[group]} {name!r} of {owner}"
                self._loaded[group, name] = Plugin(self.load(group, name), group, name, who)
            return self._loaded[group, name]

    def _unknown(self, group: str, name: str) -> UnknownAdapter:
        kind, have = _KINDS[group], self.names(group)
        for point in self._hidden():
            if (point.group, point.name) == (group, name):
                return UnknownAdapter(
                    f"the {kind} {name!r} is installed, but THEORY_PLUGINS leaves it out",
                    hint=f"add {point.distribution} to THEORY_PLUGINS, or unset it",
                )
        from difflib import get_close_matches  # noqa: PLC0415 - only for a name that is wrong

        known = published().get(group, {})
        near = get_close_matches(name.lower(), have, n=1, cutoff=0.75)
        meant = f"did you mean {near[0]}?" if near and name not in known else ""
        installed = f"installed: {', '.join(have)}" if have else ""
        install = f"pip install {known[name]}" if name in known else ""
        folder = "file:///absolute/folder needs no plugin" if group == STORES else ""
        anything = "" if installed or install or folder else "pip install " + " or ".join(known.values())
        hint = "; ".join(filter(None, (install, meant, installed, folder, anything)))
        return UnknownAdapter(f"no {kind} {name[:100]!r} is installed", hint=hint)


def _findings(plugin: Plugin) -> Iterator[Finding]:
    for answer in plugin.tell("diagnose"):
        if not isinstance(answer, (tuple, list)) or not all(
            isinstance(finding, Finding) for finding in answer
        ):
            raise PluginFailed(
                f"diagnose of {plugin.who} answered with something else than a tuple of Finding",
                hint="its author has to compare it with docs/reference/hooks.md",
            )
        yield from answer

"""Settings: what they are, and where each of them came from.

From the strongest to the weakest: what the caller says (command line or arguments), the environment
(``THEORY_…``), the project's file (``theory.toml``, or ``[tool.theory]`` in ``pyproject.toml``, found by
walking up), the user's file, defaults. A folder or file that is not absolute is meant from the file that
names it, and in a variable from the working directory.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from theory.errors import Usage
from theory.formats.paths import DEFAULT_PREFIX
from theory.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from theory.types import JsonObject

# Environment variable, default and type of each key. Those that are the user's own are never taken from a
# project's file: a clone must not choose where secrets come from, or where records go.
_KEYS: dict[str, tuple[str, object, type]] = {
    "adapter": ("THEORY_ADAPTER", "local", str),
    "plan": ("THEORY_PLAN", "default", str),
    "write_prefix": ("THEORY_WRITE_PREFIX", DEFAULT_PREFIX, str),
    "registry": ("THEORY_REGISTRY", (), list),
    "home": ("THEORY_HOME", None, str),
    "store": ("THEORY_STORE", None, str),
    "secrets_file": ("THEORY_SECRETS_FILE", None, str),
}
_USERS_OWN = frozenset({"home", "store", "secrets_file"})
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")  # RFC 3986, 3.1
_PROJECT_FILES = ("theory.toml", "pyproject.toml")
_MAX_BYTES = 64 * 1024  # of a file
_MAX_DOTS = 300  # in a line: a key of thousands of parts takes the TOML parser minutes
_OURS = re.compile(rb"""^\s*(\[\s*["']?tool["']?\s*\.\s*)?["']?(tool|theory)["']?\s*[].=]""", re.MULTILINE)


class Setting(Record):
    """One value and its origin."""

    key: str
    value: object
    origin: str  # "default", a variable's name, or a file


class Settings(Record):
    """All settings of one caller."""

    home: Path
    store: str  # URL
    adapter: str
    plan: str
    write_prefix: str
    named_registries: tuple[Path, ...]  # by the user: these may shadow installed entries
    found_registries: tuple[Path, ...]  # by the project
    secrets_file: Path | None
    adapter_options: Mapping[str, JsonObject]  # by adapter
    origins: tuple[Setting, ...]  # all of the above, for "theory config"


def load(environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Settings:
    """The settings that hold in a folder.

    Raises:
        Usage: A file that is not TOML, an unknown key, or a value of a wrong type: file and key.
    """
    folder = _working_directory() if folder is None else folder
    project, projects = _project_file(folder)
    users = user_file(environ)
    layers = [
        (str(file), table) for file, table in ((project, projects), (users, _users(users))) if file and table
    ]
    chosen = {key: _chosen(key, environ, layers) for key in _KEYS}
    bases = {str(file): file.parent for file in (project, users) if file}

    def located(key: str, text: object) -> Path:
        base = bases.get(chosen[key].origin, folder)
        return Path(os.path.abspath(base / os.path.expanduser(str(text))))

    home = located("home", chosen["home"].value or _default_home(environ))
    store = str(chosen["store"].value or (home / "store").as_uri())
    store = store_url(store, bases.get(chosen["store"].origin, folder))
    folders = tuple(located("registry", item) for item in cast("Iterable[str]", chosen["registry"].value))
    of_project = project is not None and chosen["registry"].origin == str(project)
    upwards = next((path for here in _upwards(folder) if os.path.isdir(path := here / "registry")), None)
    named = () if of_project else folders
    found = (*(folders if of_project else ()), *((upwards,) if upwards else ()))
    secrets_file = chosen["secrets_file"].value
    secrets = located("secrets_file", secrets_file) if secrets_file else None
    options = _adapter_options(layers)
    shown = {"home": home, "store": store, "registry": (*named, *found), "secrets_file": secrets}
    origins = [Setting(key, shown.get(key, setting.value), setting.origin) for key, setting in chosen.items()]
    origins += [
        Setting(f"adapters.{name}.{key}", value, origin)
        for name, table in options.items()
        for key, (value, origin) in table.items()
    ]
    return Settings(
        home=home,
        store=store,
        adapter=str(chosen["adapter"].value),
        plan=str(chosen["plan"].value),
        write_prefix=str(chosen["write_prefix"].value),
        named_registries=named,
        found_registries=found,
        secrets_file=secrets,
        adapter_options={
            name: {key: value for key, (value, _) in table.items()} for name, table in options.items()
        },
        origins=tuple(origins),
    )


def store_url(text: str, base: Path) -> str:
    """The URL of a store that people may also name as a folder, which is meant from ``base``."""
    if "://" in text or _SCHEME.match(text):
        return text
    return Path(os.path.abspath(base / os.path.expanduser(text))).as_uri()


def user_file(environ: Mapping[str, str]) -> Path:
    """The user's configuration file: $XDG_CONFIG_HOME/theory/config.toml, on macOS in Application Support."""
    home = environ.get("HOME") or os.path.expanduser("~")
    if sys.platform == "darwin":
        return Path(home, "Library", "Application Support", "theory", "config.toml")
    return Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "theory", "config.toml")


def secrets_of(file: Path) -> dict[str, str]:
    """The secrets that a file of ``NAME=value`` lines holds.

    Raises:
        Usage: It cannot be read, or a line is something else; its content is not repeated.
    """
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise Usage(f"the secrets file {file} cannot be read: {reason}", hint="check secrets_file") from None
    secrets = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals:
            raise Usage(f"line {number} of the secrets file {file} is not NAME=value")
        secrets[name.strip()] = value.strip()
    return secrets


def _default_home(environ: Mapping[str, str]) -> Path:
    """XDG Base Directory Specification 0.8; on macOS Apple's File System Programming Guide."""
    home = environ.get("HOME") or os.path.expanduser("~")
    if sys.platform == "darwin":
        return Path(home, "Library", "Application Support", "theory")
    return Path(environ.get("XDG_DATA_HOME") or f"{home}/.local/share", "theory")


def _chosen(key: str, environ: Mapping[str, str], layers: list[tuple[str, Mapping[str, Any]]]) -> Setting:
    variable, default, kind = _KEYS[key]
    if text := environ.get(variable):
        return Setting(key, tuple(filter(None, text.split(os.pathsep))) if kind is list else text, variable)
    for file, table in layers:
        if key in table:
            value = table[key]
            fits = all(isinstance(item, str) for item in value) if isinstance(value, list) else True
            if not isinstance(value, kind) or not fits:
                words = "a list of folders" if kind is list else "text"
                raise Usage(
                    f"{key} in {file} is not {words}", hint="docs/reference/configuration.md lists the keys"
                )
            return Setting(key, value, file)
    return Setting(key, default, "default")


def _adapter_options(layers: list[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, tuple[Any, str]]]:
    merged: dict[str, dict[str, tuple[Any, str]]] = {}
    for file, table in reversed(layers):
        adapters = table.get("adapters", {})
        if not isinstance(adapters, dict) or not all(
            isinstance(options, dict) for options in adapters.values()
        ):
            raise Usage(
                f"adapters in {file} is not a table of tables", hint="[adapters.mock] begins the one of mock"
            )
        for name, options in adapters.items():
            merged.setdefault(name, {}).update({key: (value, file) for key, value in options.items()})
    return merged


def _project_file(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    for here in _upwards(folder):
        for name in _PROJECT_FILES:
            file = here / name
            table = _toml(file)
            if name == "pyproject.toml":
                tools = table.get("tool")
                table = tools.get("theory", {}) if isinstance(tools, dict) else {}
                if not isinstance(table, dict):
                    raise Usage(f"tool.theory in {file} is not a table", hint="[tool.theory] begins it")
            if not table:
                continue
            _known(table, file)
            if taken := sorted(_USERS_OWN & table.keys()):
                raise Usage(
                    f"{taken[0]} stands in {file}, but a project may not set it",
                    hint="put it into your own configuration",
                )
            if table.get("adapter") == "process":
                raise Usage(
                    f"{file} makes process the adapter, which runs programs without isolation",
                    hint="choose it yourself: --adapter process, THEORY_ADAPTER or your own configuration",
                )
            adapters = table.get("adapters")
            if isinstance(adapters, dict) and "process" in adapters:
                raise Usage(
                    f"{file} sets options of process, which runs programs without isolation",
                    hint="put [adapters.process] into your own configuration",
                )
            return file, table
    return None, {}


def _users(file: Path) -> Mapping[str, Any]:
    table = _toml(file)
    _known(table, file)
    return table


def _known(table: Mapping[str, Any], file: Path) -> None:
    if unknown := sorted(table.keys() - _KEYS.keys() - {"adapters"}):
        keys = ", ".join((*_KEYS, "adapters"))
        raise Usage(f"{file} has an unknown key {unknown[0][:100]!r}", hint=f"there are {keys}")


def _toml(file: Path) -> Mapping[str, Any]:
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise Usage(f"{file} cannot be read: {error.strerror}", hint="check its permissions") from None
    is_large = len(data) > _MAX_BYTES
    if file.name == "pyproject.toml" and (b"theory" not in data or (is_large and not _OURS.search(data))):
        return {}  # nothing of ours: no parser needed
    if is_large or any(line.count(b".") > _MAX_DOTS for line in data.split(b"\n")):
        raise Usage(
            f"{file} has more than {_MAX_BYTES >> 10} KiB, or {_MAX_DOTS} dots in one line",
            hint="put what theory is told into a theory.toml of its own",
        )
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - most runs have no file
    else:
        import tomli as tomllib  # noqa: PLC0415 - as above

    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, lists in lists in lists
        raise Usage(f"{file} is not TOML: {error}", hint="correct it, or move it away") from None


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise Usage(
            f"there is no working directory: {error.strerror}", hint="cd to a folder that is there"
        ) from None


def _upwards(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents

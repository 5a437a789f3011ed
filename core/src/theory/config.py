"""Settings: what they are, and where each of them came from.

From the strongest to the weakest: what the caller says (command line or arguments), the environment (``THEORY_…``), the
project's file (``theory.toml``, or ``[tool.theory]`` in ``pyproject.toml``, found by walking up), the user's file, defaults.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from theory.errors import Usage
from theory.paths import DEFAULT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from theory.types import JsonObject

# key, environment variable, default, type; those marked "user" are never taken from a project's file, because a clone
# must not choose where secrets come from, where records go, or that its programs run here without a container.
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
_PROJECT_FILES = ("theory.toml", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and its origin."""

    key: str
    value: object
    origin: str  # "default", a variable's name, or a file


@dataclass(frozen=True, slots=True)
class Settings:
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
    project = _project_file(Path(os.getcwd()) if folder is None else folder)
    users = user_file(environ)
    layers: list[tuple[str, Mapping[str, Any]]] = [
        *((file.as_posix(), table) for file, table in (project,) if file),
        *((users.as_posix(), table) for table in (_toml(users),) if table),
    ]
    chosen = [_chosen(key, environ, layers) for key in _KEYS]
    by_key = {setting.key: setting for setting in chosen}
    home = Path(os.path.abspath(os.path.expanduser(str(by_key["home"].value or _default_home(environ)))))
    store = str(by_key["store"].value or (home / "store").as_uri())
    named, found = _registries(by_key["registry"], project[0])
    options = _adapter_options(layers)
    secrets_file = by_key["secrets_file"].value
    shown = {"home": str(home), "store": store, "registry": [str(path) for path in (*named, *found)]}
    origins = [Setting(s.key, shown.get(s.key, s.value), s.origin) for s in chosen]
    origins += [
        Setting(f"adapters.{name}.{key}", value, origin)
        for name, table in options.items()
        for key, (value, origin) in table.items()
    ]
    return Settings(
        home=home,
        store=store,
        adapter=str(by_key["adapter"].value),
        plan=str(by_key["plan"].value),
        write_prefix=str(by_key["write_prefix"].value),
        named_registries=named,
        found_registries=found,
        secrets_file=Path(str(secrets_file)).expanduser() if secrets_file else None,
        adapter_options={
            name: {key: value for key, (value, _) in table.items()} for name, table in options.items()
        },
        origins=tuple(origins),
    )


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
        lines = file.read_text("utf-8").splitlines()
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
        return Setting(key, [part for part in text.split(os.pathsep) if part] if kind is list else text, variable)
    for file, table in layers:
        if key in table:
            value = table[key]
            if not isinstance(value, kind) or (kind is list and not all(isinstance(item, str) for item in value)):
                words = "a list of folders" if kind is list else "text"
                raise Usage(f"{key} in {file} is not {words}", hint="docs/reference/configuration.md lists the keys")
            return Setting(key, value, file)
    return Setting(key, default, "default")


def _registries(setting: Setting, project: Path | None) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The folders that the user named, and those of the project: its file's, and a ``registry`` folder upwards."""
    folders = tuple(Path(str(item)).expanduser() for item in cast("list[str]", setting.value))
    base = None if setting.origin in ("default", "THEORY_REGISTRY") else Path(setting.origin).parent
    folders = tuple(base / path if base else Path(os.path.abspath(path)) for path in folders)
    of_project = project is not None and setting.origin == project.as_posix()
    upwards = next(
        (here / "registry" for here in _upwards(Path(os.getcwd())) if (here / "registry").is_dir()), None
    )
    found = (*(folders if of_project else ()), *((upwards,) if upwards else ()))
    return (() if of_project else folders), found


def _adapter_options(layers: list[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, tuple[Any, str]]]:
    merged: dict[str, dict[str, tuple[Any, str]]] = {}
    for file, table in reversed(layers):
        adapters = table.get("adapters", {})
        if not isinstance(adapters, dict) or not all(isinstance(options, dict) for options in adapters.values()):
            raise Usage(f"adapters in {file} is not a table of tables", hint="[adapters.mock] begins the one of mock")
        for name, options in adapters.items():
            merged.setdefault(name, {}).update({key: (value, file) for key, value in options.items()})
    return merged


def _project_file(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    for here in _upwards(folder):
        for name in _PROJECT_FILES:
            file = here / name
            if not file.is_file():
                continue
            table = _toml(file)
            if name == "pyproject.toml":
                table = table.get("tool", {}).get("theory", {})
                if not table:
                    continue
            if taken := sorted(_USERS_OWN & table.keys()):
                raise Usage(
                    f"{taken[0]} stands in {file}, but a project may not set it", hint="put it into your own configuration"
                )
            if table.get("adapter") == "process":
                raise Usage(
                    f"{file} makes process the adapter, which runs programs without isolation",
                    hint="choose it yourself: --adapter process, THEORY_ADAPTER or your own configuration",
                )
            _known(table, file)
            return file, table
    return None, {}


def _known(table: Mapping[str, Any], file: Path) -> None:
    if unknown := sorted(table.keys() - _KEYS.keys() - {"adapters"}):
        raise Usage(f"{file} has an unknown key {unknown[0]!r}", hint=f"there are {', '.join((*_KEYS, 'adapters'))}")


def _toml(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise Usage(f"{file} cannot be read: {error.strerror}", hint="check its permissions") from None
    if file.name == "pyproject.toml" and b"tool.theory" not in text:
        return {}  # nothing of ours: no parser needed
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - most runs have no file
    else:
        import tomli as tomllib  # noqa: PLC0415 - as above

    try:
        table = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Usage(f"{file} is not TOML: {error}", hint="correct it, or move it away") from None
    if file.name == "config.toml":
        _known(table, file)
    return table


def _upwards(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents

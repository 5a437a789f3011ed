"""Removes what callers left behind: at once, as the watchdog of one that died, and at a later start.

Nothing without our labels is touched, and nothing of a caller that may still live: not before its deadline.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from theory import errors
from theory_adapter_local.engine.client import Lost, Refused, engine_of
from theory_adapter_local.guard.watchdog import DEADLINE, KEEP, OWNER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from theory import JsonObject, Owner
    from theory_adapter_local.engine.client import Engine

LOOK_S = 10.0  # how long a create that the engine had begun when its caller died may still take
AWAY_S = 60.0  # how long an engine may be away: a restart
_PAUSE_S = 0.1  # between two looks, and each time half as much more
_GONE, _BEING_REMOVED = 404, 409
_NO_ENGINE = (Refused, Lost, errors.TheoryError, OSError)
_swept: set[tuple[int, str]] = set()


def remove_watched(owner: str, watched: Collection[str], *, look_s: float = LOOK_S) -> None:
    """Remove what a dead caller had watched.

    Args:
        owner: The caller's label, without which no container is touched.
        watched: Paths of folders, ids of containers, and names of those that the engine may still create.
        look_s: How long to look for what is known by its name and not there.
    """
    left = {name for name in watched if not name.startswith("/")}
    for folder in set(watched) - left:
        remove_folder(folder)
    died, pause, patience = time.monotonic(), _PAUSE_S, AWAY_S
    while left and time.monotonic() < died + patience:
        try:
            engine = engine_of(os.environ)
            stays, there = set[str](), set[str]()
            for container in _containers(engine, f"{OWNER}={owner}"):
                names = {name.lstrip("/") for name in cast("list[str]", container["Names"])}
                found = left & {cast("str", container["Id"]), *names}
                there |= found
                if found and not _remove(engine, container):
                    stays |= found
            left = stays | {name for name in left - there if name.startswith("theory-")}
            patience = look_s
        except _NO_ENGINE:
            patience = AWAY_S
        if left:
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)


def remove_orphans(engine: Engine) -> int:
    """Remove the containers whose owner is surely dead, and those past their deadline; how many.

    Kept containers stay, but are stopped. Those of a living owner, and of one on another machine, stay until
    their deadline.

    Raises:
        Refused, Lost, DockerUnavailable: The engine did not say what there is.
    """
    from theory import Owner  # noqa: PLC0415 - not in the watchdog

    here, removed = Owner.here(), 0
    for container in _containers(engine, OWNER):
        labels = cast("dict[str, str]", container["Labels"])
        try:
            owner, deadline = _owner(labels[OWNER]), int(labels[DEADLINE])
        except (KeyError, ValueError):
            continue  # not ours
        if owner.fate(here) == "dead" or time.time() > deadline:
            removed += _remove(engine, container)
    return removed


def remove_former(engine: Engine, name: str) -> None:
    """Remove the container that a former try of the same execution left.

    Raises:
        Busy: Its owner lives, or it is not ours.
        Refused, Lost, DockerUnavailable: The engine did not do it.
    """
    from theory import Owner  # noqa: PLC0415 - not in the watchdog

    try:
        found = engine.call("GET", f"/containers/{name}/json")
        labels = found["Config"]["Labels"] or {}
        owner = _owner(labels.get(OWNER, ""))
    except Refused as error:
        if error.status == _GONE:
            return
        raise
    except ValueError:
        owner = None
    if owner is None or owner.fate(Owner.here()) == "alive":
        raise errors.Busy(f"there is a container {name} already", hint=f"docker rm --force {name}")
    _remove(engine, {"Id": found["Id"], "Labels": {}, "State": ""})


def remove_left_folders(parents: Iterable[Path]) -> int:
    """Remove the folders of secrets whose owner is surely dead; how many."""
    from theory import Owner  # noqa: PLC0415 - not in the watchdog

    here, removed = Owner.here(), 0
    for parent in parents:
        with suppress(OSError, ValueError):  # it is not there; or something in it is not ours
            for name in os.listdir(parent):
                owner = _owner(name.removeprefix("theory-").rpartition("-")[0].replace(".", ":"))
                if owner.fate(here) == "dead":
                    remove_folder(str(parent / name))
                    removed += 1
    return removed


def sweep(engine: Engine) -> None:
    """Remove what is left over, once a process and engine; no run waits for it, and none fails."""
    key = (os.getpid(), engine.host)
    if key in _swept:
        return
    _swept.add(key)

    def run() -> None:
        from theory_adapter_local.files.secretfiles import folders_for_secrets  # noqa: PLC0415 - not in the watchdog

        remove_left_folders(folders_for_secrets())
        with suppress(*_NO_ENGINE):
            remove_orphans(engine)

    with suppress(RuntimeError):  # no room for a thread
        threading.Thread(target=run, name="theory-orphans", daemon=True).start()


def remove_folder(path: str) -> None:
    """Remove one of our own folders and the files in it, if it is there."""
    if not os.path.basename(path).startswith("theory-"):
        return
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(folder).st_uid != os.geteuid():
                return
            os.fchmod(folder, 0o700)
            for name in os.listdir(folder):
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(path)


def _containers(engine: Engine, label: str) -> list[JsonObject]:
    query = {"all": "1", "filters": json.dumps({"label": [label]})}
    return cast("list[JsonObject]", engine.call("GET", "/containers/json", query=query))


def _remove(engine: Engine, container: JsonObject) -> bool:
    """Kill and remove a container with its volumes; whether it is gone, or dead and to be kept."""
    labels, name = cast("dict[str, str]", container["Labels"]), container["Id"]
    try:
        if labels.get(KEEP) != "true":
            engine.call("DELETE", f"/containers/{name}", query={"force": "1", "v": "1"})
        elif container["State"] == "running":
            engine.call("POST", f"/containers/{name}/kill")
    except Refused as error:
        return error.status == _GONE
    return True


def _owner(text: str) -> Owner:
    """The owner that a label names.

    Raises:
        ValueError: It names none.
    """
    from theory import Owner  # noqa: PLC0415 - not in the watchdog

    boot, namespace, pid, started = text.split(":")
    return Owner(
        boot or None, int(namespace) if namespace else None, int(pid), int(started) if started else None
    )

"""Whether an engine sees our files as they are, found out by trying, once.

The engine may be on another machine, in a virtual one, or we in a container: then a mount of our path shows
something else or nothing. No error of the engine tells, since some make an empty folder in its place.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, cast

from theory import cid_of
from theory_adapter_local.files.binds import mount

if TYPE_CHECKING:
    from pathlib import Path

    from theory import Json
    from theory_adapter_local.engine.client import Engine

# Where the engine puts its own idea of users or of labels between a container and our files.
# name=userns: ids inside are others outside. name=selinux: no container may read what is not labelled for it,
# and labels would be changed on the user's own files.
_IN_BETWEEN = frozenset({"name=userns", "name=selinux"})
_LIFE_S = 60.0  # of a probing container, should we die
_known: dict[str, tuple[str, Sight]] = {}


class Sight(NamedTuple):
    """What an engine makes of a folder of ours."""

    binds: bool  # a mount shows it to a container, with the owners that we see
    rootless: bool  # the engine's root is its caller


NOTHING = Sight(binds=False, rootless=False)


def sight_of(engine: Engine, image: str, folder: Path, place: str, cache: Path) -> Sight:
    """Find out, or remember.

    Args:
        engine: Asked only if the answer is not known: a normal run costs no call.
        image: One that is here, for the container that tries it; it is never started.
        folder: In which a file may be made for a moment.
        place: What the answer is for: this folder and others like it.
        cache: A folder that lasts.

    Raises:
        Refused, Lost, DockerUnavailable: The engine does not do as it should.
    """
    if not engine.is_local:
        return NOTHING
    file, engine_now = _answer_file(engine, place, cache), _mark(engine)
    if (known := _known.get(str(file)) or _read(file)) and known[0] == engine_now:
        _known[str(file)] = known
        return known[1]
    sight = _tried(engine, image, folder)
    _known[str(file)] = (engine_now, sight)
    part = f"{file}.{os.getpid()}.{os.urandom(4).hex()}"
    with suppress(OSError):  # then the next run tries again
        os.makedirs(file.parent, mode=0o700, exist_ok=True)
        with open(part, "x", encoding="ascii") as stream:
            json.dump([engine_now, *sight], stream)
        os.replace(part, file)
    return sight


def forget(engine: Engine, place: str, cache: Path) -> None:
    """Have the next run try again."""
    file = _answer_file(engine, place, cache)
    _known.pop(str(file), None)
    file.unlink(missing_ok=True)


def _answer_file(engine: Engine, place: str, cache: Path) -> Path:
    # A container sees other files under the same path, so the mount namespace belongs to the question.
    space = os.stat("/proc/self/ns/mnt").st_ino if os.path.exists("/proc/self/ns/mnt") else ""
    question = f"{engine.host}\n{place}\n{space}"
    return cache / "sight" / cid_of(question.encode("utf-8", "surrogateescape"))[3:35]


def _mark(engine: Engine) -> str:
    """What changes when another engine, or the same with other settings, answers at this socket.

    Asking it for its id would cost 7 ms of each run. The socket is made anew by each start, except where
    systemd keeps it; then the file with its process id, beside it, is.
    """
    socket = engine.host.partition("://")[2]
    marks = []
    for path in (socket, socket.removesuffix(".sock") + ".pid"):
        with suppress(OSError):
            found = os.stat(path)
            marks.append(f"{found.st_dev}.{found.st_ino}.{found.st_ctime_ns}")
    return " ".join(marks)


def _read(file: Path) -> tuple[str, Sight] | None:
    try:
        mark, binds, rootless = json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return (mark, Sight(binds is True, rootless is True)) if isinstance(mark, str) else None


def _tried(engine: Engine, image: str, folder: Path) -> Sight:
    options = cast("list[str]", engine.info().get("SecurityOptions") or [])
    named = {option.partition(",")[0] for option in options}
    rootless = "name=rootless" in named
    if named & _IN_BETWEEN or not (rootless or _ids_are_the_machines()):
        return Sight(binds=False, rootless=rootless)
    return Sight(_is_seen(engine, image, folder), rootless)


def _ids_are_the_machines() -> bool:
    """Whether our user ids are those that the engine means: not inside a user namespace."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as stream:
            return stream.read().split() == ["0", "0", "4294967295"]
    except FileNotFoundError:  # no Linux, so its engine is in a virtual machine, which maps what it shares
        return True


def _is_seen(engine: Engine, image: str, folder: Path) -> bool:
    """Mount a file with a name that nobody can know, and ask the engine what it sees in the container."""
    from theory_adapter_local.engine.client import Lost, Refused  # noqa: PLC0415 - only where it is not known yet
    from theory_adapter_local.guard.watchdog import guard_of, own_labels  # noqa: PLC0415 - the same

    nonce = os.urandom(16).hex()
    name = f"theory-probe-{nonce}"
    probed = folder / name
    os.mkdir(probed, 0o700)
    guard = guard_of(engine)
    guard.watch(name)
    try:
        (probed / nonce).write_bytes(b"theory")
        body: dict[str, Json] = {
            "Image": image,
            "Cmd": ["true"],
            "Labels": cast("dict[str, Json]", own_labels(_LIFE_S)),
            "NetworkDisabled": True,
            "HostConfig": {"NetworkMode": "none", "Mounts": [mount(probed, "/probe", read_only=True)]},
        }
        try:
            engine.call("POST", "/containers/create", query={"name": name}, body=body)
        except Refused as refused:
            if name in refused.message:
                return False
            raise
        return _shows(engine, name, probed / nonce)
    finally:
        with suppress(Refused, Lost):  # the next start removes it by its labels
            engine.call("DELETE", f"/containers/{name}", query={"force": "1", "v": "1"})
        guard.forget(name)
        (probed / nonce).unlink(missing_ok=True)
        os.rmdir(probed)


def _shows(engine: Engine, container: str, file: Path) -> bool:
    import base64  # noqa: PLC0415 - only where it is not known yet

    from theory_adapter_local.engine.client import Refused  # noqa: PLC0415 - the same

    path = f"/containers/{container}/archive"
    try:
        with engine.stream("HEAD", path, query={"path": f"/probe/{file.name}"}, timeout_s=30.0) as answer:
            told = answer.headers.get("x-docker-container-path-stat", "")
    except Refused as refused:
        if refused.status == 404:  # noqa: PLR2004 - it sees a folder of this name, and not ours
            return False
        raise
    try:
        seen = json.loads(base64.b64decode(told))
        return bool(seen["name"] == file.name and seen["size"] == file.stat().st_size)
    except (ValueError, KeyError, TypeError):
        return False

"""What the emulator understands of Dockerfiles: what they begin with, and what the client put in itself."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What the client writes itself, and what cannot or need not be done without a network. guess: nothing else.
OF_THE_CLIENT = re.compile(
    r"""COPY\ /python/\.\ /usr/local$  # add_python: the base has to have one here
    | RUN\ apt-get\ update$
    | RUN\ apt-get\ install\ -y\ gcc\ gfortran\ build-essential$  # debian_slim
    | RUN\ (python\ -m\ )?pip\ install\ --upgrade\ .*\bwheel\b
    | RUN\ (python\ -m\ )?(uv\ )?pip\ install\ .*/modal_requirements\.txt
    | COPY\ /modal_requirements\.txt\ | RUN\ rm\ /modal_requirements\.txt$
    | RUN\ echo\ 'debconf\ debconf/frontend""",
    re.VERBOSE,
)
_FROM = re.compile(r"^\s*FROM\s+(?:--platform=\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?\s*$", re.IGNORECASE)
_ARG = re.compile(r"^\s*ARG\s+(\w+)(?:=(\S*))?\s*$", re.IGNORECASE)
_OFFICIAL = re.compile(r"^python:(\d+\.\d+)(?:\.\d+)?-slim-\w+$")


@dataclass
class Said:
    """What instructions say of the containers of an image."""

    environ: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    workdir: str = ""


def without_the_clients(commands: Sequence[str]) -> tuple[list[str], list[str]]:
    """The instructions that are followed, and those that the client added and that are left out."""
    followed = [command for command in commands if not OF_THE_CLIENT.match(command)]
    return followed, [command for command in commands if OF_THE_CLIENT.match(command)]


def renamed(commands: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The same with other names for some images that they begin with."""
    lines = []
    for line in "\n".join(commands).splitlines():
        found = _FROM.match(line)
        if found and found[1] in names:
            stage = f" AS {found[2]}" if found[2] else ""
            lines.append(f"FROM {names[found[1]]}{stage}")
        else:
            lines.append(line)
    return lines


def bases(lines: Sequence[str], arguments: Mapping[str, str]) -> list[str]:
    """The images that are begun with, in their order; neither stages nor `scratch`."""
    values: dict[str, str] = {}
    found: list[str] = []
    stages: set[str] = {"scratch"}
    for line in lines:
        if (argument := _ARG.match(line)) and not found:
            values[argument[1]] = arguments.get(argument[1], (argument[2] or "").strip("\"'"))
        if stage := _FROM.match(line):
            name = re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], match[0]), stage[1])
            if name.lower() not in stages:
                found.append(name)
            stages.add((stage[2] or "").lower())
    return found


def official(name: str) -> str:
    """The shorter name of Docker's own Python image that means the same: this machine may have that one."""
    found = _OFFICIAL.match(name)
    return f"python:{found[1]}-slim" if found else name


def registry(name: str) -> str:
    """The host that an image's name names; Docker's own where it names none."""
    first = name.partition("/")[0]
    return first if "/" in name and (set(first) & set(".:") or first == "localhost") else "docker.io"


def is_here(host: str) -> bool:
    """Whether a registry is on loopback."""
    return host.partition(":")[0] in {"localhost", "127.0.0.1"} or host.startswith("127.")


def with_arguments(lines: Sequence[str], names: Sequence[str]) -> list[str]:
    """The same, with arguments of the build that hold in every stage."""
    told = []
    for line in lines:
        told.append(line)
        if _FROM.match(line):
            told += [f"ARG {name}" for name in names]
    return told


def said(lines: Sequence[str], before: Said) -> Said:
    """What instructions that were not carried out say of an image's containers, after those of its base."""
    now = Said(dict(before.environ), list(before.entrypoint), list(before.command), before.workdir)
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word.upper() == "ENV":
            first, _, value = rest.strip().partition(" ")
            if "=" in first:
                pairs = (part.partition("=") for part in shlex.split(rest) if "=" in part)
                now.environ |= {name: text for name, _, text in pairs}
            else:
                now.environ[first] = value.strip()
        elif word.upper() == "CMD":
            now.command = _words(rest)
        elif word.upper() == "ENTRYPOINT":
            now.entrypoint, now.command = _words(rest), []
        elif word.upper() == "WORKDIR":
            now.workdir = str(PurePosixPath(now.workdir or "/", rest.strip()))
    return now


def _words(rest: str) -> list[str]:
    try:
        words = json.loads(rest)
    except ValueError:
        return ["/bin/sh", "-c", rest]
    return [str(word) for word in words]

"""Stands in for ``docker buildx`` where it is not installed: the engine's own BuildKit, told as by buildx.

The engine's API takes a build for BuildKit without a session, as long as it needs no login, and tells how far
it is in protocol buffers. Source: StatusResponse in https://github.com/moby/buildkit (api/services/control).
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import socket
import sys
import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))


def main() -> int:
    if sys.argv[1:] == ["buildx", "version"]:
        sys.stdout.write("github.com/docker/buildx v0.0.0 none\n")
        return 0
    assert sys.argv[1:3] == ["buildx", "build"], sys.argv
    parser = argparse.ArgumentParser()
    parser.add_argument("--progress", choices=["plain"], required=True)
    parser.add_argument("--load", action="store_true", required=True)
    for name in ("--tag", "--label", "--file"):
        parser.add_argument(name, required=True)
    parser.add_argument("--platform", default="")
    parser.add_argument("--pull", action="store_true")
    parser.add_argument("context", choices=["-"])
    told = parser.parse_args(sys.argv[3:])
    label, _, value = told.label.partition("=")
    query = {
        "version": "2",
        "t": told.tag,
        "dockerfile": told.file,
        "labels": json.dumps({label: value}),
        "platform": told.platform,
    }
    connection = _Connection("docker")
    connection.request(
        "POST",
        f"/build?{urllib.parse.urlencode(query)}",
        sys.stdin.buffer.read(),
        {"Content-Type": "application/x-tar"},
    )
    answer = connection.getresponse()
    printer = _Printer()
    for line in answer:
        message = json.loads(line)
        if message.get("id") == "moby.buildkit.trace":
            printer.take(base64.b64decode(message["aux"]))
        elif "error" in message or "message" in message:
            _say(f"ERROR: failed to solve: {message.get('error') or message['message']}")
            return 1
    return 0


class _Printer:
    """As ``--progress=plain`` prints it."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._failed: set[bytes] = set()

    def take(self, status: bytes) -> None:
        for field, part in _fields(status):
            members = dict(_fields(part))
            if field == 1:
                if members[1] not in self._numbers:
                    self._numbers[members[1]] = len(self._numbers) + 1
                    _say(f"#{self._numbers[members[1]]} {members[3].decode()}")
                if 7 in members and members[1] not in self._failed:
                    self._failed.add(members[1])
                    _say(f"#{self._numbers[members[1]]} ERROR: {members[7].decode()}")
            elif field == 3:
                for line in members[4].decode().splitlines():
                    _say(f"#{self._numbers[members[1]]} 0.123 {line}")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        size, at = _varint(data, at)
        if key & 7 == 2:
            yield key >> 3, data[at : at + size]
            at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


sys.exit(main())

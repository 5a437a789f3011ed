# ruff: noqa: E501 - what is fuzzed is easiest to read on a line
"""What the adapters read: an engine's answers, archives and messages, a lock, an outputs schema."""

from __future__ import annotations

import io
import itertools
import shutil
import socket
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from proofs.fuzz_core import MIB, processor, published, text_of
from proofs.fuzz_table import Parser
from theory.errors import TheoryError
from theory.formats.canon import BadJson, parse_json
from theory_adapter_local.engine.connection import Connection, Lost
from theory_adapter_local.files.tarball import Broken
from theory_adapter_local.images.progress import Failed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from proofs.fuzz_table import Parse


class _Told(socket.socket):
    """A socket on which all of this comes, and then the end; nothing of the kernel's."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(socket.AF_UNIX)
        self._stream, self._step = io.BytesIO(data), step

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]  # a view
        del nbytes, flags
        return self._stream.readinto(buffer[: self._step])


def _connection(data: bytes) -> Connection:
    return Connection(_Told(data, 1 + (data[-1] * 13 if data else 0) + len(data) // 1000))


def _http1(_: Path) -> Parse:
    from theory_adapter_local.engine.http1 import Answer

    def parse(data: bytes) -> object:
        connection = _connection(data)
        try:
            with Answer(connection, "GET", None) as answer:
                left = 64 * MIB
                while left > 0 and (portion := answer.read(MIB)):
                    left -= len(portion)
                return answer.status
        finally:
            connection.close()

    return parse


def _frames(_: Path) -> Parse:
    from theory_adapter_local.engine.frames import Attached
    from theory_adapter_local.engine.http1 import Answer

    def parse(data: bytes) -> object:
        connection = _connection(b"HTTP/1.1 101 UPGRADED\r\n\r\n" + data)
        try:
            with Attached(Answer(connection, "POST", None)) as attached:
                return sum(len(portion) for _, portion in attached.frames())
        finally:
            connection.close()

    return parse


def _archive(folder: Path) -> Parse:
    from theory_adapter_local.files.archives import unpack
    from theory_adapter_local.files.tarball import Unpacked

    out = folder / "out"

    def parse(data: bytes) -> None:
        list(Unpacked(io.BytesIO(data)))  # type: ignore[arg-type]  # as raw as it has to be
        out.mkdir()
        try:
            unpack(io.BytesIO(data), out, 8)  # type: ignore[arg-type]  # the same
        finally:
            shutil.rmtree(out)

    return parse


class _Engine:
    """Answers with what it is told."""

    data = b""

    def stream(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(self.data)

    def write(self, *_: object) -> None:
        """Hear the log of a build."""


def _progress(_: Path) -> Parse:
    """The messages of a pull and of a build, each a line."""
    from theory_adapter_local.images.build import Log
    from theory_adapter_local.images.progress import _Task
    from theory_adapter_local.images.pull import Progress

    engine, clock = _Engine(), itertools.count(0, 100)

    def parse(data: bytes) -> object:
        engine.data = data
        log = Log(engine)  # type: ignore[arg-type]  # a channel, as far as a log asks
        pull = Progress("x", engine, lambda: next(clock))  # type: ignore[arg-type]  # the same

        def hear(message: Mapping[str, Any]) -> None:
            log.hear(message)
            pull.hear(message)

        task = _Task(engine, "/build", {}, None, None, hear)  # type: ignore[arg-type]  # the same
        task.run()
        if task.error is not None:
            raise task.error
        return log.tail()

    return parse


def _endpoint(folder: Path) -> Parse:
    from theory_adapter_local.engine.find import endpoint_of, endpoints_of

    (folder / "docker").mkdir(exist_ok=True)
    environ = {"DOCKER_CONFIG": str(folder / "docker"), "HOME": str(folder)}

    def parse(data: bytes) -> object:
        (folder / "docker" / "config.json").write_bytes(data)
        with suppress(TheoryError):
            endpoints_of(environ)
        return endpoint_of(text_of(data), "DOCKER_HOST").authority

    return parse


def _labels(_: Path) -> Parse:
    from theory_adapter_local.guard.orphans import _owner

    def parse(data: bytes) -> object:
        return _owner(text_of(data))

    return parse


def _lock(_: Path) -> Parse:
    from theory_adapter_process.environment import _fault_in

    def parse(data: bytes) -> object:
        return _fault_in.__wrapped__(data)

    return parse


def _mock(_: Path) -> Parse:
    from theory_adapter_mock.answer import answer_to

    def parse(data: bytes) -> object:
        given = parse_json(data)
        if not isinstance(given, dict):
            return None
        adapter = given.get("mock")
        outputs = given.get("outputs")
        if not isinstance(outputs, dict):
            return None
        entry = processor({}, outputs=outputs, adapter={"mock": adapter} if isinstance(adapter, dict) else {})
        answer = answer_to(entry).counted([given.get("message")])
        return answer.files(), answer.stream

    return parse


def _tar() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT, bufsize=512) as archive:
        for name, kind in (
            ("out", tarfile.DIRTYPE),
            ("out/" + "é" * 60, tarfile.REGTYPE),
            ("out/l", tarfile.LNKTYPE),
            ("out/s", tarfile.SYMTYPE),
            ("out/p", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o700
            info.linkname = (
                "out/" + "é" * 60 if kind == tarfile.LNKTYPE else "x" * 120 if kind == tarfile.SYMTYPE else ""
            )
            info.size = 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"hello"))
    return written.getvalue()


_HTTP = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    b"HTTP/1.1 404 Not Found\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
)
_FRAMES = (b"\1\0\0\0\0\0\0\3abc\2\0\0\0\0\0\0\1x", b"\1\0\0\0\xff\xff\xff\xffabc", b"\0\0\0\0\0\0\0\0")
_PROGRESS = (
    b'{"stream":"Step 1/3 : FROM x\\n"}\r\n{"stream":" ---> abc\\n"}\n{"status":"Pulling","progressDetail":{"current":1,"total":2},"id":"a"}\n{"aux":{"ID":"sha256:0"}}\n',
    b'{"error":"no","errorDetail":{"message":"no","code":1}}',
    b'{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"a"}\n{"status":"Pull complete","id":"a"}\n',
    b'{"stream":"\\u001b[91mred\\u001b[0m"}\n[]\n',
)
_MOCK = (
    b'{"outputs":{"type":"object","required":["a.json","b.txt"],"properties":{"a.json":{"type":"object","properties":{"n":{"type":"integer","minimum":5,"multipleOf":3}},"required":["n"]},"b.txt":{"properties":{"size_bytes":{"minimum":3}}}}}}',
    b'{"outputs":{"$ref":"#/$defs/a","$defs":{"a":{"properties":{"x.json":{"type":"array","items":{"enum":[1,"a"]},"minItems":3,"uniqueItems":true}}}}}}',
    b'{"outputs":{},"mock":{"outputs":{"a/b.txt":"x  y","meta.json":{}}},"message":{"content":[{"text":"a b"}]}}',
)
_LOCKS = (
    b"a==1 --hash=sha256:00 \\\n    --hash=sha256:11\nb[c,d] @ https://x/y.whl ; python_version > '3'\n# no\n-i https://x\n",
    b"-r other.txt\n",
    b"a" + b" " * 40 + b"\\\n",
    b"a@b://" + b";" * 40 + b"$",
    b"a==1;" + b".whl[" * 40,
)

PARSERS: dict[str, Parser] = {
    "http1": Parser(_http1, (Lost,), _HTTP, 1 << 17),
    "frames": Parser(_frames, (Lost,), _FRAMES, 1 << 17),
    "archive": Parser(_archive, (TheoryError, Broken), (_tar(),), MIB),
    "progress": Parser(_progress, (Lost, Failed), _PROGRESS, MIB),
    "endpoint": Parser(_endpoint, (TheoryError,), (b"unix:///var/run/docker.sock", b"tcp://[::1%lo]:2375", b"ssh://u@h:22/x", b'{"currentContext":"a"}', b"http+unix://x", b"https://h:99999/"), 1 << 17),
    "label": Parser(_labels, (ValueError,), (b"b0-0:1:2:3", b":::"), 1 << 12),
    "lock": Parser(_lock, (), (*_LOCKS, *(text[:4000] for text in published("requirements.lock"))), 4 * MIB),
    "mock": Parser(_mock, (BadJson, TheoryError), _MOCK, MIB),
}  # fmt: skip

"""Nothing that an entry, an input or a Dockerfile says makes theory fetch an address or read another file.

A server on the loopback counts who comes by; the kernel (inotify(7)) tells who opens a file. That both notice
is what the last test is for.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import threading
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from core.bed import house, write_entry
from theory import Failure, Ref
from theory.entries.imageid import pinned_id
from theory.entries.registry import FolderRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from theory import Processor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

_OPEN, _ACCESS = 0x20, 0x1  # IN_OPEN, IN_ACCESS: linux/inotify.h
_EVENT = struct.Struct("iIII")


class Canaries:
    """An address and a file that nobody has a reason to touch."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "canary.json"
        self.file.write_text("true")
        asked = self.asked = list[str]()

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"true")

            def log_message(self, *_: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Answers)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._watch, os.fsencode(self.file), _OPEN | _ACCESS) >= 0

    @property
    def urls(self) -> tuple[str, ...]:
        return f"http://{self.address}/canary.json", self.file.as_uri(), str(self.file)

    def touched(self) -> list[str]:
        """What was asked of the server, and how often the file was opened or read, since the last time."""
        found, self.asked[:] = list(self.asked), []
        with suppress(BlockingIOError):
            events = os.read(self._watch, 65536)
            found += ["file"] * (len(events) // _EVENT.size)
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        os.close(self._watch)


@pytest.fixture
def canaries(tmp_path: Path) -> Iterator[Canaries]:
    made = Canaries(tmp_path)
    yield made
    made.close()


SCHEMAS: dict[str, Any] = {
    "$ref": {"$ref": "URL"},
    "$ref with a fragment": {"$ref": "URL#/$defs/a"},
    "$dynamicRef": {"properties": {"a": {"$dynamicRef": "URL#a"}}},
    "$recursiveRef": {"$recursiveRef": "URL"},
    "$schema": {"$schema": "URL", "type": "object"},
    "$schema below": {"$defs": {"a": {"$id": "urn:a", "$schema": "URL"}}, "$ref": "urn:a"},
    "$id": {"$id": "URL", "$ref": "other.json"},
    "$id below": {"properties": {"a": {"$id": "URL", "items": {"$ref": "canary.json#/a"}}}},
    "$vocabulary": {"$vocabulary": {"URL": True}, "type": "object"},
    "deep": {"anyOf": [{"not": {"if": True, "then": {"prefixItems": [{"$ref": "URL"}]}}}]},
    "in a default": {"properties": {"a": {"default": {"$ref": "URL"}}}},
    "in a property of that name": {"properties": {"$ref": {"$ref": "URL"}}},
    "contentSchema": {"contentMediaType": "application/json", "contentSchema": {"$ref": "URL"}},
    "format": {"format": "URL", "pattern": "URL"},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("member", ["inputs", "outputs"])
def test_no_schema_of_an_entry_leads_out_of_it(
    schema: Any, member: str, tmp_path: Path, canaries: Canaries
) -> None:
    for number, url in enumerate(canaries.urls, 1):
        document = json.loads(json.dumps(schema).replace("URL", url))
        write_entry(tmp_path / "entries", f"test/thing@{number}", **{member: document})
        with house(tmp_path) as runner:
            runner.run(f"test/thing@{number}", {"a": {"$ref": url}, "$schema": url})
    list(FolderRegistry(tmp_path / "entries").check())
    assert canaries.touched() == []


YAML = {
    "a tag": "ref: !!python/object/apply:open ['FILE']\n",
    "an include": "ref: !include FILE\nimage: !include URL\n",
    "a name": "ref: !!python/name:os.system\nx: !!python/object/new:urllib.request.urlopen ['URL']\n",
    "a tag of its own": "%TAG ! URL#\n---\nref: !a b\n",
    "a merge": "<<: FILE\n",
    "a Dockerfile elsewhere": "ref: test/thing@1\ndescription: x\nimage: {dockerfile: FILE}\n",
    "a Dockerfile of an address": "ref: test/thing@1\ndescription: x\nimage: {dockerfile: 'URL'}\n",
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_no_yaml_reads_anything_else(text: str, tmp_path: Path, canaries: Canaries) -> None:
    folder = write_entry(tmp_path / "entries")
    url, _, file = canaries.urls
    (folder / "processor.yaml").write_text(text.replace("URL", url).replace("FILE", file))
    assert list(FolderRegistry(tmp_path / "entries").check())
    with house(tmp_path) as runner:
        assert isinstance(runner.run("test/thing@1"), Failure)
    assert canaries.touched() == []


class Engine:
    """An engine that has no image; it is asked for nothing but that."""

    is_local, host = True, "unix:///nowhere"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def call(self, method: str, path: str) -> object:
        from theory_adapter_local.engine.client import Refused

        self.asked.append((method, path))
        raise Refused(404, "no such image")

    def version(self) -> dict[str, str]:
        return {"Os": "linux", "Arch": "amd64"}


DOCKERFILES = {
    "ADD": "FROM scratch\nADD URL FILE /x/\nADD https://HOST/x.git#main /y\n",
    "FROM": "# syntax=HOST/x:1\nFROM HOST/a@sha256:" + "0" * 64 + "\nCOPY --from=HOST/c /a /b\n",
    "RUN": "FROM scratch\nRUN --mount=type=bind,from=HOST/d,source=FILE curl URL\nONBUILD ADD URL /\n",
}


@pytest.mark.parametrize("text", DOCKERFILES.values(), ids=DOCKERFILES)
def test_an_image_is_identified_without_fetching(text: str, tmp_path: Path, canaries: Canaries) -> None:
    from theory_adapter_local.images.find import identify_image
    from theory_adapter_local.options import Options

    folder = write_entry(tmp_path / "entries")
    url, _, file = canaries.urls
    text = text.replace("URL", url).replace("FILE", file).replace("HOST", canaries.address)
    (folder / "Dockerfile").write_text(text)
    processor: Processor | None = FolderRegistry(tmp_path / "entries").resolve_ref(Ref.parse("test/thing@1"))
    assert processor is not None
    pinned_id(processor, "linux/amd64")
    engine = Engine()
    identify_image(engine, processor, Options())  # type: ignore[arg-type]  # an engine, as far as it is asked
    assert {method for method, _ in engine.asked} == {"GET"}
    assert canaries.touched() == []


@pytest.mark.parametrize("spelling", ["{}", "HTTP{}", "x+{}", "//{}", "file:{}", "file://localhost{}", " {}"])
def test_an_attachment_that_is_a_uri_is_not_read_where_nobody_fetches_it(
    spelling: str, tmp_path: Path, canaries: Canaries
) -> None:
    with house(tmp_path) as runner:
        for url in canaries.urls[:2]:
            name = spelling.format(url.partition(":")[2] if spelling == "HTTP{}" else url).replace(
                "HTTP//", "HTTP://"
            )
            envelope = runner.run("test/thing@1", {"a": {"$attach": "x"}}, attachments={"x": name})
            assert isinstance(envelope, Failure)
            assert envelope.code == "ERR_ATTACHMENT_NOT_FOUND"
    assert canaries.touched() == []


def test_an_artifact_is_no_file_and_no_address(tmp_path: Path, canaries: Canaries) -> None:
    with house(tmp_path) as runner:
        for url in canaries.urls:
            envelope = runner.run("test/thing@1", {"a": {"$artifact": url}})
            assert isinstance(envelope, Failure)
            assert envelope.code == "ERR_INPUTS"
    assert canaries.touched() == []


def test_a_canary_that_is_touched_says_so(canaries: Canaries) -> None:
    url, uri, file = canaries.urls
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own
        answer.read()
    assert canaries.touched() == ["/canary.json"]
    for name in (uri, file):
        with urllib.request.urlopen(name) if name is uri else open(file) as stream:  # noqa: S310 - the same
            stream.read()
        assert "file" in canaries.touched()
    assert canaries.touched() == []

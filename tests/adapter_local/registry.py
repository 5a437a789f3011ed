"""A registry on loopback, read-only, that can refuse in every way that registries do.

Docker takes plain HTTP from 127.0.0.0/8. Source: https://distribution.github.io/distribution/spec/api
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS", 500: "UNKNOWN"}
_WORDS = {
    401: "authentication required",
    404: "manifest unknown",
    429: "You have reached your pull rate limit",
}


class Registry:
    """Serves what ``add`` was given, until ``close``."""

    def __init__(self) -> None:
        self.login: tuple[str, str] | None = None  # who may see anything
        self.fault = 0  # the status that every manifest is refused with
        self.asked: list[str] = []  # the manifests that were asked for
        self.stalled = threading.Event()  # somebody waits for a manifest …
        self.hold: threading.Event | None = None  # … until this is set
        self._content: dict[str, tuple[str, bytes]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def add(
        self,
        name: str,
        tag: str,
        layers: Sequence[Mapping[str, bytes]],
        *,
        architecture: str = "amd64",
        environment: Sequence[str] = (),
    ) -> str:
        """Serve an image with these files; its digest."""
        tars = [_tar(files) for files in layers]
        blobs = [gzip.compress(data, mtime=0) for data in tars]
        config = {
            "author": os.urandom(8).hex(),  # no other test has this image
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": list(environment), "Cmd": ["/none"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(data) for data in tars]},
        }
        told = json.dumps(config).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _described(_CONFIG, told),
                "layers": [_described(_LAYER, blob) for blob in blobs],
            }
        ).encode()
        for blob in (told, *blobs):
            self._content[f"/v2/{name}/blobs/{_digest(blob)}"] = ("application/octet-stream", blob)
        for reference in (tag, _digest(manifest)):
            self._content[f"/v2/{name}/manifests/{reference}"] = (_MANIFEST, manifest)
        return _digest(manifest)

    def add_index(self, name: str, tag: str, digests: Mapping[str, str]) -> str:
        """Serve one name for several images, by architecture; its digest."""
        manifests = []
        for architecture, digest in digests.items():
            _, data = self._content[f"/v2/{name}/manifests/{digest}"]
            platform = {"architecture": architecture, "os": "linux"}
            manifests.append({**_described(_MANIFEST, data), "platform": platform})
        index = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}).encode()
        for reference in (tag, _digest(index)):
            self._content[f"/v2/{name}/manifests/{reference}"] = (_INDEX, index)
        return _digest(index)

    def answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        """The status, the type and the body."""
        known = base64.b64encode(":".join(self.login).encode()).decode() if self.login else ""
        if known and authorization != f"Basic {known}":
            return 401, "application/json", _fault(401)
        if "/manifests/" in path:
            self.asked.append(path)
            if self.hold is not None:
                self.stalled.set()
                self.hold.wait(60)
            if self.fault:
                return self.fault, "application/json", _fault(self.fault)
        if path == "/v2/":
            return 200, "application/json", b"{}"
        kind, body = self._content.get(path, ("application/json", b""))
        return (200, kind, body) if body else (404, kind, _fault(404))

    def close(self) -> None:
        """Serve no more."""
        if self.hold is not None:
            self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, kind, body = registry.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            if kind in {_MANIFEST, _INDEX}:
                self.send_header("Docker-Content-Digest", _digest(body))
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="theory"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name that the server looks for

        def log_message(self, *_: Any) -> None:
            """Docker begins with TLS, which is no request here."""

    return Handler


def _tar(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _described(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _fault(status: int) -> bytes:
    words = _WORDS.get(status, "requested access to the resource is denied")
    return json.dumps({"errors": [{"code": _CODES[status], "message": words}]}).encode()

"""Starts an emulator as a process of its own and asks it for things: for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_ID, TOKEN_SECRET = "ak-emulator", "as-emulator"
END = 20.0  # seconds that it has to clean up


class Handle:
    """A running emulator."""

    def __init__(self, server_url: str, control_url: str, pid: int = 0) -> None:
        self.pid = pid  # 0: not known
        self.server_url = server_url
        self.control_url = control_url

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs that talks to it through the `modal` client."""
        return {
            "MODAL_SERVER_URL": self.server_url,
            "MODAL_TOKEN_ID": TOKEN_ID,
            "MODAL_TOKEN_SECRET": TOKEN_SECRET,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_ENABLED": "True",
            "MODAL_CONFIG_PATH": os.devnull,  # not the user's own
        }

    def requests(self, *methods: str) -> list[dict[str, Any]]:
        """The request log, or the lines of some methods."""
        query = f"?method={','.join(methods)}" if methods else ""
        return self._get(f"/requests{query}")  # type: ignore[no-any-return]

    def unknown(self) -> list[str]:
        """What the client asked for and nobody answered."""
        return self._get("/unknown")  # type: ignore[no-any-return]

    def shown(self, what: str) -> list[dict[str, Any]]:
        """What lives: sandboxes, functions, containers, calls, apps, secrets, …."""
        return self._get(f"/{what}")  # type: ignore[no-any-return]

    def fault(self, method: str, kind: str = "status", **more: object) -> None:
        """Ask for trouble with the next call of a method; faults.Fault says what there is."""
        self._post("/faults", {"method": method, "kind": kind, **more})

    def cut(self, seconds: float, *doors: str, how: str = "refuse") -> None:
        """Break all connections and answer nobody for a while, at all doors or some of them."""
        self._post("/cut", {"seconds": seconds, "how": how, **({"doors": doors} if doors else {})})

    def kill(self, how: str = "crash", **target: str) -> None:
        """Kill container=… or sandbox=…: how is crash, preempt or oom."""
        self._post("/kill", {"how": how, **target})

    def expire(self, call: str) -> None:
        """Let the results of a call be gone, as after a week."""
        self._post("/expire", {"call": call})

    def redeliver(self, call: str) -> None:
        """Give what runs of a call out a second time, as when a worker was not heard of for long."""
        self._post("/redeliver", {"call": call})

    def settings(self, **fields: float) -> None:
        """Change world.Settings until the next reset."""
        self._post("/settings", fields)

    def calm(self) -> None:
        """No more faults, and an end of all cuts."""
        self._post("/calm", {})

    def reset(self) -> None:
        """Forget all that was made, asked and broken; end all that runs."""
        self._post("/reset", {})

    def _get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(self.control_url + path))  # noqa: S310 - loopback

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        data = json.dumps(body).encode()
        return self._ask(urllib.request.Request(self.control_url + path, data, headers))  # noqa: S310 - loopback

    def _ask(self, request: urllib.request.Request) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from None


@contextlib.contextmanager
def running(*options: str) -> Iterator[Handle]:
    """Start an emulator and end it; it cleans up by itself if this process dies.

    Example:
        >>> with running("--runner", "process") as emulator:  # doctest: +SKIP
        ...     os.environ.update(emulator.environ)
    """
    folder = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH", ""))))
    with subprocess.Popen(
        [sys.executable, "-m", "modal_emulator", *options],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,  # its end is the end of the emulator
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the emulator did not start: exit code {process.wait()}")
        urls = json.loads(line)
        try:
            yield Handle(urls["server_url"], urls["control_url"], process.pid)
        finally:
            process.terminate()
            try:
                status = process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if status:
            raise RuntimeError(f"the emulator ended with {status}")

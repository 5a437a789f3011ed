"""BuildKit through Docker's own command line, which alone speaks to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import deque
from contextlib import suppress
from functools import cache
from typing import IO, TYPE_CHECKING, cast

from theory_adapter_local.cancelled import Cancelled
from theory_adapter_local.images.context import archive_of
from theory_adapter_local.images.here import CONTEXT_LABEL
from theory_adapter_local.images.progress import Failed
from theory_adapter_local.images.source import asked_platform

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from theory import Channel, Processor
    from theory_adapter_local.engine.client import Engine
    from theory_adapter_local.images.source import Source
    from theory_adapter_local.options import Options

_POLL_S = 0.05
_GRACE_S = 5.0  # to end the build in the engine as well; half of what a cancelled adapter has
_VERSION_S = 10.0
_TAIL_LINES = 12
# A line of --progress=plain: the number of a step, then its name, its end, or its time and what it wrote.
_LINE = re.compile(r"#(\d+) (?:(?P<name>\[.*)|ERROR: (?P<error>.*)|\d+\.\d+ (?P<text>.*))")
_BASE = re.compile(r"\[internal\] load metadata for (\S+)")


class BaseMissing(Failed):
    """A registry did not give a base.

    Args:
        name: The base, in full.
        words: The registry's own.
    """

    def __init__(self, name: str, words: str) -> None:
        super().__init__(words)
        self.name = name


class StepFailed(Failed):
    """A step of the build failed, or all of it.

    Args:
        words: The builder's own.
        step: Which one, "" for none.
        tail: The last lines that it wrote.
        exit_code: Of its command.
    """

    def __init__(self, words: str, step: str, tail: str, exit_code: int | None) -> None:
        super().__init__(words, exit_code)
        self.step = step
        self.tail = tail


def has_buildx(engine: Engine) -> bool:
    """Whether Docker's command line is there with its builder; Podman's builder needs none."""
    return not engine.is_podman and _answers(os.environ.get("PATH", ""))


@cache
def _answers(path: str) -> bool:  # noqa: ARG001 - another path may have another docker
    try:
        done = subprocess.run(
            ["docker", "buildx", "version"],  # noqa: S607 - the user's own, on PATH
            capture_output=True,
            timeout=_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and b"docker/buildx" in done.stdout  # Podman's docker answers too


def build_with_cli(
    engine: Engine, processor: Processor, source: Source, options: Options, place: Path, channel: Channel
) -> None:
    """Build what is in ``place``.

    Raises:
        BaseMissing, StepFailed: It could not be built.
        Cancelled: The run was cancelled.
    """
    platform = asked_platform(options)
    command = ["docker", "buildx", "build", "--progress=plain", "--load", "--tag", source.reference.full]
    command += ["--label", f"{CONTEXT_LABEL}={source.context}", "--file", processor.image.dockerfile or ""]
    command += [f"--platform={platform}"] if platform else []
    command += ["--pull"] if options.pull == "always" else []
    log = _Log(channel)
    with subprocess.Popen(  # noqa: S603 - what we have just written
        [*command, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(engine),
        start_new_session=True,  # a Ctrl-C comes by us
    ) as build:
        feeder = threading.Thread(target=_feed, args=(build, archive_of(place)), daemon=True)
        reader = threading.Thread(target=log.read, args=(build,), daemon=True)
        feeder.start()
        reader.start()
        while reader.is_alive():
            reader.join(_POLL_S)
            if log.failure is not None or channel.wait_cancelled(0):
                _end(build)
                for thread in (feeder, reader):  # before their pipes are closed under them
                    thread.join(1.0)
                raise log.failure or Cancelled()
        feeder.join()
        status = build.wait()
    if log.failure is not None:
        raise log.failure
    if status:
        raise log.fault(status)


def _environment(engine: Engine) -> dict[str, str]:
    # Attestations would make an index of every image, with a new digest each time.
    return {**os.environ, **engine.environment, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "NO_COLOR": "1"}


def _feed(build: subprocess.Popen[bytes], archive: Iterable[bytes]) -> None:
    with suppress(BrokenPipeError), cast("IO[bytes]", build.stdin) as stdin:  # its own words say why it ended
        for portion in archive:
            stdin.write(portion)


def _end(build: subprocess.Popen[bytes]) -> None:
    """End the command and its plugin, which does the work; the engine sees the connection closed."""
    with suppress(ProcessLookupError):
        os.killpg(build.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        build.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(build.pid, signal.SIGKILL)


class _Log:
    """Passes the log on, and remembers what a failure needs."""

    def __init__(self, channel: Channel) -> None:
        self.failure: BaseException | None = None  # what the channel raised; the rest is read and dropped
        self._channel = channel
        self._names: dict[str, str] = {}
        self._tails: dict[str, deque[str]] = {}
        self._failed = ""
        self._words = ""
        self._last = ""

    def read(self, build: subprocess.Popen[bytes]) -> None:
        for raw in cast("IO[bytes]", build.stderr):
            self._pass_on(raw)
            line = raw.decode("utf-8", "replace").rstrip()
            if match := _LINE.fullmatch(line):
                number = match[1]
                if match["name"]:
                    self._names.setdefault(number, match["name"])
                elif match["error"] is not None:
                    self._failed, self._words = number, match["error"]
                else:
                    self._tails.setdefault(number, deque(maxlen=_TAIL_LINES)).append(match["text"])
            elif line.upper().startswith("ERROR: "):
                self._last = line[7:].removeprefix("failed to solve: ")
            elif line:
                self._last = self._last or line

    def _pass_on(self, raw: bytes) -> None:
        try:
            if self.failure is None:
                self._channel.write("stderr", raw)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that runs the build
            self.failure = error

    def fault(self, status: int) -> Failed:
        step, words = self._names.get(self._failed, ""), self._words or self._last
        if base := _BASE.match(step):
            return BaseMissing(base[1], words)
        code = re.search(r"exit code: (\d+)", words)
        tail = "\n".join(self._tails.get(self._failed, ()))
        return StepFailed(
            words or f"docker buildx ended with {status}", step, tail, int(code[1]) if code else None
        )

"""Images from an entry's Dockerfile: one build at a time of what has one content.

BuildKit builds where Docker's own command line has it (``docker buildx``), else the engine's classic builder.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import TYPE_CHECKING, Any

from theory import ImageName, bases_of, errors
from theory_adapter_local.engine.client import Refused
from theory_adapter_local.images.buildkit import BaseMissing, StepFailed, build_with_cli, has_buildx
from theory_adapter_local.images.context import archive_of, copy_context
from theory_adapter_local.images.here import CONTEXT_LABEL, find_image, inspect_image, is_for, platform_of
from theory_adapter_local.images.lock import locked
from theory_adapter_local.images.platforms import normal_platform
from theory_adapter_local.images.progress import Failed, follow
from theory_adapter_local.images.pull import disk_full, pull_image, refusal
from theory_adapter_local.images.source import asked_platform, renews

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory import Channel, Processor
    from theory_adapter_local.engine.client import Engine
    from theory_adapter_local.images.source import Source
    from theory_adapter_local.options import Options

_TAIL_LINES = 12
_FULL = "no space left on device"
_STEP_LENGTH = 200  # characters of a step that an error shows
_STEP = re.compile(r"STEP \d+(/\d+)? ?: ", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the classic builder paints what a step writes to stderr
_BOOKKEEPING = re.compile(r" ---> |Removing intermediate container ")
_SYNTAX = re.compile(r"parse error (?:on )?line (\d+): (.*)", re.DOTALL)


def build_image(
    engine: Engine, processor: Processor, source: Source, options: Options, cache: Path, channel: Channel
) -> None:
    """Build the image of an entry and give it its tag.

    Raises:
        ImageBuildFailed: A step failed, with its last lines, or the Dockerfile is wrong.
        ImageNotFound: A base is neither here nor to be had.
        Retry: The entry's folder was changed meanwhile, or the engine's disk is full.
        Cancelled: The run was cancelled.
    """
    from shutil import rmtree  # noqa: PLC0415 - builds are rare

    place = cache / "builds" / source.reference.tag
    with locked(place.with_suffix(".lock"), channel):
        if not renews(source, options) and find_image(engine, source, options):
            return  # somebody else has just built it
        if place.exists():
            rmtree(place)  # of a build that was killed
        try:
            copy_context(processor, place, channel)
            channel.write("stderr", f"building the image of {processor.ref}\n".encode())
            _build(engine, processor, source, options, place, channel)
        finally:
            rmtree(place, ignore_errors=True)


def _build(
    engine: Engine, processor: Processor, source: Source, options: Options, place: Path, channel: Channel
) -> None:
    dockerfile = processor.image.dockerfile or ""
    text = (place / dockerfile).read_text("utf-8")
    if options.pull == "never":
        _fetch_bases(engine, text, options, channel)
    if has_buildx(engine):
        try:
            build_with_cli(engine, processor, source, options, place, channel)
        except BaseMissing as error:
            base = ImageName.parse(error.name)
            raise refusal(engine, base, asked_platform(options), error.words) from error
        except StepFailed as error:
            raise _build_failed(processor, error.words, error.step, error.tail, error.exit_code) from error
        return
    _fetch_bases(engine, text, options, channel)
    log = Log(channel)
    query = {
        "t": source.reference.full,
        "dockerfile": dockerfile,
        "labels": json.dumps({CONTEXT_LABEL: source.context}),
        "buildargs": json.dumps(_proxies(engine)),
        "rm": "1",
        "forcerm": "1",
    }
    if platform := asked_platform(options):
        query["platform"] = platform
    try:
        follow(
            engine,
            "/build",
            query=query,
            headers={"Content-Type": "application/x-tar"},
            body=archive_of(place),
            hear=log.hear,
            channel=channel,
        )
    except Failed as error:
        raise _build_failed(processor, error.words, log.step, log.tail(), error.exit_code) from error
    except Refused as error:
        raise _build_failed(processor, error.message, "", "", None) from error


def _fetch_bases(engine: Engine, text: str, options: Options, channel: Channel) -> None:
    """Pull what the Dockerfile takes from elsewhere, with the login, progress and errors of any pull."""
    for base in bases_of(text):
        try:
            reference = ImageName.parse(base.name)
        except ValueError:
            continue  # the builder says where it stands
        platform = normal_platform(base.platform) if base.platform else asked_platform(options)
        here = None if options.pull == "always" else inspect_image(engine, reference.full)
        if here is None:
            pull_image(engine, reference, platform, options.pull, channel)
        elif not is_for(engine, here, platform):
            pull_image(engine, reference, platform or platform_of(engine), options.pull, channel)


def _proxies(engine: Engine) -> dict[str, str]:
    """What Docker's configuration says that builds reach the network through; never part of the image."""
    from docker.utils import config, proxy  # noqa: PLC0415 - 120 ms

    proxies = config.load_general_config().get("proxies") or {}
    told = proxies.get(engine.host) or proxies.get("default")
    variables = proxy.ProxyConfig.from_dict(told).get_environment() if told else {}
    return {name: str(value) for name, value in variables.items()}


class Log:
    """A build's log: passed on as it comes, the lines of its latest step kept for a failure."""

    def __init__(self, channel: Channel) -> None:
        self.step = ""
        self._channel = channel
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._line = ""

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take a message of the classic builder."""
        text = _COLOUR.sub("", str(message.get("stream", "")))
        if not text:
            return
        self._channel.write("stderr", text.encode("utf-8", "replace"))
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if _STEP.match(line):
                self.step = line.strip()
                self._lines.clear()
            elif line.strip() and not _BOOKKEEPING.match(line):
                self._lines.append(line.rstrip())

    def tail(self) -> str:
        """The last lines of the step that failed."""
        return "\n".join((*self._lines, self._line)).strip("\n")


def _build_failed(
    processor: Processor, words: str, step: str, tail: str, exit_code: int | None
) -> errors.TheoryError:
    """The error for a build that ended with these words of the builder's."""
    if _FULL in words.lower():
        return disk_full(words[:_STEP_LENGTH])
    path = processor.folder / (processor.image.dockerfile or "")
    what = f"the image of {processor.ref} could not be built"
    if found := _SYNTAX.search(words):
        return errors.ImageBuildFailed(
            f"{what}: {path}, line {found[1]}: {found[2].strip()}", hint=_hint(words, path)
        )
    if step:
        short = step if len(step) <= _STEP_LENGTH else step[:_STEP_LENGTH] + "…"
        words = f"{short} " + (f"ended with exit status {exit_code}" if exit_code else f"failed: {words}")
    message = "\n".join(filter(None, (f"{what}: {words}", tail)))
    return errors.ImageBuildFailed(message, hint=_hint(message, path))


def _hint(words: str, path: Path) -> str:
    said = words.lower()
    if "requires buildkit" in said or ("unknown instruction" in said and "<<" in path.read_text("utf-8")):
        return "the Dockerfile needs BuildKit: install docker-buildx beside Docker's command line"
    if _FULL in said:
        return "the disk of the Docker engine is full: docker system df shows what takes the room"
    return f"mend {path}"

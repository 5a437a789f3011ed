"""An adapter that leaks the job's secrets in every spelling, by the way that its options name."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proofs.spellings import spellings
from theory import AdapterInfo, Image, Outcome, errors, hookimpl

if TYPE_CHECKING:
    from theory import Channel, Processor, Secrets

WAYS = ("raises", "chains", "refuses", "says", "leaves", "words")


@dataclass(frozen=True)
class Options:
    """How it leaks."""

    way: str = "raises"


@hookimpl
def describe_adapter() -> AdapterInfo:
    """It says that it runs programs."""
    return AdapterInfo("leaks", frozenset({"process", "isolation", "secrets_env"}), options=Options)


@hookimpl
def identify(processor: Processor) -> Image:
    """Any."""
    del processor
    return Image("leaks:1", None, "linux/amd64", "3.11")


@hookimpl
def execute(options: Options, secrets: Secrets, channel: Channel) -> Outcome:
    """Leak them."""
    channel.started()
    each = [spelled for value in secrets.values() for spelled in spellings(value).values()]
    text = " ".join(spelled.decode("utf-8", "replace") for spelled in each)
    first = next(iter(secrets.values()))
    if options.way == "raises":
        raise ValueError(text)
    if options.way == "chains":
        try:
            dict[str, str]()[text]
        except KeyError as error:
            raise OSError(5, "login refused", first) from error
    if options.way == "refuses":
        raise errors.Retry("x" * 4080 + first, hint=text, meta={"answer": text})
    if options.way == "says":
        for spelled in each:
            for at in range(len(spelled)):
                channel.write("stderr", spelled[at : at + 1])
            channel.write("stderr", b"\n")
    if options.way == "leaves":
        sys.exit(text)
    message = "x" * 120 + first if options.way == "words" else ""
    return Outcome("exit", 1, time.time(), 0.0, message=message)

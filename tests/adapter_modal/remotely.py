"""An app whose functions do what they are told: its code runs in the containers of the emulator."""

# ruff: noqa: T201 - containers have nothing but what they print

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import modal

from adapter_modal.gate import knock

if TYPE_CHECKING:
    from collections.abc import Iterator

image = modal.Image.from_registry("python:3.11-slim")
app = modal.App("remotely")


class Refused(Exception):
    """What the code of a function raises."""


def act(what: str, value: Any = None) -> Any:  # noqa: C901 - a list
    """Do one thing of a list."""
    if what == "echo":
        return value
    if what == "environ":
        return os.environ.get(value)
    if what == "say":
        for number in range(value):
            print(f"line {number}")
        print("to stderr", file=sys.stderr)
    if what == "tell":
        for number in range(50):
            if number == 25:
                knock(value, "half")
            print(f"line {number}")
    if what == "raise":
        raise Refused(value)
    if what == "exit":
        os._exit(value)
    if what == "knock":
        return knock(value, "here")
    if what == "sleep":
        print("asleep")
        try:
            time.sleep(value)
        except BaseException as error:
            print(f"woken by {type(error).__name__}", flush=True)
            raise
    return os.getpid()


@app.function(image=image, scaledown_window=60)
def work(what: str, value: Any = None) -> Any:
    return act(what, value)


@app.function(image=image, timeout=1, startup_timeout=60)
def hasty(what: str, value: Any = None) -> Any:
    return act(what, value)


@app.function(image=image, block_network=True)
def offline(what: str, value: Any = None) -> Any:
    return act(what, value)


@app.function(image=image, retries=modal.Retries(max_retries=2, initial_delay=0.0, backoff_coefficient=1.0))
def stubborn(port: int) -> str:
    answer = knock(port, "again")
    if answer != "enough":
        raise Refused(answer)
    return answer


@app.function(image=image)
async def patient() -> None:
    try:
        print("asleep")
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("woken", flush=True)
        raise


@app.function(image=image)
def count(most: int, port: int = 0, fail_at: int = -1) -> Iterator[int]:
    for number in range(most):
        if port and number == 2:
            knock(port, "two")
        if number == fail_at:
            raise Refused(str(number))
        yield number

"""`python -m modal_emulator`: serve until SIGTERM, SIGINT or the end of stdin."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path

from .server import DEFAULT_TOKEN, Emulator


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m modal_emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the gRPC server (default: any free one)")
    parser.add_argument("--control-port", type=int, default=0, help="of the control port (the same)")
    parser.add_argument(
        "--folder", type=Path, help="where it keeps blobs and volumes (default: a temporary one)"
    )
    parser.add_argument("--runner", choices=("docker", "process"), default="process", help="of containers")
    parser.add_argument("--token-id", default=DEFAULT_TOKEN[0])
    parser.add_argument("--token-secret", default=DEFAULT_TOKEN[1])
    return parser.parse_args()


async def _serve(asked: argparse.Namespace) -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    async with Emulator(
        port=asked.port,
        control_port=asked.control_port,
        folder=asked.folder,
        runner=asked.runner,
        token=(asked.token_id, asked.token_secret),
    ) as emulator:
        urls = emulator.world.urls
        line = json.dumps({"server_url": urls.server, "control_url": urls.control})
        print(line, flush=True)  # noqa: T201 - that is what it says
        _watch_stdin(loop, done)
        await done.wait()


def _watch_stdin(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    """End with whoever started us, if stdin is a pipe of his; a terminal and /dev/null never end."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            done.set()

    loop.add_reader(0, readable)


if __name__ == "__main__":
    asyncio.run(_serve(_arguments()))
    sys.exit(0)

"""Runs the program of ``llm/litellm@1`` many times for one import of LiteLLM, which takes seconds.

Started as the entry's command is, in its folder and with its Python. Each line of stdin is one run: its
variables, and the files for its stdout and stderr. It is made in a fork, and answered with its exit code.
Whatever turns to another host than this one ends at once, with exit code 99 and the host on stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from typing import Any


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    host = None
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in {"socket.connect", "socket.sendto"} and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    if host not in {None, "127.0.0.1", b"127.0.0.1"}:
        os.write(2, f"turned to {host}\n".encode())
        os._exit(99)


sys.addaudithook(guard)
sys.path.insert(0, os.getcwd())  # as `python main.py` has it

import main  # type: ignore[import-not-found]  # noqa: E402 - of the entry, and guarded from its first line

main.import_litellm()
assert "READ_FROM_DOTENV" not in os.environ
for line in sys.stdin:
    run = json.loads(line)
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(run["files"], 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.environ.clear()
        os.environ.update(run["environ"])
        main.SILENCE_S = run["silence_s"]
        code = main.main()
        os.write(sender, " ".join(sys.modules).encode())
        main.leave(code)
    os.close(sender)
    with open(receiver) as names:
        # LiteLLM imports much when it is first used: once for all that follow, not in each fork.
        for name in names.read().split():
            with suppress(Exception):
                importlib.import_module(name)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
    sys.stdout.flush()

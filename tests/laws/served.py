"""A child that runs one command line after another in one process, so that a thousand cost what one costs.

It reads cases as lines of JSON on standard input, and answers each with one line on standard output.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
from typing import Any

MEMORY_BYTES = 2 * 1024**3  # of addresses, with all that Python maps; no case may need more
HANG_S = 30  # a guard, no measure


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    complaints = os.dup(2)
    from theory.cancel import Cancellation  # under the limit
    from theory.cli import run_command_line

    usual = dict(os.environ)
    for line in asked:
        case: dict[str, Any] = json.loads(line)
        os.environ.clear()
        os.environ.update({**usual, **case["environ"]})
        files = [os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for name in ("stdin", "stdout", "stderr")]
        os.pwrite(files[0], bytes.fromhex(case["stdin"]), 0)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=complaints)
        try:
            code = run_command_line(case["arguments"], Cancellation())
        except SystemExit as done:  # a shell that completes a line
            code = done.code if isinstance(done.code, int) else 0
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()
        sys.stderr.flush()
        said = [os.pread(number, 2**24, 0).decode("utf-8", "backslashreplace") for number in (1, 2)]
        answers.write(json.dumps([code, *said]).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()

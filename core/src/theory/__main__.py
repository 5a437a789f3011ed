"""The front door of the command ``theory``: signals first, everything else after that."""

from __future__ import annotations

import gc
import os
import signal
import sys

TYPE_CHECKING = False  # typing would be one more import before the first Ctrl-C can be taken well

if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Run the command line and exit with its status.

    The first Ctrl-C, SIGTERM or SIGHUP cancels, also during imports; the second one exits at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun: just end, without a traceback
    _open_standard_streams()
    # A run makes 20,000 objects on its way up, and nearly all of them stay: looking for garbage after every
    # 700 of them would take a fifteenth of a short run (2026-11-22, Python 3.11).
    gc.set_threshold(100_000)
    from theory.cancel import Cancellation  # noqa: PLC0415 - after the line above

    cancellation = Cancellation()

    def interrupt(signum: int, _: FrameType | None) -> None:
        if cancellation.is_set():
            os.write(2, b"stopped at once; what was open is closed by the next start\n")
            os._exit(128 + signum)
        cancellation.set(signum)

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, interrupt)
    from contextlib import suppress  # noqa: PLC0415 - as above

    from theory.cli import run_command_line  # noqa: PLC0415 - a Ctrl-C during its import must not print a traceback

    status = run_command_line(sys.argv[1:], cancellation)
    # What had to be kept was synced before this. An orderly end of the interpreter would cost another tenth
    # of a short run; the kernel does it in no time.
    with suppress(OSError):  # full or gone, and it was said before; stderr is flushed where it is written
        sys.stdout.flush()
    os._exit(status)


def _open_standard_streams() -> None:
    """Give a standard stream that the caller closed the null device, or the ledger could become stdout."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - standard error
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only form
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115 - for good


if __name__ == "__main__":
    main()

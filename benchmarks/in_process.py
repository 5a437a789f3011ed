"""Executions and memo hits a second in one process, each one durable, serial and by eight threads."""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from theory import Runner

if TYPE_CHECKING:
    from theory.types import MemoPolicy

INPUTS = {"messages": [{"role": "user", "content": "Hello!"}]}
COUNT = 400


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["THEORY_HOME"] = home
        with Runner() as runner:

            def once(memo: MemoPolicy) -> None:
                envelope = runner.run("llm/litellm@1", INPUTS, adapter="mock", memo=memo)
                assert envelope.status == "success", envelope

            once("on")
            for name, memo, threads in (
                ("executions, serial", "off", 1),
                ("executions, 8 threads", "off", 8),
                ("memo hits, serial", "on", 1),
                ("memo hits, 8 threads", "on", 8),
            ):
                began = time.perf_counter()
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(once, [memo] * COUNT))
                print(f"{name:24} {COUNT / (time.perf_counter() - began):8.0f} a second")


if __name__ == "__main__":
    main()

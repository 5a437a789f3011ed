"""What looking at a long ledger costs: an audit with and without names, a checkpoint and a report, an event.

The ledger is that of executions that reserve, settle and close, each with four names of its own; the
yardstick is reading and hashing the same payloads. CPU time is the steadier one where others use the machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from theory.formats.canon import cid_of
from theory.formats.wire import artifact_document
from theory.ledger import Closing, Ledger
from theory.ledger.audit import audit, checkpoint
from theory.ledger.report import report
from theory.request import new_execution_id
from theory.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT, ROUNDS, WRITERS = 20_000, 5, 8
JSON = "application/json"


def close_one(ledger: Ledger) -> float:
    """Reserve, settle and close as a run does; the seconds that its two commits took."""
    id_ = new_execution_id()
    outputs = (
        Artifact(f"/artifacts/outputs/{id_}/text/response.txt", "b3:" + "1" * 64, 26, "text/plain"),
        Artifact(f"/artifacts/outputs/{id_}/meta.json", "b3:" + "2" * 64, 145, JSON),
    )
    names = (
        *outputs,
        Artifact(f"/artifacts/execution/{id_}/outputs.json", "b3:" + "3" * 64, 300, JSON),
        Artifact(f"/artifacts/execution/{id_}/determinism.json", "b3:" + "4" * 64, 700, JSON),
    )
    closing = Closing(
        execution_id=id_,
        plan="default",
        ref="llm/litellm@1",
        adapter="mock",
        kind="execution.success",
        actual_micro_usd=5,
        envelope={
            "status": "success",
            "execution_id": id_,
            "outputs": [artifact_document(output) for output in outputs],
            "index_path": names[2].path,
            "receipt_path": names[3].path,
            "meta": {"env_fingerprint": "linux_x64_py311_llm-litellm", "duration_ms": 100, "adapter": "mock"},
        },
        names=names,
        memo_key="b3:" + "9" * 64,
        started_at=time.time(),
        blobs=dict.fromkeys(("entry", "tree", "inputs", "preimage", "index", "receipt"), "b3:" + "5" * 64),
        write_prefix=f"/artifacts/outputs/{id_}/",
    )
    began = time.perf_counter()
    ledger.reserve("default", id_, 10)
    ledger.settle(closing)
    return time.perf_counter() - began


def main() -> None:
    """Fill a ledger with eight writers, then look at it in turn."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.db")) as ledger:
        ledger.ensure_plan("default")
        with ThreadPoolExecutor(WRITERS) as pool:
            took = sorted(pool.map(lambda _: close_one(ledger) / 2, range(count)))
        print(f"a durable commit, {WRITERS} writers: p50 {took[count // 2] * 1e3:.1f} ms, ", end="")
        print(f"p99 {took[count * 99 // 100] * 1e3:.1f} ms")
        events = ledger.plan("default").events
        mark = checkpoint(ledger.read)

        def hashed() -> None:
            for (payload,) in ledger.read("SELECT payload FROM events"):
                cid_of(payload.encode())

        looks: dict[str, Callable[[], object]] = {
            "payloads read and hashed": hashed,
            "plan verify": lambda: audit(ledger.read, None, mark).faults == () or sys.exit("faults"),
            "plan verify default": lambda: audit(ledger.read, "default"),
            "plan checkpoint": lambda: checkpoint(ledger.read),
            "plan report": lambda: report(ledger.read),
        }
        best = {name: (float("inf"), float("inf")) for name in looks}
        for _ in range(ROUNDS):
            for name, look in looks.items():
                began, used = time.perf_counter(), time.process_time()
                look()
                took_now = time.perf_counter() - began, time.process_time() - used
                best[name] = min(best[name][0], took_now[0]), min(best[name][1], took_now[1])
        for name, (seconds, cpu) in best.items():
            print(f"{name:25} {events / seconds:9,.0f} events a second {events / cpu:9,.0f} a second of CPU")


if __name__ == "__main__":
    main()

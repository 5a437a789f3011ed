"""Executions a second on a new home and on one that has seen 100,000, in turn, in one process, all durable.

The old home is filled without running anything: each filler is what one real execution left in the store
and in the ledger, under an id and with inputs of its own, put and settled through the interfaces that a run
uses. Every execution, real or filler, brings blobs, names and a receipt that nobody had before. The ratio of
CPU time is the steadier one where others use the disk.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from theory import Runner, config
from theory.ledger import Closing
from theory.request import new_execution_id
from theory.store import blobs
from theory.types import Artifact

if TYPE_CHECKING:
    from theory.ledger import Record

COUNT = 100_000
EACH, ROUNDS, BATCH = 100, 10, 200
WORD = "Hello-{}!"


def run(runner: Runner, number: int) -> str:
    """One execution; its id."""
    inputs = {"messages": [{"role": "user", "content": WORD.format(number)}]}
    prefix = "/artifacts/outputs/{execution_id}/"
    envelope = runner.run("llm/litellm@1", inputs, adapter="mock", memo="off", write_prefix=prefix)
    assert envelope.status == "success", envelope
    return envelope.execution_id


def fill(runner: Runner, count: int) -> None:
    """Add so many executions to the home, each like a real one."""
    ledger, store = runner.ledger, runner.store
    template = ledger.execution(run(runner, 0))
    assert template is not None
    names = tuple(ledger.names(f"/artifacts/outputs/{template.execution_id}/"))
    names += tuple(ledger.names(f"/artifacts/execution/{template.execution_id}/"))
    cids = {*template.blobs.values(), *(name.cid for name in names)}
    contents = {}
    for cid in cids:
        with store.open(cid) as stream:
            contents[cid] = stream.read().decode()
    with ThreadPoolExecutor(8) as pool:
        for start in range(1, count, BATCH):
            made = [filler(runner, template, names, contents, n) for n in range(start, start + BATCH)]
            store.put([staged for _, added in made for staged in added])
            list(pool.map(ledger.settle, (closing for closing, _ in made)))


def filler(
    runner: Runner, like: Record, names: tuple[Artifact, ...], contents: dict[str, str], number: int
) -> tuple[Closing, list[blobs.Staged]]:
    """What an execution would close with, and the blobs that it would add."""
    id_ = new_execution_id()

    def own(text: str) -> str:
        return text.replace(like.execution_id, id_).replace(WORD.format(0), WORD.format(number))

    added = {cid: blobs.stage(runner.store, own(text).encode()) for cid, text in contents.items()}
    closing = Closing(
        execution_id=id_,
        plan=like.plan,
        ref=like.ref,
        adapter=like.adapter,
        kind=like.kind,
        actual_micro_usd=0,
        envelope=json.loads(own(json.dumps(like.envelope))),
        names=tuple(
            Artifact(own(name.path), added[name.cid].cid, added[name.cid].size_bytes, name.mime)
            for name in names
        ),
        memo_key=like.memo_key,
        started_at=time.time(),
        blobs={role: added[cid].cid for role, cid in like.blobs.items()},
    )
    return closing, [staged for cid, staged in added.items() if staged.cid != cid]


def main() -> None:
    """Fill, measure in turn, print the ratio."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with tempfile.TemporaryDirectory() as folder:
        new, old = (config.load({"THEORY_HOME": f"{folder}/{name}"}) for name in ("new", "old"))
        with Runner(new) as new_home, Runner(old) as old_home:
            homes = {"new": new_home, "old": old_home}
            began = time.perf_counter()
            fill(old_home, count)
            print(f"filled in {time.perf_counter() - began:.0f} s")
            seconds: dict[str, list[float]] = {name: [] for name in homes}
            cpu: dict[str, list[float]] = {name: [] for name in homes}
            for turn in range(ROUNDS + 1):
                for name, runner in homes.items():
                    began, used = time.perf_counter(), time.process_time()
                    for number in range(EACH):
                        run(runner, count + turn * EACH + number)
                    if turn:  # the first round warms up
                        seconds[name].append(time.perf_counter() - began)
                        cpu[name].append(time.process_time() - used)
            closed = {name: runner.ledger.plan("default").events for name, runner in homes.items()}
    for name, times in seconds.items():
        print(f"at execution {closed[name]:7,}  {EACH / statistics.median(times):6.0f} a second")
    for what, measured in (("of time", seconds), ("of CPU", cpu)):
        ratio = statistics.median(b / a for a, b in zip(measured["new"], measured["old"], strict=True))
        print(f"ratio {what:8}  {ratio:6.2f}")


if __name__ == "__main__":
    main()

"""A function with one job's secrets: made once for all jobs that have them, and shown to nobody."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import modal
import pytest

from adapter_modal.deployments import FUNCTION, LONG_S, Bench, Seen
from theory import Secrets
from theory.testing.channel import Later
from theory_adapter_modal.account import client
from theory_adapter_modal.function import variants
from theory_adapter_modal.function.deployed import find_function
from theory_adapter_modal.function.variants import forget_variants, variant_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

JOBS = 12


@pytest.fixture
def secrets() -> Secrets:
    return Secrets({"A_KEY": f"secret-{os.urandom(8).hex()}"})


async def made(bench: Bench, secrets: Secrets) -> modal.Function[..., Any, Any]:
    entry = bench.script("true")
    function = await find_function(entry, FUNCTION, client())
    assert function is not None
    return await variant_of(function, entry, secrets, FUNCTION, client())


def at_once(*works: Coroutine[object, object, Any]) -> list[Any]:
    """What each gives or raises, in a thread and a loop of its own."""
    barrier = threading.Barrier(len(works))

    def one(work: Coroutine[object, object, Any]) -> Any:
        barrier.wait()
        try:
            return asyncio.run(work)
        except modal.exception.Error as error:
            return error

    begun = [Later(lambda work=work: one(work)) for work in works]  # type: ignore[misc]  # mypy sees no default
    return [later.within(LONG_S) for later in begun]


def test_many_jobs_with_the_same_secrets_have_one_variant(seen: Seen, bench: Bench, secrets: Secrets) -> None:
    found = at_once(*(made(bench, secrets) for _ in range(JOBS)))
    assert len({one.object_id for one in found}) == 1
    asked = [line["method"] for line in seen.requests("FunctionBindParams", "SecretGetOrCreate")]
    assert sorted(asked) == ["FunctionBindParams", "SecretGetOrCreate"]
    other = asyncio.run(made(bench, Secrets({**secrets, "A_KEY": "another"})))
    assert other.object_id != found[0].object_id


def test_who_cannot_make_one_lets_the_others_try(seen: Seen, bench: Bench, secrets: Secrets) -> None:
    seen.handle.fault("FunctionBindParams", "status", status="INVALID_ARGUMENT")
    found = at_once(*(made(bench, secrets) for _ in range(JOBS)))
    refused = [one for one in found if isinstance(one, modal.exception.InvalidError)]
    assert len(refused) == 1
    assert len({one.object_id for one in found if one not in refused}) == 1


def test_who_is_cancelled_while_making_one_lets_the_others_try(
    seen: Seen, bench: Bench, secrets: Secrets
) -> None:
    seen.handle.fault("FunctionBindParams", "stall", seconds=LONG_S)

    async def work() -> modal.Function[..., Any, Any]:
        first = asyncio.ensure_future(made(bench, secrets))
        while not seen.requests("FunctionBindParams"):
            await asyncio.wait((first,), timeout=0)
        second = asyncio.ensure_future(made(bench, secrets))
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.wait_for(second, LONG_S)

    assert asyncio.run(work()).object_id.startswith("fu-")


def test_a_variant_that_modal_no_longer_has_is_made_anew(bench: Bench, secrets: Secrets) -> None:
    first = asyncio.run(made(bench, secrets))
    base = asyncio.run(find_function(bench.script("true"), FUNCTION, client()))
    assert base is not None
    forget_variants(base)
    assert asyncio.run(made(bench, secrets)).object_id != first.object_id


def test_no_value_of_a_secret_stands_in_what_is_kept_of_it(bench: Bench, secrets: Secrets) -> None:
    asyncio.run(made(bench, secrets))
    assert secrets["A_KEY"] not in repr(variants._made)  # noqa: SLF001 - what a traceback would show


FORKER = """
import asyncio, os, signal, sys, threading, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from adapter_modal.deployments import FUNCTION, Bench
from theory import Secrets
from theory_adapter_modal.account import client
from theory_adapter_modal.function import log
from theory_adapter_modal.function.deployed import find_function
from theory_adapter_modal.function.told import Told
from theory_adapter_modal.function.variants import variant_of
from theory.testing.channel import RecordingChannel

entry = Bench(Path(sys.argv[1])).script("true")

async def made():
    function = await find_function(entry, FUNCTION, client())
    waiting.set()
    return await variant_of(function, entry, Secrets({"A_KEY": "value"}), FUNCTION, client())

def join(function, begin):
    return log.join(function, client(), "job", Told(RecordingChannel()), begin=begin)

waiting = threading.Event()
function = asyncio.run(find_function(entry, FUNCTION, client()))
assert join(function, True)
threading.Thread(target=lambda: asyncio.run(made()), daemon=True).start()
waiting.wait()
sys.stdin.readline()  # until the maker hangs
log._lock.acquire()  # as a thread of the parent may hold it
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    found = asyncio.run(made())
    os._exit(0 if found.object_id and join(function, True) else 1)  # its own
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_after_a_fork_nothing_waits_for_the_parents_threads(seen: Seen, bench: Bench) -> None:
    seen.handle.fault("FunctionBindParams", "stall", seconds=LONG_S)
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER, str(bench.folder)],
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while not seen.requests("FunctionBindParams") and process.poll() is None:
        seen.handle.shown("functions")
    process.communicate("\n", timeout=LONG_S)
    assert process.returncode == 0

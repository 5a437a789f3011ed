"""Which container works on which input: starts, hands out, gives out again, and ends them."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modal_proto import api_pb2

from .calls import Calls, Input, Result
from .container import Container
from .definitions import Definition, Definitions

if TYPE_CHECKING:
    from modal_emulator.apps import App
    from modal_emulator.world import World

KILLED = 128 + signal.SIGKILL


@dataclass
class _Queue:
    """What waits for one function, and who works on it."""

    pending: deque[Input] = field(default_factory=deque)
    containers: list[Container] = field(default_factory=list)
    failed_starts: int = 0


class Containers:
    """All containers of all functions."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls = world.area(Calls)
        self._calls.containers = self
        self._definitions = world.area(Definitions)
        self._definitions.when_changed.append(self._changed)
        world.apps.when_stopped.append(self._stopped)
        self._queues: dict[str, _Queue] = {}
        self.by_task: dict[str, Container] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def reset(self) -> None:
        await self.close()
        self._queues.clear()
        self._closed = False

    async def close(self) -> None:
        """End every container; return when nothing of any is left."""
        self._closed = True
        for queue in self._queues.values():
            queue.pending.clear()
        while self.by_task:
            for container in tuple(self.by_task.values()):
                await container.kill("stop")
            await asyncio.wait(tuple(self._tasks), timeout=0.05)

    def _queue(self, function_id: str) -> _Queue:
        return self._queues.setdefault(function_id, _Queue())

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ handing out

    def enqueue(self, one: Input, *, first: bool = False) -> None:
        """Let an input wait for a container, and start one where there is need."""
        queue = self._queue(one.call.function_id)
        if first:
            queue.pending.appendleft(one)
        else:
            queue.pending.append(one)
        self._serve(one.call.function_id)

    def _enqueue_after(self, one: Input, seconds: float) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            if not one.done:
                self.enqueue(one, first=True)

        self._later(wait())

    def take(self, container: Container, most: int) -> list[Input]:
        """What a container is to work on now; starts the clock of each."""
        queue = self._queue(container.definition.function_id)
        taken: list[Input] = []
        while queue.pending and len(taken) < most:
            one = queue.pending.popleft()
            if not one.done:
                self._give(container, one)
                taken.append(one)
        return taken

    def _give(self, container: Container, one: Input) -> None:
        one.task_id, one.started_at = container.task_id, self._world.now()
        container.running[one.input_id] = container.last = one
        self._later(self._time(container, one, one.retry_count, container.definition.timeout))

    def _serve(self, function_id: str) -> None:
        """Hand out what waits to those that wait for it, and start as many containers as the rest needs."""
        if self._closed:
            return
        made, queue = self._definitions.require(function_id), self._queue(function_id)
        for container in queue.containers:
            if queue.pending and container.waiting is not None and not container.waiting.done():
                container.waiting.set_result(self.take(container, 1))
        ready = [one for one in queue.containers if not one.draining and not one.ending]
        starting = sum(made.concurrency for one in ready if not one.started_at)
        most = min(made.most or self._world.settings.most_containers, self._world.settings.most_containers)
        waiting = sum(not one.done for one in queue.pending)
        wanted = -(-(waiting - starting) // made.concurrency)  # rounded up
        wanted = max(wanted, made.least - len(ready), 0)
        for _ in range(min(wanted, most - len(ready))):
            self._start(made, queue)

    def _start(self, made: Definition, queue: _Queue) -> None:
        container = Container(self._world.new_id("ta"), made, self._world, self._world.now())
        queue.containers.append(container)
        self.by_task[container.task_id] = container
        self._later(self._run(container, queue))

    async def _run(self, container: Container, queue: _Queue) -> None:
        watch = asyncio.ensure_future(self._watch_start(container))
        why = ""
        try:
            exit_code = await container.run()
            why = f"Runner failed with exit code: {exit_code}"  # guess: text
        except Exception as error:  # noqa: BLE001 - whoever called is told
            why = f"Container could not start: {error}"
        finally:
            watch.cancel()
            queue.containers.remove(container)
            del self.by_task[container.task_id]
        await self._ended(container, queue, why)

    async def _watch_start(self, container: Container) -> None:
        await asyncio.sleep(container.definition.startup_timeout)
        if not container.started_at:
            await container.kill("startup")

    # ------------------------------------------------------------ ends

    async def _ended(self, container: Container, queue: _Queue, why: str) -> None:
        """Give out again what a container was lost with, or say that it failed."""
        if container.ending == "stop" or self._closed:
            return
        if container.ending == "startup":
            why = f"Container did not start within {container.definition.startup_timeout:g}s"  # guess: text
        await self._started_or_failed(container, queue, why)
        for one in container.running.values():
            if one.done:
                continue
            if container.ending in {"preempt", "timeout", "cancel"}:
                self.enqueue(one, first=True)
                continue
            one.losses += 1
            if one.losses > self._world.settings.crash_retries:
                await self._calls.settle(one, failure(why), api_pb2.DATA_FORMAT_UNSPECIFIED)
            else:
                self._enqueue_after(one, self._world.settings.crash_pause * 2 ** (one.losses - 1))
        self._serve(container.definition.function_id)

    async def _started_or_failed(self, container: Container, queue: _Queue, why: str) -> None:
        """Where containers do not even start, tell all that wait for them."""
        if container.failure is not None:  # it said why: no other one will fare better
            failed, result = [*container.running.values(), *queue.pending], container.failure
        elif container.started_at:
            queue.failed_starts = 0
            return
        else:
            queue.failed_starts += 1
            if queue.failed_starts <= self._world.settings.crash_retries:
                return
            failed, result = list(queue.pending), failure(why)
        queue.pending.clear()
        queue.failed_starts = 0
        for one in failed:
            await self._calls.settle(one, result, api_pb2.DATA_FORMAT_UNSPECIFIED)

    async def finished(self, container: Container, item: api_pb2.FunctionPutOutputsItem) -> None:
        """Take what a container says of an input: a result, or a reason to try again."""
        one = container.running.pop(item.input_id, None) or self._calls.inputs.get(item.input_id)
        if one is None or one.done or item.retry_count != one.retry_count:
            return
        if item.result.status == Result.GENERIC_STATUS_FAILURE and self._again(one):
            return
        await self._calls.settle(
            one,
            item.result,
            item.data_format,
            input_started_at=item.input_started_at,
            output_created_at=item.output_created_at,
        )

    def _again(self, one: Input) -> bool:
        """Whether the function's own policy gives an input another attempt; it comes after a pause."""
        policy = self._definitions.require(one.call.function_id).proto.retry_policy
        if one.retry_count >= policy.retries:
            return False
        pause = policy.initial_delay_ms * max(policy.backoff_coefficient, 1.0) ** one.retry_count
        one.retry_count += 1
        self._enqueue_after(one, min(pause, policy.max_delay_ms or pause) / 1000)
        return True

    async def _time(self, container: Container, one: Input, attempt: int, seconds: float) -> None:
        """End an attempt that takes too long, and its container."""
        await asyncio.sleep(seconds)
        if one.done or one.retry_count != attempt or container.running.get(one.input_id) is not one:
            return
        del container.running[one.input_id]
        text = f"Task's current input in {one.input_id} hit its timeout of {seconds:g}s"  # guess: text
        if not self._again(one):
            result = Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=text)
            await self._calls.settle(one, result, api_pb2.DATA_FORMAT_UNSPECIFIED)
        await container.kill("timeout")

    async def cancel(self, inputs: list[Input], *, terminate: bool) -> None:
        """Tell those that work on cancelled inputs, or kill them."""
        for container in tuple(self.by_task.values()):
            mine = {one.input_id for one in inputs} & set(container.running)
            if mine and terminate:
                for input_id in mine:
                    del container.running[input_id]
                await container.kill("cancel")
            elif mine:
                container.cancelled |= mine
                container.heard.set()

    def _changed(self, made: Definition) -> None:
        """A new version is there: let the old one's containers end once they are idle."""
        for container in self._queue(made.function_id).containers:
            if container.definition is not made:
                self.drain(container)
        self._serve(made.function_id)

    @staticmethod
    def drain(container: Container) -> None:
        """Give a container nothing more to do; an idle one ends now."""
        container.draining = True
        if container.waiting is not None and not container.waiting.done():
            container.waiting.set_result([])

    async def _stopped(self, app: App) -> None:
        """An app was stopped: its containers end, and what waited is terminated."""
        ended = Result(status=Result.GENERIC_STATUS_TERMINATED, exception="App was stopped")  # guess: text
        for function_id, queue in self._queues.items():
            if self._definitions.require(function_id).app_id != app.app_id:
                continue
            waiting = [*queue.pending, *(one for box in queue.containers for one in box.running.values())]
            queue.pending.clear()
            for one in waiting:
                await self._calls.settle(one, ended, api_pb2.DATA_FORMAT_UNSPECIFIED)
            for container in tuple(queue.containers):
                await container.kill("stop")

    def figures(self, function_id: str) -> tuple[int, int, int]:
        """Inputs that wait, containers, inputs that are worked on."""
        queue = self._queue(function_id)
        running = sum(len(container.running) for container in queue.containers)
        return sum(not one.done for one in queue.pending), len(queue.containers), running

    # ------------------------------------------------------------ the control port

    async def kill(self, target: dict[str, Any], how: str) -> bool:
        """Kill a container as a fault would."""
        container = self.by_task.get(target.get("container", ""))
        if container is None:
            return False
        if how == "oom":
            made = container.definition
            text = "Container killed: out of memory\n"  # guess: text
            self._world.logs.write(made.app_id, container.task_id, 3, text, function_id=made.function_id)
        if how == "preempt":
            await container.kill("preempt", signal.SIGINT)
            self._later(self._kill_after_grace(container))
        else:
            await container.kill(how)
        return True

    async def _kill_after_grace(self, container: Container) -> None:
        await asyncio.sleep(self._world.settings.preempt_grace)
        if container.task_id in self.by_task:
            await container.kill("preempt")

    def redeliver(self, call_id: str) -> bool:
        """Give out once more what runs of a call, while it still runs."""
        running = [
            one
            for container in self.by_task.values()
            for one in container.running.values()
            if one.call.call_id == call_id and not one.done
        ]
        for one in running:
            self.enqueue(one, first=True)
        return bool(running)

    def shown(self) -> dict[str, list[dict[str, object]]]:
        return {
            "containers": [
                {
                    "id": key,
                    "app": container.definition.app_id,
                    "function": container.definition.function_id,
                    "inputs": sorted(container.running),
                    "calls": sorted({one.call.call_id for one in container.running.values()}),
                    "started": bool(container.started_at),
                    "draining": container.draining,
                }
                for key, container in self.by_task.items()
            ]
        }


def failure(why: str) -> api_pb2.GenericResult:
    """The result of what nobody can do."""
    return Result(status=Result.GENERIC_STATUS_FAILURE, exception=why)

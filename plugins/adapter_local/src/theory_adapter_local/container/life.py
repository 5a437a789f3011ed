"""The life of one container: created, started, listened to, ended in time, and removed whatever happens."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from theory import errors
from theory_adapter_local.cancelled import Cancelled
from theory_adapter_local.container.drain import Continued, Drain
from theory_adapter_local.container.endings import KILLED, TERMINATED, Ended, ending_of, status_of
from theory_adapter_local.container.hardening import create_config, fewer_cpus, volumes_of
from theory_adapter_local.container.refusals import away, cannot_run, error_of, removed, stopped
from theory_adapter_local.container.waiter import Waiter, begin
from theory_adapter_local.engine.client import Lost, Refused
from theory_adapter_local.engine.faults import DockerUnavailable
from theory_adapter_local.guard import orphans
from theory_adapter_local.guard.watchdog import guard_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory import Channel, Job, JsonObject
    from theory_adapter_local.container.endings import Ending
    from theory_adapter_local.engine.client import Engine
    from theory_adapter_local.files.ways import Files
    from theory_adapter_local.images.find import Ready
    from theory_adapter_local.options import Options

_POLL_S = 0.05  # between two looks at the deadline and at the cancellation
_GRACE_S = 2.0  # between the request to end and the kill
_STUCK_S = 3.0  # for the engine to kill, which takes it 0.06 s (2026-11), unless all is slow
_ORDER_S = 2.0  # for its answer to an order to end; it obeys also where the answer comes late
_AWAY_S = 15.0  # for the engine to come back
_AWAY_CANCELLED_S = 2.0  # … where the run was cancelled and has to be answered
_SLOW_S = 120.0  # for a create, a start or a removal, which a busy disk makes slow
_TRIES, _PAUSE_S = 20, 0.25  # for the engine to let go of a name
_GONE, _CONFLICT = 404, 409
_NO_ENGINE = (Lost, DockerUnavailable)
_being_removed: dict[str, threading.Thread] = {}
_FORGIVEN = "without swap"  # most machines cannot limit swap; theory doctor tells it once


class Task(NamedTuple):
    """A container to be run."""

    job: Job
    options: Options
    ready: Ready
    labels: Mapping[str, str]

    @property
    def name(self) -> str:
        """The container's, by which the watchdog knows it before it is there."""
        return name_of(self.job)


def name_of(job: Job) -> str:
    """The name of a job's container."""
    return f"theory-{job.execution_id}"


def run_container(engine: Engine, task: Task, files: Files, channel: Channel) -> Ended:
    """Run a container to its command's end, its deadline or its cancellation; nothing of it is left then.

    Args:
        engine: Where.
        task: What to run.
        files: How its files get there and back; they are closed.
        channel: Gets the output, is told the start, and knows deadline and cancellation.

    Raises:
        Cancelled: The run was cancelled before the command started, or while the engine was away.
        Retry: The container or the engine went away.
        OutputLimit: The outputs took more than they may.
        BadAdapterOptions, Unsupported, OutOfMemory, PluginFailed: The engine refuses to run it.
        Lost, DockerUnavailable: The engine cannot be reached.
    """
    return _Container(engine, task, files, channel).run()


class _Container:
    """One container, from its creation to its removal."""

    def __init__(self, engine: Engine, task: Task, files: Files, channel: Channel) -> None:
        self._engine = engine
        self._task = task
        self._files = files
        self._channel = channel
        self._id = ""
        self._may_exist = False
        self._drain: Drain | None = None
        self._waiter: Waiter | None = None
        self._verdict: Ending | None = None  # why we ended it
        self._failure: BaseException | None = None  # also why, and what to raise then
        self._was_away = False
        self._is_dead = True
        self._has_delivered = False

    def run(self) -> Ended:
        """From create to remove."""
        try:
            return self._begin()
        except Refused as refused:
            if refused.status == _GONE and (self._id or "?") in refused.message:
                raise removed(self._task.name) from refused
            raise error_of(refused, self._task.job, self._task.options) from refused
        finally:
            try:
                self._leave()
            finally:
                self._files.close()

    # ------------------------------------------------------------ the beginning

    def _begin(self) -> Ended:
        while True:
            try:
                self._create()
                self._files.stage(self._id)
                if self._channel.wait_cancelled(0):
                    raise Cancelled
                self._start()
            except Refused as refused:
                if (status := self._without_a_start(refused)) is not None:
                    return status
                other = self._files.instead(refused)
                if other is None:
                    raise
                self._files = other
                if self._drain is not None:
                    self._drain.close()
                self._remove()
                guard_of(self._engine).watch(self._task.name)
            else:
                return self._finish()

    def _create(self) -> None:
        task = self._task
        config = create_config(task.job, task.options, self._engine, task.ready, self._files, task.labels)
        if former := _being_removed.get(task.name):
            former.join()
        tries = 0
        while True:
            try:
                self._may_exist = True  # also where the connection breaks before its id is known
                created = self._ask_for(config)
                break
            except Refused as refused:
                self._may_exist = False
                if cores := fewer_cpus(config, refused.message):
                    self._tell(f"the engine has only {cores} cores")
                elif refused.status == _CONFLICT and task.name in refused.message and tries < _TRIES:
                    # A former try of this execution left it; its owner is dead, or core would not have asked.
                    orphans.remove_former(self._engine, task.name)
                    tries += 1
                    if tries > 1 and self._channel.wait_cancelled(_PAUSE_S):
                        raise Cancelled from refused
                else:
                    raise
        self._id = created["Id"]
        guard_of(self._engine).created(task.name, self._id)
        for warning in created.get("Warnings") or ():
            if _FORGIVEN not in warning.lower():
                self._tell(f"the engine warns: {warning}")
        if volumes := volumes_of(task.ready, self._files):
            self._tell(f"empty here, as the volumes of every image: {', '.join(volumes)}")

    def _ask_for(self, config: JsonObject) -> Any:  # noqa: ANN401 - JSON
        query = {"name": self._task.name}
        if self._task.options.platform:
            query["platform"] = self._task.options.platform
        return self._engine.call("POST", "/containers/create", query=query, body=config, timeout_s=_SLOW_S)

    def _tell(self, words: str) -> None:
        self._channel.write("stderr", f"theory: {words}\n".encode())

    def _start(self) -> None:
        self._drain = Drain(
            self._engine.attach(self._id), self._channel
        )  # before the start, or some is missed
        self._engine.call("POST", f"/containers/{self._id}/start", timeout_s=_SLOW_S)
        self._is_dead = False
        self._started_at, self._started = time.time(), time.monotonic()
        self._channel.started()
        begin(self._drain)  # not before: the start is told before any output
        self._wait_anew()
        orphans.sweep(self._engine)

    def _without_a_start(self, refused: Refused) -> Ended | None:
        """The end of a command that cannot be started, as a shell has it; None where more is wrong."""
        failed = cannot_run(refused)
        if failed is None:
            return None
        status, message = failed
        self._channel.started()
        self._tell(message)
        return Ended("exit", status, time.time(), 0.0, message)

    # ------------------------------------------------------------ while it runs

    def _finish(self) -> Ended:
        """Wait for its end, and have all of its output and its outputs."""
        state = self._wait()
        duration = time.monotonic() - self._started
        drain = cast("Drain", self._drain)
        drain.finish(lambda: self._has_been_ended or self._channel.wait_cancelled(0))
        if failure := self._failure or drain.failure:
            raise failure
        job, platform = self._task.job, self._task.ready.image.platform
        memory = job.processor.runtime.memory
        status = status_of(state)
        ending, message = ending_of(state, self._verdict, drain.last_words, memory=memory, platform=platform)
        if ending == "exit":
            if status in {KILLED, TERMINATED} and self._was_killed_by_the_engine():
                raise stopped(self._task.name, with_daemon=self._was_away or not self._engine.answers())
            if status == 0 and state["OOMKilled"]:
                self._tell(f"one of its processes was killed: together they had {memory} MiB of memory")
            self._files.collect(self._id)
            self._has_delivered = True
        return Ended(ending, status, self._started_at, duration, message)

    def _wait(self) -> JsonObject:
        """The container's state once it has stopped, which its deadline or its cancellation brings about."""
        asked = killed = 0.0
        while (state := self._ended_state()) is None:
            now = time.monotonic()
            if not asked:
                if self._has_to_end(now):
                    asked = now
                    self._order("SIGTERM")
            elif not killed:
                if now > asked + _GRACE_S:
                    killed = now
                    cast("Drain", self._drain).give_up()
                    self._order("SIGKILL")
            elif now > killed + _STUCK_S:
                raise self._cannot_be_killed()
        self._is_dead = True
        return state

    def _ended_state(self) -> JsonObject | None:
        """Its state if it stops within a moment; if not, somebody listens to it and waits for it again."""
        waiter = cast("Waiter", self._waiter)
        if not waiter.done.wait(_POLL_S):
            return None
        state = self._inspect()
        if waiter.was_lost:
            self._was_away = True
            self._listen_anew()
        if state["Status"] in {"exited", "dead"}:
            return state
        if state["Running"]:
            self._wait_anew()
        self._channel.wait_cancelled(_POLL_S)  # it is about to vanish, or the engine is confused
        return None

    def _has_to_end(self, now: float) -> bool:
        """Whether it is time, before it is done: from its status nobody could tell."""
        deadline = self._channel.deadline
        if deadline is not None and now >= deadline:
            self._verdict = "timeout"
        elif self._channel.wait_cancelled(0):
            self._verdict = "cancelled"
        elif cast("Drain", self._drain).failure is None:
            try:
                self._files.watch()
            except errors.TheoryError as error:
                self._failure = error
        return self._has_been_ended

    @property
    def _has_been_ended(self) -> bool:
        """Whether there is a reason of ours for its end."""
        drain = cast("Drain", self._drain)
        return self._verdict is not None or self._failure is not None or drain.failure is not None

    def _order(self, signal: str) -> None:
        try:
            path = f"/containers/{self._id}/kill"
            self._engine.call("POST", path, query={"signal": signal}, timeout_s=_ORDER_S)
        except (Refused, *_NO_ENGINE):
            pass  # it has ended meanwhile, or the engine is gone: who waits for its end will know

    def _cannot_be_killed(self) -> Exception:
        if self._verdict == "cancelled":
            return Cancelled()
        return errors.Retry(
            f"the Docker engine does not end the container {self._task.name}",
            hint=f"docker rm --force {self._task.name}",
        )

    # ------------------------------------------------------------ when the engine goes away

    def _inspect(self) -> JsonObject:
        """What the engine says of it; if it is gone, once it is back."""
        began = time.monotonic()
        while True:
            try:
                found = self._engine.call("GET", f"/containers/{self._id}/json")
                return cast("JsonObject", found["State"])
            except _NO_ENGINE as error:
                self._was_away = True
                is_cancelled = self._channel.wait_cancelled(0.1)
                patience = _AWAY_CANCELLED_S if is_cancelled else _AWAY_S
                if time.monotonic() > began + patience:
                    raise (Cancelled() if is_cancelled else away(self._task.name, patience)) from error

    def _was_killed_by_the_engine(self) -> bool:
        """Whether somebody had the engine end it: its own shutdown, or an order that was not ours.

        A daemon that shuts down tells the end of a container as if that had ended by itself, and goes on
        answering for a second (Engine 20.10, 2026-11).
        """
        if self._was_away:
            return True
        query = {
            "since": "1",
            "until": str(int(time.time()) + 1),  # then the answer ends
            "filters": json.dumps({"container": [self._id], "event": ["kill"]}),
        }
        try:
            with self._engine.stream("GET", "/events", query=query, timeout_s=_ORDER_S) as answer:
                return bool(answer.read(1))
        except Refused:
            return False
        except _NO_ENGINE:
            return True

    def _listen_anew(self) -> None:
        """Hear what it has said since the engine's answers ended, and will say."""
        former = cast("Drain", self._drain)
        former.close()
        self._drain = Drain(Continued(self._engine, self._id, former.read_at), self._channel, former)
        begin(self._drain)

    def _wait_anew(self) -> None:
        self._waiter = Waiter(self._engine, self._id)
        begin(self._waiter)

    # ------------------------------------------------------------ the end

    def _leave(self) -> None:
        """Leave nothing behind but what shall be kept, and what the engine does not let go of."""
        if self._drain is not None:
            self._drain.close()
        if not self._may_exist:
            guard_of(self._engine).forget(self._task.name)
        elif self._task.options.keep:
            self._keep()
            guard_of(self._engine).forget(self._task.name)
        elif self._has_delivered:
            self._remove_meanwhile()
        else:
            self._remove()

    def _remove_meanwhile(self) -> None:
        """Remove it while core goes on; should this process end before, its watchdog does it.

        That saves the 5 to 40 ms that the engine takes for it (2026-11).
        """
        name = self._task.name

        def run() -> None:
            try:
                self._remove()
            finally:
                _being_removed.pop(name, None)

        thread = threading.Thread(target=run, daemon=True, name="theory-local-remove")
        _being_removed[name] = thread
        try:
            thread.start()
        except RuntimeError:  # no room for a thread
            run()

    def _keep(self) -> None:
        if not self._is_dead:
            self._order("SIGKILL")
        self._tell(f"the container {self._task.name} is kept; docker rm -v {self._task.name} removes it")

    def _remove(self) -> None:
        """Remove it; what the engine does not let go of stays watched, for when this process ends."""
        query = {"force": "1", "v": "1"}
        timeout_s = _ORDER_S if self._channel.wait_cancelled(0) else _SLOW_S
        path = f"/containers/{self._id or self._task.name}"
        try:
            self._engine.call("DELETE", path, query=query, timeout_s=timeout_s)
        except Refused as refused:
            if refused.status != _GONE:
                return
        except _NO_ENGINE:
            return
        guard_of(self._engine).forget(self._task.name)
        if self._waiter is not None:
            self._waiter.join(1.0)

"""What runs in a container of a deployed function: serves one job after another, each as the first.

It is shipped to Modal as it stands, with ``theory_box.py``, and imported by whatever Python the image has
(3.10 or later), so it needs the standard library alone; Modal's own package is there too. ``serve`` takes and
gives JSON in bytes; ``call.py`` writes the one and reads the other. Modal's volume holds what is too large
for a document, and is mounted where only this program can go.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import IO, Any

try:
    import theory_box as box  # type: ignore[import-not-found]  # it lies beside this file at Modal
except ModuleNotFoundError:  # here, where this is a module of a package
    from theory_adapter_modal.function import theory_box as box

VOLUME = "/theory/volume"
VOLUME_HOME = "/theory"  # closed to all but us
LIVE = "theory-log"  # begins a line of the container's log that is a piece of the command's
GRACE_S = 2.0  # between SIGTERM and SIGKILL
PATIENCE_S = 5.0  # for its output to be read
TICK_S = 0.1  # between two looks at the memory
PIECE = 8192  # bytes of the command's output in a line of the log
GATHER_S = 0.01  # so that a command that writes byte by byte does not make a line of each
LIVE_BYTES = 8 << 20  # that are shown while it runs; all comes with the answer
INLINE_BYTES = 1 << 20  # of all files, or of the log, in the answer itself; the rest goes into the volume
MASK = b"***"
LEAST_SECRET = 4  # bytes; a shorter one stands in every second line
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where an image sets no PATH
HERE = os.getcwd()  # the image's working directory
_served = 0
Document = dict[str, Any]


def serve(request: bytes) -> bytes:
    """Run the job that this document describes; every end of it is a document too."""
    started = time.monotonic()
    call = json.loads(request)
    try:
        answer = Job(call).run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told in words: no class of ours is there
        answer = {"fault": f"{type(error).__name__}: {error}"}
        _leave_after_this_call()
    answer["image"] = os.environ.get("MODAL_IMAGE_ID", "")
    answer["seconds"] = time.monotonic() - started
    return json.dumps(answer).encode()


class Job:
    """One job in this container, from its files to the removal of all that it left."""

    def __init__(self, call: Document) -> None:
        global _served  # noqa: PLW0603 - each call has another user
        _served += 1
        self.call = call
        self.root = call.get("root", "")  # elsewhere only in tests
        self.job, self.artifacts = f"{self.root}/job", f"{self.root}/artifacts"
        self.scratch = f"{self.job}/tmp"  # noqa: S108 - in a folder of its own
        self.uses_volume = False
        self.attempt = (
            f"{call['execution']}.{os.urandom(4).hex()}"  # it may be delivered again, after a crash
        )
        self.user = box.user_of(_served)
        self.spared = frozenset(box.descendants())
        self.values = {name: os.environ[name] for name in call["secrets"] if name in os.environ}
        self.log = Log(self.attempt, [value.encode() for value in self.values.values()])

    def run(self) -> Document:
        """Lay out, run, collect, clean up."""
        since, dead = time.time_ns(), False
        try:
            try:
                self._lay_out()
                ended = self._command()
            finally:
                dead = box.kill_all(self.spared)
            answer = {
                "attempt": self.attempt,
                **ended,
                "outputs": self._outputs(),
                "log": self.log.told(self),
            }
            if self.uses_volume:
                _volume(self.call).commit()
            return answer
        finally:
            self.log.close()
            if not box.clean(self.user, self.job, self.artifacts, since) or not dead:
                _leave_after_this_call()

    # ------------------------------------------------------------ before

    def _lay_out(self) -> None:
        for folder in (self.job, self.artifacts):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder, exist_ok=True)
            os.chmod(folder, 0o755)  # noqa: S103 - the command reads here as another user
        for name in ("out", "tmp"):
            os.mkdir(f"{self.job}/{name}", 0o700)
            if self.user is not None:
                os.chown(f"{self.job}/{name}", self.user, self.user)
        _write(f"{self.job}/inputs.json", self.call["inputs"].encode())
        if os.path.isdir(VOLUME_HOME) and self.user is not None:
            os.chmod(VOLUME_HOME, 0o700)
        if any("volume" in file for file in self.call["files"]):
            _volume(self.call).reload()
        for file in self.call["files"]:
            path = self.root + file["path"]
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            if "data" in file:
                _write(path, base64.b64decode(file["data"], validate=True))
            elif box.copy(f"{VOLUME}/{file['volume']}", path) != (file["size"], file["digest"]):
                raise OSError(f"{file['path']} did not arrive whole")
            os.chmod(path, 0o444)

    # ------------------------------------------------------------ the command

    def _command(self) -> Document:
        variables = box.image_variables()
        variables.update(self.call["environment"])
        variables.update(self.values)
        variables.update(HOME=self.scratch, TMPDIR=self.scratch)
        variables.setdefault("PATH", SEARCHED)
        box.adopt()
        argv = self.call["command"]
        become = box.becoming(self.user, self.job)
        self.log.begin()
        started_at, begun = time.time(), time.monotonic()
        try:
            process = subprocess.Popen(  # noqa: S603 - the entry's own command, without a shell
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=HERE if box.enterable(HERE) else "/",
                env=variables,
                start_new_session=True,
                umask=0o022,
                preexec_fn=become,  # noqa: PLW1509 - it makes system calls and nothing else
            )
        except OSError as error:
            self.log.add("e", f"theory: cannot run {argv[0]}: {error.strerror}\n".encode())
            missing = shutil.which(argv[0], path=variables["PATH"]) is None and not os.path.lexists(argv[0])
            return self._ended("exit", 127 if missing else 126, started_at, begun)
        streams = (("o", process.stdout), ("e", process.stderr))
        pumps = [self.log.pump(name, stream) for name, stream in streams if stream]
        over = threading.Event()
        status = []

        def wait() -> None:
            status.append(process.wait())
            over.set()

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        killed_before = box.oom_kills()
        how = self._watch(over, begun, process.pid)
        ended = self._ended(how, None, started_at, begun)
        box.kill_all(self.spared)
        waiter.join(PATIENCE_S)
        for pump in pumps:
            pump.join(PATIENCE_S)
        if how == "exit":
            code = status[0] if status else -signal.SIGKILL
            ended["exit_code"] = 128 - code if code < 0 else code
            if code == -signal.SIGKILL and box.oom_kills() > killed_before:
                ended.update(ended="oom", exit_code=None)
        return ended

    def _watch(self, over: threading.Event, begun: float, pid: int) -> str:
        most, deadline = self.call["memory"], begun + self.call["timeout"]
        while not over.wait(min(TICK_S, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                with suppress(OSError):
                    os.killpg(pid, signal.SIGTERM)
                over.wait(GRACE_S)
                return "timeout"
            if box.memory_of([pid for pid in box.descendants() if pid not in self.spared], most) > most:
                return "oom"
        return "exit"

    def _ended(self, how: str, code: int | None, started_at: float, begun: float) -> Document:
        return {
            "ended": how,
            "exit_code": code,
            "started_at": started_at,
            "duration_s": time.monotonic() - begun,
        }

    # ------------------------------------------------------------ after

    def _outputs(self) -> list[Document]:
        """What the command left, as it is: what is no regular file is told by its kind, and never opened.

        Beyond the limits of the call nothing more is listed: whoever reads the list refuses it then.
        """
        found: list[Document] = []
        limits, total = self.call["limits"], 0
        todo = [("", os.open(f"{self.job}/out", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW), 0)]
        while todo:
            prefix, folder, depth = todo.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    path, mode = prefix + entry.name, entry.stat(follow_symlinks=False)
                    one = {"path": path, "kind": box.kind_of(mode.st_mode)}
                    found.append(one)
                    if one["kind"] == "folder" and depth < limits["depth"]:
                        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                        todo.append((path + "/", os.open(entry.name, flags, dir_fd=folder), depth + 1))
                    elif one["kind"] == "link":
                        one["target"] = os.readlink(entry.name, dir_fd=folder)
                    elif one["kind"] == "file":
                        total += mode.st_size
                        one["size"] = mode.st_size
                    if len(found) > limits["files"] or total > limits["bytes"]:
                        todo, found = [], [*found[:-1], {**one, "beyond": True}]
                        break
            os.close(folder)
        if not any("beyond" in one for one in found):
            self._pack([one for one in found if one["kind"] == "file"])
        return found

    def _pack(self, files: list[Document]) -> None:
        room = INLINE_BYTES
        for number, one in enumerate(sorted(files, key=lambda one: one["size"])):
            path = f"{self.job}/out/{one['path']}"
            if one["size"] <= room:
                room -= one["size"]
                with open(path, "rb", opener=box.without_links) as file:
                    data = file.read(one["size"])
                one["size"], one["data"] = len(data), base64.b64encode(data).decode()
            else:
                one["volume"] = self.in_volume(f"out/{number}")
                one["size"], one["digest"] = box.copy(path, f"{VOLUME}/{one['volume']}")

    def in_volume(self, name: str) -> str:
        """The place of something in the volume, whose folder is made; a second delivery has other places."""
        place = f"{self.call['execution']}/{self.attempt.rpartition('.')[2]}/{name}"
        os.makedirs(os.path.dirname(f"{VOLUME}/{place}"), exist_ok=True)
        self.uses_volume = True
        return place

    def store(self, name: str, source: str) -> Document:
        """Put a file of ours into the volume."""
        place = self.in_volume(name)
        size, digest = box.copy(source, f"{VOLUME}/{place}")
        return {"volume": place, "size": size, "digest": digest}


class Log:
    """What a command writes: shown while it runs, kept whole for the answer; secrets are masked first."""

    def __init__(self, attempt: str, secrets: list[bytes]) -> None:
        self._attempt = attempt
        self._secrets = sorted(
            (value for value in secrets if len(value) >= LEAST_SECRET), key=len, reverse=True
        )
        self._lock = threading.Lock()
        self._number = self._shown = self._size = 0
        self._held = {"o": b"", "e": b""}
        self._path = f"{VOLUME_HOME if os.access(VOLUME_HOME, os.W_OK) else '/tmp'}/log-{attempt}"  # noqa: S108 - 0600
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b")

    def begin(self) -> None:
        """Say that the command starts."""
        self._line("b", b"")

    def pump(self, stream: str, pipe: IO[bytes]) -> threading.Thread:
        """Take what comes out of a pipe until its end."""

        def work() -> None:
            with pipe:
                while data := os.read(pipe.fileno(), PIECE):
                    self.add(stream, data)
                    if len(data) < PIECE // 2:
                        time.sleep(GATHER_S)
            self.add(stream, b"", last=True)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def add(self, stream: str, data: bytes, *, last: bool = False) -> None:
        """Take a portion; what may be the begin of a secret waits for the next one."""
        with self._lock:
            data = self._held[stream] + data
            for value in self._secrets:
                data = data.replace(value, MASK)
            held = 0 if last else max((_overlap(data, value) for value in self._secrets), default=0)
            self._held[stream] = data[len(data) - held :]
            if data := data[: len(data) - held]:
                self._line(stream, data)

    def told(self, job: Job) -> Document:
        """All of it, for the answer."""
        with self._lock:
            self._file.flush()
        if self._size <= INLINE_BYTES:
            with open(self._path, "rb") as file:
                return {"data": base64.b64encode(file.read()).decode()}
        return job.store("log", self._path)

    def close(self) -> None:
        """Remove it here."""
        self._file.close()
        os.unlink(self._path)

    def _line(self, stream: str, data: bytes) -> None:
        line = f"{self._number} {stream} {json.dumps(data.decode('utf-8', 'surrogateescape'))}\n"
        self._number += 1
        self._size += len(line)
        self._file.write(line.encode())
        if self._shown < LIVE_BYTES:
            self._shown += len(line)
            with suppress(OSError):
                os.write(1, f"{LIVE} {self._attempt} {line}".encode())


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o444)


def _overlap(data: bytes, value: bytes) -> int:
    """How many bytes at the end of the data may be the begin of the value."""
    most = min(len(data), len(value) - 1)
    return next((size for size in range(most, 0, -1) if data.endswith(value[:size])), 0)


def _volume(call: Document) -> Any:  # noqa: ANN401 - a modal.Volume, which is there only at Modal
    import modal  # noqa: PLC0415 - it is there already

    return modal.Volume.from_name(call["volume"], environment_name=call.get("environment_name"))


def _leave_after_this_call() -> None:
    """Ask Modal for another container for the next call: this one is not as it was."""
    if os.environ.get("MODAL_IS_REMOTE") != "1":
        return
    import modal.experimental  # noqa: PLC0415 - seldom

    modal.experimental.stop_fetching_inputs()

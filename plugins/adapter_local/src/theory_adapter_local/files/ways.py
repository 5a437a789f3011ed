"""How a job's files get into its container and back: by mounts where the engine sees them, else by copies."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from theory import errors
from theory_adapter_local.files.binds import Binds
from theory_adapter_local.files.probe import Sight, forget, sight_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from theory import Job, Json, JsonObject, Secrets, Workspace
    from theory_adapter_local.engine.client import Engine, Refused
    from theory_adapter_local.images.find import Ready
    from theory_adapter_local.options import Options

NOBODY = (65534, 65534)  # runs the command where we are root; every Linux distribution has it
SECRETS = "/run/secrets"
_IDS = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")


class Way(Protocol):
    """What brings the job's files there and back."""

    mounts: list[Json]
    has_hosts: bool  # whether one of them is a file of host names, so that the engine need not make one

    def stage(self, container: str) -> None:
        """Put in what the mounts do not show, before it starts."""

    def watch(self) -> None:
        """Look at what the outputs take while it runs."""

    def collect(self, container: str) -> None:
        """Leave in ``Workspace.out`` what the command left, readable for us."""


class SecretWay(Protocol):
    """What brings the secrets there."""

    mounts: list[Json]

    def stage(self, container: str) -> None:
        """Put in what the mounts do not show, before it starts."""

    def close(self) -> None:
        """Remove what was made for it here."""


class Person(NamedTuple):
    """Who runs the command."""

    user: str  # as ``create`` is given it; "": whom the image names
    ids: tuple[int, int] | None  # user and group, as files in the container have them; None: the image knows
    here: tuple[int, int] | None  # the same, as files on this machine have them; None: not to be mounted for


class Files:
    """The files of one run: its part of ``create``, then stage, watch, collect and, in any case, close."""

    def __init__(
        self,
        user: str,
        way: Way,
        artifacts: tuple[str, ...],
        secret_way: SecretWay | None = None,
        environment: Mapping[str, str] | None = None,
        other: Callable[[], Files] | None = None,
    ) -> None:
        """Take what is ready.

        Args:
            user: Who runs the command; "": whom the image names.
            way: For the job's files.
            artifacts: The paths of those that are links to the store's own bytes.
            secret_way: For its secrets, where they are to be files.
            environment: What the command finds its secrets by, or in.
            other: Makes the files for a container that cannot have these.
        """
        self.way = way
        self._artifacts = artifacts
        self.secret_way = secret_way
        self._other = other
        self.user = user
        self.host_config: JsonObject = {"Mounts": [*way.mounts, *(secret_way.mounts if secret_way else ())]}
        self.has_hosts = way.has_hosts
        self.environment = dict(environment or {})

    def stage(self, container: str) -> None:
        """Complete a container that is created and not started.

        Raises:
            Refused, Lost, DockerUnavailable: The engine did not take it.
            StoreFailed: A file to be sent was changed.
        """
        self.way.stage(container)
        if self.secret_way:
            self.secret_way.stage(container)

    def watch(self) -> None:
        """Look at what the outputs take; call it about once a second. Copies cannot be looked at.

        Raises:
            OutputLimit: They take more than ``output_size``, are too many or too deep, or fill the disk.
            Retry, StoreFailed: They cannot be looked at.
        """
        with _worded():
            self.way.watch()

    def collect(self, container: str) -> None:
        """Have the outputs in ``Workspace.out``; the container has stopped and is still there.

        What is no regular file or folder is there as what it is, for core to refuse; a device, which we
        could not make, is refused here in the same words.

        Raises:
            OutputLimit, BadOutputPath, DuplicateOutput: What the command left cannot be taken.
            StoreFailed: It cannot be written here.
            Retry: It did not arrive whole, or too many files are open.
            Refused, Lost, DockerUnavailable: The engine did not give it.
        """
        with _worded():
            self.way.collect(container)

    def close(self) -> None:
        """Remove what was made for the run beside its container, and let go of the store's bytes.

        A workspace that is hard to remove has its modes changed by whoever removes it; those of a blob must
        not change with them.
        """
        self._close_secrets()
        for path in self._artifacts:
            with suppress(OSError):
                os.unlink(path)

    def _close_secrets(self) -> None:
        if self.secret_way:
            self.secret_way.close()
            self.secret_way = None

    def instead(self, refused: Refused) -> Files | None:
        """The other way, where ``create`` or ``start`` was refused because of our mounts; None elsewhere.

        What was believed about this engine is forgotten. These files are closed then.
        """
        mounts = cast("list[dict[str, str]]", self.host_config["Mounts"])
        sources = [mount["Source"] for mount in mounts if "Source" in mount]  # a volume has none
        if self._other is None or not any(source in refused.message for source in sources):
            return None
        self._close_secrets()
        with _worded():
            return self._other()


def files_for(
    engine: Engine, ready: Ready, job: Job, workspace: Workspace, options: Options, secrets: Secrets
) -> Files:
    """The files of a job, by the fastest way that is right here.

    Args:
        engine: Asked only where it is not known yet what it sees.
        ready: The image of the container.
        job: Which files.
        workspace: Where they are.
        options: ``user``, ``keep`` and ``output_size`` count here.
        secrets: All that the command gets.

    Raises:
        Refused, Lost, DockerUnavailable: The engine does not do as it should.
        StoreFailed, Retry: A file cannot be written.
    """
    with _worded():
        return _files_for(engine, ready, job, workspace, options, secrets)


def _files_for(
    engine: Engine, ready: Ready, job: Job, workspace: Workspace, options: Options, secrets: Secrets
) -> Files:
    place = str(workspace.root.parent.parent)
    sight = sight_of(engine, ready.id, workspace.root, place, workspace.cache)
    person = person_of(sight, options.user, ready.user)
    mounted = sight.binds and not options.keep  # what is kept stays longer than the workspace
    as_variables = job.processor.secrets.deliver == "env"
    environment = dict(secrets) if as_variables else {f"{name}_FILE": f"{SECRETS}/{name}" for name in secrets}
    to_write = {} if as_variables else dict(secrets)

    def made(ids: tuple[int, int] | None, folder: Path | None) -> Files:
        secret_way = _secret_way(engine, to_write, person, folder) if to_write else None
        try:
            if ids is None:
                from theory_adapter_local.files.archives import Copies  # noqa: PLC0415 - not on the usual way

                way: Way = Copies(engine, job, workspace, person.ids, options.output_size)
            else:
                way = Binds(job, workspace, ids, options.output_size)
        except BaseException:
            if secret_way:
                secret_way.close()
            raise
        artifacts = tuple(f"{workspace.root}{artifact.path}" for artifact in job.artifacts)
        return Files(person.user, way, artifacts, secret_way, environment, copied_after_all)

    def copied_after_all() -> Files:
        for believed in (place, str(folder)):
            forget(engine, believed, workspace.cache)
        return made(None, None)

    folder = None
    if to_write and person.here:
        folder = _seen_folder(engine, ready.id, workspace.cache)
    return made(person.here if mounted else None, folder)


def _seen_folder(engine: Engine, image: str, cache: Path) -> Path | None:
    """A folder in memory that the engine sees."""
    from theory_adapter_local.files.secretfiles import folder_for_secrets  # noqa: PLC0415 - only where there are secrets

    folder = folder_for_secrets()
    return folder if folder and sight_of(engine, image, folder, str(folder), cache).binds else None


def _secret_way(engine: Engine, secrets: Mapping[str, str], person: Person, folder: Path | None) -> SecretWay:
    if folder and person.here:
        from theory_adapter_local.files.secretfiles import SecretFolder  # noqa: PLC0415 - only where there are secrets

        return SecretFolder(engine, folder, secrets, person.here)
    from theory_adapter_local.files.archives import SecretCopies  # noqa: PLC0415 - not on the usual way

    return SecretCopies(engine, secrets, person.ids)


@contextmanager
def _worded() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise errors.Retry(
                f"this process has too many files open: {error.strerror}",
                hint="allow more open files: ulimit -n 1024",
            ) from error
        raise errors.StoreFailed(
            f"cannot use {error.filename or 'the workspace'}: {error.strerror}",
            hint="free some space on its disk, or choose another one: THEORY_HOME",
        ) from error


def person_of(sight: Sight, asked: str | None, image_user: str) -> Person:
    """Who runs the command: we, or nobody where we are root, unless the options name somebody."""
    own = (os.geteuid(), os.getegid())
    ids: tuple[int, int] | None
    if asked is None:
        if sight.rootless and sight.binds:
            return Person("0:0", (0, 0), own)  # its root is we, and has no more rights than we have
        ids = NOBODY if own[0] == 0 else own
        user = f"{ids[0]}:{ids[1]}"
    else:
        user = image_user if asked == "image" else asked
        numbers = _IDS.fullmatch(user)
        ids = (int(numbers[1]), int(numbers[2])) if numbers else None
    here = ids if ids == own or own[0] == 0 else None
    return Person(user, ids, None if sight.rootless else here)

"""What a container is created with: as little of the machine as a command can live with.

Each line costs nothing: all of them together are within the noise of a start (measured 2026-11 with Engine
20.10, 15 starts each).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from theory import errors
from theory_adapter_local.container.mounts import check_sources, read_mounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theory import Job, Json, JsonObject
    from theory_adapter_local.engine.client import Engine
    from theory_adapter_local.files.ways import Files
    from theory_adapter_local.images.find import Ready
    from theory_adapter_local.options import Options

SCRATCH = "/tmp"  # noqa: S108 - the container's own
PIDS = 1024  # processes and threads; 256 are too few where a library starts one a core of the host
OPEN_FILES = 65536  # engines have a million by default, and some programs close as many one by one
MOST_SCRATCH = 1 << 30  # bytes of /tmp, and of /dev/shm
LOG_SIZE, LOG_FILES = "10m", "1"  # of the engine's own copy, which is there only to find lost output again
LEAST_NANO_CPUS = 10_000_000  # a hundredth of a core, below which the engine refuses
_MIB = 1 << 20


def create_config(
    job: Job, options: Options, engine: Engine, ready: Ready, files: Files, labels: Mapping[str, str]
) -> JsonObject:
    """The body of ``POST /containers/create``.

    Raises:
        BadAdapterOptions: A mount that would give the host away, or that is not there.
        Unsupported: The entry needs a GPU, which this engine would ignore.
    """
    check_sources(read_mounts(options.mounts), engine)
    command = job.processor.command
    environment = {**job.environment, "HOME": SCRATCH, "TMPDIR": SCRATCH, **files.environment}
    config: JsonObject = {
        "Image": ready.id,  # by its id: a tag may have moved since
        # One that is named differs from run to run, and with it what a program may write into an output.
        "Hostname": "theory",
        # Without "=": the engine adds this one by itself, and no processor is promised it.
        "Env": ["HOSTNAME", *(f"{name}={value}" for name, value in environment.items())],
        "Labels": dict(labels),
        # What an image checks every few seconds, it would check at our expense.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(job, options, engine, ready, files),
    }
    if not job.processor.runtime.network and files.has_hosts:
        # The kernel's own empty network, with a loopback and nothing else. What the engine makes for "none"
        # is the same, but it runs itself twice to make it: half of the time that a container takes to start.
        config["NetworkDisabled"] = True
    if files.user:
        config["User"] = files.user
    if command is not None:
        # As the entry point, so that neither the image's own nor its arguments are left.
        config["Entrypoint"] = list(command)
    return config


def fewer_cpus(config: JsonObject, refusal: str) -> int:
    """Ask for all the cores that there are, where more were refused; how many those are, or 0.

    So nobody has to ask the engine beforehand how many it has, which costs it 30 ms.
    """
    there_are = re.search(r"there are only (\d+) CPUs", refusal)
    if there_are is None:
        return 0
    cast("JsonObject", config["HostConfig"])["NanoCpus"] = int(there_are[1]) * 10**9
    return int(there_are[1])


def _host_config(job: Job, options: Options, engine: Engine, ready: Ready, files: Files) -> JsonObject:
    runtime = job.processor.runtime
    memory = runtime.memory * _MIB
    scratch = min(MOST_SCRATCH, memory // 2)
    largest = options.output_size * _MIB
    mounts: list[Json] = [
        # Never as "Binds": those create what is not there, as root.
        {
            "Type": "bind",
            "Source": source,
            "Target": target,
            "ReadOnly": True,
            # What is mounted below it would not be read-only before Engine 25.
            "BindOptions": {"NonRecursive": True},
        }
        for source, target in read_mounts(options.mounts)
    ]
    config: JsonObject = {
        **files.host_config,
        "NetworkMode": (options.network or "bridge") if runtime.network else "none",
        # It passes signals on and reaps; without it the command itself is process 1, which no signal ends
        # that it has no handler for, not even its own SIGSEGV.
        "Init": True,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",  # a daemon's default may be one that other containers can join
        "PidsLimit": PIDS,
        "Memory": memory,
        "MemorySwap": memory,  # of both together: no swap, which would only make the end come slowly
        "NanoCpus": max(LEAST_NANO_CPUS, int(runtime.cpu * 10**9)),
        # Both count as memory. The default of 64 MiB for /dev/shm stops PyTorch's data loaders.
        "ShmSize": scratch,
        # The engine's default is noexec, which breaks what compiles at run time. The volumes that an image
        # declares would be folders on the engine's disk, without a limit.
        "Tmpfs": dict.fromkeys(
            (SCRATCH, *volumes_of(ready, files)), f"rw,exec,nosuid,nodev,size={scratch},mode=1777"
        ),
        "Ulimits": [
            _ulimit("nofile", _open_files(engine)),
            _ulimit("core", 0),
            _ulimit("fsize", largest),  # a sparse file counts with its length
        ],
        # Without a limit a flood fills the host's disk; without any log, what was written while the
        # connection was lost could not be had again.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_SIZE, "max-file": LOG_FILES}},
        "AutoRemove": False,  # how it ended would be gone with it
        "RestartPolicy": {"Name": "no"},
        "Mounts": [*cast("list[Json]", files.host_config["Mounts"]), *mounts],
    }
    if options.runtime is not None:
        config["Runtime"] = options.runtime
    if runtime.gpu is not None:
        config["DeviceRequests"] = [_gpus(job, engine)]
    return config


def volumes_of(ready: Ready, files: Files) -> list[str]:
    """The volumes that the image declares, without those where something of ours is; they are empty."""
    ours = {SCRATCH, *(mount["Target"] for mount in cast("list[JsonObject]", files.host_config["Mounts"]))}
    return [path for path in ready.volumes if path.rstrip("/") not in ours]


def _ulimit(name: str, limit: int) -> JsonObject:
    return {"Name": name, "Soft": limit, "Hard": limit}


def _open_files(engine: Engine) -> int:
    """As many as there should be, but no more than a rootless engine, whose limit is ours, may grant."""
    if not engine.is_local:
        return OPEN_FILES
    import resource  # noqa: PLC0415 - not on every system

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


def _gpus(job: Job, engine: Engine) -> JsonObject:
    """The request for them; no engine knows their kinds, so a kind is any one of them."""
    gpu = str(job.processor.runtime.gpu)
    if engine.is_podman:  # it starts the command without one, and says nothing
        raise errors.Unsupported(
            f"{job.processor.ref} needs a gpu, which Podman does not give through Docker's interface",
            hint="use Docker, or --adapter modal",
        )
    count = -1 if gpu == "all" else int(gpu) if gpu.isdecimal() else 1
    return {"Driver": "", "Count": count, "Capabilities": [["gpu"]]}

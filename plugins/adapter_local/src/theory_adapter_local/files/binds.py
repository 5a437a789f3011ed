"""Files by bind mounts: the container works on our own folders, so nothing is copied."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from theory_adapter_local.files.tree import check_sizes, taken

if TYPE_CHECKING:
    from pathlib import Path

    from theory import Job, Json, Workspace

# What Docker gives a container that has the network ``none``.
_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_PAUSE_RATIO = 10  # looking at a large tree takes at most a tenth of the time


class Binds:
    """Mounts of a workspace.

    The artifacts are the store's own blobs under a second name, so they are mounted read-only and keep their
    modes and owners. ``out`` is a mount point, which nobody inside can move, remove or replace, and out of
    which nothing can be linked.

    Args:
        ids: The user and the group that the command runs as; where they are not ours, we are root.
        output_size: MiB that the outputs may take.
    """

    def __init__(self, job: Job, workspace: Workspace, ids: tuple[int, int], output_size: int) -> None:
        self._out = workspace.out
        self._output_size = output_size
        self._next_look = 0.0
        if ids != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
            os.chown(workspace.out, *ids)
        os.chmod(workspace.inputs, 0o444)
        self.mounts: list[Json] = [
            mount(workspace.inputs, "/job/inputs.json", read_only=True),
            mount(workspace.out, "/job/out", read_only=False),
        ]
        self.has_hosts = not job.processor.runtime.network
        if self.has_hosts:
            hosts = workspace.root / "hosts"
            hosts.write_text(_HOSTS, "ascii")
            os.chmod(hosts, 0o444)
            self.mounts.append(mount(hosts, "/etc/hosts", read_only=True))
        if job.artifacts:
            for folder in sorted({above for artifact in job.artifacts for above in _above(artifact.path)}):
                os.chmod(f"{workspace.root}/{folder}", 0o755)  # noqa: S103 - below a private one
            self.mounts.append(mount(workspace.root / "artifacts", "/artifacts", read_only=True))

    def stage(self, container: str) -> None:
        """Nothing: it is all there."""

    def watch(self) -> None:
        """Look at what the outputs take; call it about once a second.

        Raises:
            OutputLimit: They take more than they may.
        """
        began = time.monotonic()
        if began >= self._next_look:
            taken(self._out, self._output_size)
            ended = time.monotonic()
            self._next_look = ended + _PAUSE_RATIO * (ended - began)

    def collect(self, container: str) -> None:  # noqa: ARG002 - the other way fetches from it
        """Check what is there and make it readable; the container has stopped.

        Raises:
            OutputLimit: It is more than it may be.
        """
        check_sizes(self._out, self._output_size)


def mount(source: Path | str, target: str, *, read_only: bool) -> Json:
    """A bind mount that shows what is at ``source`` now, and nothing that is mounted there later."""
    return {
        "Type": "bind",
        "Source": str(source),
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _above(path: str) -> list[str]:
    """The folders of an artifact below the workspace's root."""
    parts = path.strip("/").split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]

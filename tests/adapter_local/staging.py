"""Jobs and workspaces as core lays them out, and containers that use them, with nothing else around."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from theory import Artifact, Image, Job, Processor, Ref, Secrets, Workspace, cid_of
from theory.errors import TheoryError
from theory.rooms.outputs import check_outputs
from theory.rooms.redact import Redactor
from theory.store.filestore import FileStore
from theory.types import ImageSource, Runtime, SecretNeeds
from theory_adapter_local.files.ways import Files, files_for
from theory_adapter_local.images.find import Ready
from theory_adapter_local.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from theory_adapter_local.engine.client import Engine

LABEL = {"theory.test": "files"}
PREFIX = "/artifacts/outputs/"


class Bed(NamedTuple):
    """One execution."""

    engine: Engine
    ready: Ready
    job: Job
    workspace: Workspace

    def files(self, secrets: Mapping[str, str] | None = None, **options: Any) -> Files:
        """What the adapter would use."""
        chosen = replace(Options(), **options)
        return files_for(self.engine, self.ready, self.job, self.workspace, chosen, Secrets(secrets))


def bed(
    engine: Engine, image: str, folder: Path, inputs: Mapping[str, bytes] | None = None, **fields: object
) -> Bed:
    """An execution in a folder; ``inputs`` are files by world path, which are links to "blobs" beside it."""
    processor = Processor(
        ref=Ref("test", "files", 1),
        description="",
        image=ImageSource(oci=image),
        command=("true",),
        runtime=Runtime(),
        adapter={},
        secrets=SecretNeeds(),
        determinism="pure",
        reserve_micro_usd=0,
        inputs={},
        outputs={},
        folder=folder,
        cid=cid_of(b""),
        tree=cid_of(b""),
    )
    processor = replace(processor, **fields)  # type: ignore[arg-type]  # tests name real fields
    execution_id = str(uuid.uuid4())
    own = folder / "state" / execution_id
    workspace = Workspace(own / "work", own / "adapter", folder / "cache")
    workspace.out.mkdir(parents=True, mode=0o700)
    workspace.inputs.write_bytes(b'{"n":1}')
    (folder / "blobs").mkdir(exist_ok=True)
    artifacts = []
    for path, content in (inputs or {}).items():
        blob = folder / "blobs" / cid_of(content)
        blob.write_bytes(content)
        blob.chmod(0o444)
        name = workspace.root / path.lstrip("/")
        name.parent.mkdir(parents=True, exist_ok=True)
        os.link(blob, name)
        artifacts.append(Artifact(path, cid_of(content), len(content), "application/octet-stream"))
    known = Image(id="here:" + image, digest=None, platform="linux/amd64")
    job = Job(
        execution_id=execution_id,
        processor=processor,
        image=known,
        inputs={"n": 1},
        artifacts=tuple(artifacts),
        seed=0,
        memo_key=cid_of(b""),
        environment={},
    )
    return Bed(engine, Ready(image, known, "", ()), job, workspace)


@contextmanager
def created(
    engine: Engine, image: str, files: Files | None, script: str = "true", **host: object
) -> Iterator[str]:
    """A container that is not started yet, as closed as the adapter makes them; removed in the end."""
    mounts = files.host_config["Mounts"] if files else []
    config = {
        "Image": image,
        "User": files.user if files else "",
        "Env": [f"{name}={value}" for name, value in (files.environment if files else {}).items()],
        "Cmd": ["sh", "-c", script],
        "Labels": LABEL,
        "NetworkDisabled": True,
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Mounts": mounts,
            **host,
        },
    }
    container = engine.call("POST", "/containers/create", body=config)["Id"]  # type: ignore[arg-type]
    try:
        if files:
            files.stage(container)
        yield container
    finally:
        engine.call("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"})


def run(engine: Engine, container: str) -> str:
    """Run a container to its end: all that it wrote."""
    attached = engine.attach(container)
    try:
        engine.call("POST", f"/containers/{container}/start")
        return b"".join(data for _, data in attached.frames()).decode(errors="replace")
    finally:
        attached.close()
        engine.call("POST", f"/containers/{container}/wait", timeout_s=60)


def answer(processor: Processor, out: Path, store: Path) -> dict[str, str] | str:
    """What core makes of the collected outputs: cids by path, or the code of its error."""
    try:
        found = check_outputs(processor, out, PREFIX, FileStore(store), Redactor(()), cancelled=lambda: False)
    except TheoryError as error:
        return error.code
    return {artifact.path.removeprefix(PREFIX): artifact.cid for artifact in found.artifacts}

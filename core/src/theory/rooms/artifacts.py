"""Room 4: attachments and artifact references become blobs in the store and files in the workspace."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from theory.disk import durable
from theory.disk.pipes import Pipe
from theory.errors import ArtifactNotFound, AttachmentNotFound, BadInputs, Retry, StoreFailed, Unsupported
from theory.formats import paths
from theory.formats.canon import canonical
from theory.formats.mime import mime_of
from theory.store import blobs
from theory.types import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from theory.rooms.inputs import Attachment, Inputs, Reference
    from theory.types import AdapterInfo, Job, JsonObject, Staged, Store, Workspace


def materialize(
    inputs: Inputs,
    store: Store,
    *,
    fetch: Callable[[str, Path], Path | None],
    lookup: Callable[[str], Artifact | None],
    cancelled: Callable[[], bool],
) -> tuple[JsonObject, tuple[Artifact, ...]]:
    """The inputs as the processor will see them, and their files, which are durable in the store.

    Args:
        inputs: What was checked.
        store: Where the bytes go, hashed in the one pass that reads them.
        fetch: Brings the bytes of a URI into a file; None when nobody knows its scheme.
        lookup: The artifact that a world path names.
        cancelled: Asked while large files stream.

    Raises:
        AttachmentNotFound, ArtifactNotFound, BadInputs: Which one, and where.
        Retry: An attachment was changed while it was read.
        StoreFailed: The store takes no more.
        Interrupted: ``cancelled`` said so.
    """
    found: dict[Attachment | Reference, Artifact] = {}
    with blobs.Batch(store) as batch:
        for attachment in inputs.attachments:
            blob = batch.add(_staged(attachment, store, fetch, cancelled))
            found[attachment] = _artifact(blob.cid, attachment.basename, blob.size_bytes)
        batch.put()
    for reference in inputs.references:
        found[reference] = _referred(reference, store, lookup)
    return inputs.with_artifacts(found), tuple(sorted(set(found.values())))


def lay_out(
    job: Job,
    workspace: Workspace,
    store: Store,
    info: AdapterInfo,
    *,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Make the workspace complete: the inputs, and each input file at its world path, read-only and verified.

    An adapter that pretends reads no file of it, so it gets none. One that isolates gets the store's own file
    where a link can be made: no command can write to it there, so a large file costs no copy. One without
    folders has nothing to be laid out.

    Raises:
        Unsupported: There are files, and an adapter that does not pretend has no folder for them.
        Damaged: The store's copy is not what its cid says.
        StoreFailed: The workspace cannot be written.
        Interrupted: ``cancelled`` said so.
    """
    if not info.folders:
        if job.artifacts and not info.pretends:
            raise Unsupported(
                f"{job.processor.ref} is given a file, and the adapter makes no folder to put it in",
                hint="take another adapter: theory adapters ls",
            )
        return
    folders: set[str] = set()
    isolates = "isolation" in info.offers
    try:
        workspace.inputs.write_bytes(canonical(job.inputs))
        if info.pretends:
            return
        workspace.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        for artifact in job.artifacts:
            target = f"{workspace.root}{artifact.path}"
            folder = os.path.dirname(target)
            if folder not in folders:
                os.makedirs(folder, exist_ok=True)
                folders.add(folder)
            if not (isolates and blobs.link(store, artifact.cid, target, cancelled=cancelled)):
                blobs.clone(store, artifact.cid, target, mode=0o444, cancelled=cancelled)
    except OSError as error:
        raise durable.refusal(
            StoreFailed, f"cannot write to the workspace {workspace.root}", error
        ) from error


def _artifact(cid: str, basename: str, size_bytes: int) -> Artifact:
    return Artifact(f"{paths.INPUTS}{cid}/{basename}", cid, size_bytes, mime_of(basename))


def _staged(
    attachment: Attachment,
    store: Store,
    fetch: Callable[[str, Path], Path | None],
    cancelled: Callable[[], bool],
) -> Staged:
    if attachment.source == "-":
        return _from_descriptor(0, "standard input", store, cancelled)
    if paths.URI.match(attachment.source):
        dest = store.staging / f"fetched-{os.urandom(16).hex()}"
        try:
            file = fetch(attachment.source, dest)
            if file is None:
                raise AttachmentNotFound(
                    f"no plugin fetches {paths.printable(paths.without_credentials(attachment.source))}",
                    hint="download it first, or install a fetcher for this scheme",
                )
            return _from_file(file, attachment.source, store, cancelled)
        finally:
            dest.unlink(missing_ok=True)
    return _from_file(Path(attachment.source), attachment.source, store, cancelled)


def _from_file(file: Path, source: str, store: Store, cancelled: Callable[[], bool]) -> Staged:
    shown = paths.printable(paths.without_credentials(source))
    try:
        # Without O_NONBLOCK, opening a named pipe that nobody writes to would hang for good.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise AttachmentNotFound(f"Attachment file not found: {shown}", hint="check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AttachmentNotFound(
            f"Attachment file {shown} cannot be read: {reason}",
            hint=durable.remedy(error, "check the file"),
        ) from None
    try:
        return _from_descriptor(descriptor, shown, store, cancelled)
    finally:
        durable.close(descriptor)


def _from_descriptor(descriptor: int, shown: str, store: Store, cancelled: Callable[[], bool]) -> Staged:
    try:
        found = os.fstat(descriptor)
        kind = found.st_mode
        if stat.S_ISREG(kind):
            blob = blobs.stage(store, descriptor, cancelled=cancelled)
            if _stamp(os.fstat(descriptor)) != _stamp(found):
                if blob.path is not None:
                    durable.discard(blob.path)
                raise Retry(
                    f"Attachment {shown} was changed while it was read",
                    hint="run it again when nothing writes to this file, or attach a copy",
                )
            return blob
        if stat.S_ISDIR(kind):
            raise AttachmentNotFound(
                f"Attachment {shown} is a directory", hint="attach a file, or an archive of it"
            )
        if stat.S_ISBLK(kind) or (stat.S_ISCHR(kind) and not os.isatty(descriptor)):
            raise AttachmentNotFound(
                f"Attachment {shown} is a device", hint="attach a regular file or a pipe"
            )
        with io.BufferedReader(Pipe(descriptor, cancelled)) as stream:
            return blobs.stage(store, stream, cancelled=cancelled)
    except OSError as error:
        raise AttachmentNotFound(
            f"Attachment file {shown} cannot be read: {error.strerror or error}",
            hint=durable.remedy(error, "check the file"),
        ) from None


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    """What every write to a file changes."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _referred(reference: Reference, store: Store, lookup: Callable[[str], Artifact | None]) -> Artifact:
    shown = paths.printable(reference.path)
    artifact = lookup(reference.path)
    if artifact is None:
        raise ArtifactNotFound(f"no artifact is called {shown}", hint="theory ls shows what there is")
    if reference.cid not in (None, artifact.cid):
        raise BadInputs(
            f"the artifact {shown} is {artifact.cid}, not {reference.cid}",
            hint="leave cid out to take what it is now",
        )
    if not _is_here(store, artifact.cid):
        raise ArtifactNotFound(
            f"the bytes of {shown} are gone from the store", hint="run again what made them"
        )
    return _artifact(artifact.cid, reference.path.rpartition("/")[2], artifact.size_bytes)


def _is_here(store: Store, cid: str) -> bool:
    """Whether a blob is here; one that is in the trash is put again, so that it stays while we need it."""
    if store.has([cid]):
        return True
    try:
        with blobs.read_verified(store, cid) as stream:
            store.put([blobs.stage(store, stream)])
    except ArtifactNotFound:
        return False
    return True

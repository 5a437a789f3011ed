"""``theory ls``, ``show``, ``cat`` and ``get``: what was made, by whom, and its bytes."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from theory.cli.options import settings_of, store_option
from theory.cli.show import answer, standard_output, table
from theory.errors import ArtifactNotFound, Usage
from theory.formats import paths
from theory.formats.canon import CID, MAX_INTEGER
from theory.formats.mime import DEFAULT
from theory.formats.money import usd
from theory.run import Runner
from theory.store import blobs
from theory.types import Artifact

if TYPE_CHECKING:
    from theory.ledger import Record


@click.command()
@click.argument("prefix", required=False)
@click.option("--plan", metavar="KEY", help="Only executions of this plan.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_INTEGER),
    default=20,
    show_default=True,
    help="At most so many executions.",
)
def ls(prefix: str | None, plan: str | None, limit: int) -> None:
    """List executions, or the artifacts below a world path.

    Without PREFIX: the executions that closed last, the newest first (when, id, ref, adapter, status, cost).
    With it: size, cid and path of every artifact whose path begins so.
    """
    if prefix is not None and not (prefix.startswith(paths.ROOT) or paths.ROOT.startswith(prefix)):
        raise Usage(
            f"{paths.quoted(prefix)} is not the beginning of a world path", hint=f"theory ls {paths.ROOT}"
        )
    with Runner() as runner:
        if prefix is None:
            records = runner.ledger.executions(limit=limit, plan=plan)
            table(map(_row, records), ("when", "execution", "ref", "adapter", "status", "cost"))
            return
        found = runner.ledger.names(prefix)
        table(((str(a.size_bytes), a.cid, a.path) for a in found), ("bytes", "cid", "path"))


@click.command()
@click.argument("execution_id", metavar="ID")
@store_option
def show(execution_id: str, store: str | None) -> None:
    """Print all that is recorded of an execution.

    One JSON document: the execution's record with the cids of all that a replay needs, and its envelope.
    """
    from theory.formats import wire  # noqa: PLC0415 - not for its neighbours

    with Runner(settings_of(store)) as runner:
        record = runner.ledger.execution(execution_id)
        envelope = runner.stored_envelope(execution_id)
        if record is None or envelope is None:
            raise ArtifactNotFound(
                f"no execution is called {paths.quoted(execution_id)}",
                hint="theory ls shows those that there are",
            )
        document = {
            "execution_id": record.execution_id,
            "ref": record.ref,
            "adapter": record.adapter,
            "plan": record.plan,
            "kind": record.kind,
            "started_at": _moment(record.started_at),
            "closed_at": _moment(record.closed_at),
            "cost_micro_usd": record.actual_micro_usd,
            "cost_estimated": record.estimated,
            "memo_key": record.memo_key,
            "source_execution_id": record.source_execution_id,
            "blobs": dict(record.blobs),
            "envelope": wire.envelope_document(envelope),
        }
    answer(document, as_json=False)


@click.command()
@click.argument("path")
@store_option
def cat(path: str, store: str | None) -> None:
    """Write the bytes of an artifact to standard output.

    PATH is a world path, or a cid. The content is compared with its cid before the first byte is written.
    """
    with Runner(settings_of(store)) as runner:
        cid = _found(runner, path).cid
        blobs.verify(runner.store, cid)  # a pipe takes back nothing
        with standard_output() as stream:
            blobs.copy_verified(runner.store, cid, stream)


@click.command()
@click.argument("artifacts", metavar="PATH...", nargs=-1, required=True)
@click.option("--to", "folder", metavar="DIR", default=".", show_default=True, help="Folder for the files.")
@store_option
def get(artifacts: tuple[str, ...], folder: str, store: str | None) -> None:
    """Copy artifacts to files.

    PATH is a world path, or a cid; the file is called as the last part of it. It replaces one that is there.
    """
    from theory.rooms import save  # noqa: PLC0415 - not for its neighbours

    names: dict[str, str] = {}
    for path in artifacts:
        name = path.rpartition("/")[2]
        if names.setdefault(name, path) != path:
            both = f"{paths.quoted(names[name])} and {paths.quoted(path)}"
            raise Usage(
                f"{both} would both become {paths.quoted(name)}",
                hint="copy them to two folders: --to DIR",
            )
    if not os.path.isdir(folder):
        raise Usage(f"--to {paths.quoted(folder)} is not a folder", hint="make it, or name another one")
    with Runner(settings_of(store)) as runner:
        found = [(_found(runner, path), Path(folder, name)) for name, path in names.items()]
        for artifact, file in found:
            save.save_one(runner.store, artifact, file)


def _found(runner: Runner, path: str) -> Artifact:
    if CID.fullmatch(path):
        return Artifact(path, path, 0, DEFAULT)
    artifact = runner.ledger.name(path)
    if artifact is None:
        folder = path.rpartition("/")[0] + "/"
        below = paths.ROOT if paths.fault_of_path(folder[:-1]) else folder
        raise ArtifactNotFound(f"no artifact is called {paths.quoted(path)}", hint=f"theory ls {below}")
    return artifact


def _row(record: Record) -> tuple[str, ...]:
    return (
        _moment(record.closed_at),
        record.execution_id,
        record.ref,
        record.adapter,
        record.kind.removeprefix("execution."),
        usd(record.actual_micro_usd),
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

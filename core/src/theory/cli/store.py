"""``theory verify``, ``gc`` and ``keep``: whether the home is whole, and what of it may go."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import click

from theory.cli.options import settings_of, store_option
from theory.cli.show import answer, say, table, tell
from theory.errors import IntegrityFault, Usage
from theory.formats.canon import MAX_INTEGER
from theory.formats.paths import quoted
from theory.run import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from theory.upkeep.verify import Fault, Report

_WORTH_BYTES = 16 * 1024 * 1024  # of unused pages, to speak of
_SHOWN = 5  # of the paths and executions of one fault; --json has them all
_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")


class Duration(click.ParamType):  # type: ignore[type-arg]  # of click 8.3 and later
    """A number with a unit: seconds of a text such as ``90m``."""

    name = "duration"
    _text = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw])|0")
    _seconds: ClassVar = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click calls it so
        """The seconds."""
        found = self._text.fullmatch(str(value))
        if found is None:
            self.fail(f"{quoted(str(value))} is not a duration such as 90s, 30m, 12h, 30d or 2w", param, ctx)
        return float(found[1]) * self._seconds[found[2]] if found[1] else 0.0


@click.command()
@click.option(
    "--full/--quick",
    default=True,
    help="Read and hash every byte, or only look at what is there and how large.  [default: --full]",
)
@click.option("--repair", is_flag=True, help="Move what is damaged to the store's folder quarantine.")
@_json
@store_option
def verify(*, full: bool, repair: bool, as_json: bool, store: str | None) -> int:
    """Check that every blob and record is whole.

    Names each blob, memo record and ledger line that is damaged or missing, and the world paths, executions
    and memo keys that it affects. Exit status 3 if anything is wrong.

    --repair deletes nothing: what is damaged goes to the quarantine, and memo records that lean on it are
    forgotten, so that a later run makes again what can be computed again.
    """
    from theory.upkeep.gc import upkeep_of  # noqa: PLC0415 - not for its neighbours
    from theory.upkeep.repair import repair as repair_store  # noqa: PLC0415 - not for its neighbours
    from theory.upkeep.verify import verify as verify_home  # noqa: PLC0415 - as above

    with Runner(settings_of(store)) as runner:
        report = verify_home(runner.store, runner.ledger, runner.upkeep, full=full)
        moved = {}
        if repair and report.faults:
            with upkeep_of(runner) as folder:
                moved = repair_store(folder, report)
    if as_json:
        answer(_document(report, moved), as_json=True)
    else:
        tell(line for fault in report.faults for line in _lines(fault))
        tell(f"moved {what} to {place}" for what, place in moved.items())
        tell([_looked_at(report)])
    if report.faults:
        can_be_moved = not repair and any(fault.fault == "damaged" for fault in report.faults)
        say("Hint: " + ("theory verify --repair" if can_be_moved else "run again what made it"))
    return IntegrityFault.exit_code if report.faults else 0


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--keep-last",
    type=click.IntRange(0, MAX_INTEGER),
    metavar="N",
    help="Give up the files of all executions but the last N of each processor.",
)
@click.option(
    "--older-than",
    type=Duration(),
    metavar="DURATION",
    help="Give up the files of executions closed longer ago, such as 30d; with --keep-last, only of these.",
)
@click.option(
    "--grace",
    type=Duration(),
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long things stay in the trash; 0 deletes now what nobody can be using.",
)
@click.option("--undo", is_flag=True, help="Put back all that is in the trash.")
@click.option("--compact", is_flag=True, help="Afterwards, give unused pages of small.db back to the disk.")
@_json
@store_option
def gc(
    *,
    dry_run: bool,
    keep_last: int | None,
    older_than: float | None,
    grace: float,
    undo: bool,
    compact: bool,
    as_json: bool,
    store: str | None,
) -> None:
    """Move to the trash what nothing needs, and empty it.

    What has been in the trash for the grace time is deleted; until then --undo puts it back.

    Needed is what a closed execution, a name, a memo record or a pin (theory keep) names. An execution that
    gives up its files stays in the ledger, with its envelope. It is safe beside runs, and may be interrupted.
    """
    from theory.upkeep import gc as collector  # noqa: PLC0415 - not for its neighbours

    if undo and (dry_run or compact or keep_last is not None or older_than is not None):
        raise Usage("--undo stands alone", hint="theory gc --undo")
    with Runner(settings_of(store)) as runner:
        if undo:
            freed = collector.undo(runner)
        else:
            policy = collector.Policy(keep_last, older_than)
            freed = collector.collect(runner, policy=policy, grace_s=grace, dry_run=dry_run)
        compacted = collector.compact(runner) if compact and not dry_run else 0
    numbers: dict[str, int] = {name: getattr(freed, name) for name in freed.__match_args__}
    if as_json:
        done = "undone" if undo else "looked" if dry_run else "collected"
        answer({"status": done, **numbers, "compacted_bytes": compacted}, as_json=True)
        return
    would = "would be " if dry_run else ""
    tell(
        line
        for line, count in (
            (f"executions taken back: {freed.executions:,}", undo and freed.executions),
            (
                f"executions that {'would give' if dry_run else 'gave'} up their files: {freed.executions:,}",
                not undo and freed.executions,
            ),
            (f"{would}put back: {freed.restored_blobs:,} blobs", freed.restored_blobs),
            (f"{would}moved to the trash: {_blobs(freed.trashed_blobs, freed.trashed_bytes)}", not undo),
            (
                f"memo records {would}{'put back' if undo else 'forgotten'}: {freed.trashed_memo:,}",
                freed.trashed_memo,
            ),
            (f"{would}deleted: {_blobs(freed.freed_blobs, freed.freed_bytes)}", not undo),
            (f"temporary files removed: {freed.temporary_files:,}", freed.temporary_files),
            (f"folders of dead executions removed: {freed.states:,}", freed.states),
            (f"in the trash: {_blobs(freed.trash_blobs, freed.trash_bytes)}", freed.trash_blobs),
            (f"given back to the disk: {compacted:,} bytes", compacted),
        )
        if count
    )
    if freed.unused_bytes > _WORTH_BYTES and not compact:
        say(f"Hint: {freed.unused_bytes:,} bytes of small.db wait for later blobs; --compact gives them back")


@click.command()
@click.argument("what", metavar="[ID|PATH]", required=False)
@click.option("--drop", is_flag=True, help="Take the pin away.")
@store_option
def keep(what: str | None, *, drop: bool, store: str | None) -> None:
    """Pin an execution or an artifact, or list the pins.

    What is pinned, theory gc leaves alone. An ID keeps all files of the execution; a PATH (a world path or a
    cid) is pinned to the content that it has now.
    """
    from theory.upkeep import pins  # noqa: PLC0415 - not for its neighbours

    with Runner(settings_of(store)) as runner:
        if what is None:
            if drop:
                raise Usage("--drop needs an ID or a PATH", hint="theory keep lists the pins")
            table(((pin.what, pin.cid or "") for pin in runner.upkeep.pins()), ("what", "cid"))
        elif drop:
            pins.drop(runner, what)
        else:
            pins.pin(runner, what)


def _blobs(count: int, size_bytes: int) -> str:
    return f"{count:,} {'blob' if count == 1 else 'blobs'}, {size_bytes:,} bytes"


def _document(report: Report, moved: Mapping[str, str]) -> dict[str, Any]:
    return {
        "status": "damaged" if report.faults else "whole",
        "mode": report.mode,
        "blobs": report.blobs,
        "size_bytes": report.size_bytes,
        "memo_records": report.memo_records,
        "executions": report.executions,
        "faults": [
            {
                "kind": fault.kind,
                "what": fault.what,
                "fault": fault.fault,
                "message": fault.message,
                "roles": list(fault.roles),
                "paths": list(fault.paths),
                "executions": list(fault.executions),
                "memo_keys": list(fault.memo_keys),
            }
            for fault in report.faults
        ],
        "quarantine": dict(moved),
    }


def _lines(fault: Fault) -> Iterator[str]:
    yield fault.message
    for noun, affected in (
        ("is", fault.roles),
        ("path", fault.paths),
        ("execution", fault.executions),
        ("memo key", fault.memo_keys),
    ):
        if affected:
            more = f" and {len(affected) - _SHOWN:,} more" if len(affected) > _SHOWN else ""
            yield f"  {noun} {', '.join(affected[:_SHOWN])}{more}"


def _looked_at(report: Report) -> str:
    count = len(report.faults)
    state = f"{count:,} {'fault' if count == 1 else 'faults'}" if count else "whole"
    return (
        f"{state}: {report.blobs:,} blobs ({report.size_bytes:,} bytes),"
        f" {report.memo_records:,} memo records, {report.executions:,} executions"
    )

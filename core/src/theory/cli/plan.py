"""``theory plan``: budgets."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from theory.cli.options import refuse_empty
from theory.cli.show import answer, say, table
from theory.errors import Damaged, LedgerFailed, Usage
from theory.formats.canon import MAX_JSON_BYTES
from theory.formats.money import micro_usd, usd
from theory.formats.paths import quoted, spelled_out
from theory.ledger.audit import Checkpoint, audit
from theory.ledger.audit import checkpoint as make_checkpoint
from theory.ledger.report import report as make_report
from theory.run import Runner

if TYPE_CHECKING:
    from theory.ledger import PlanState
    from theory.ledger.report import Line


@click.group()
def plan() -> None:
    """Budgets: create, limit, look at and check plans."""


@plan.command()
@click.argument("key")
@click.option("--limit", metavar="USD", help="What may be spent in all.  [default: no limit, tracking only]")
def create(key: str, limit: str | None) -> None:
    """Create the plan KEY."""
    with Runner() as runner:
        runner.ledger.create_plan(key, _amount(limit))
    say(f"created plan {key} with {'no limit' if limit is None else f'a limit of {limit} USD'}")


@plan.command(context_settings={"ignore_unknown_options": True})  # -1 is an amount, and a wrong one
@click.argument("key")
@click.argument("amount", metavar="USD")
def limit(key: str, amount: str) -> None:
    """Set what may be spent on the plan KEY in all; "none" takes the limit away."""
    with Runner() as runner:
        runner.ledger.set_limit(key, None if amount == "none" else _amount(amount))


@plan.command()
def ls() -> None:
    """List all plans: key, limit, reserved and spent in USD."""
    with Runner() as runner:
        _close_the_dead(runner)
        table(map(_row, runner.ledger.plans()), ("plan", "limit", "reserved", "spent"))


@plan.command()
@click.argument("key")
def show(key: str) -> None:
    """Print one plan as JSON; amounts are millionths of a US dollar."""
    with Runner() as runner:
        _close_the_dead(runner)
        state = runner.ledger.plan(key)
    document = {
        "key": state.key,
        "limit_micro_usd": state.limit_micro_usd,
        "reserved_micro_usd": state.reserved_micro_usd,
        "spent_micro_usd": state.spent_micro_usd,
        "events": state.events,
        "head": state.head,
    }
    answer(document, as_json=False)


@plan.command()
@click.argument("key", required=False)
@click.option(
    "--against",
    metavar="CHECKPOINT",
    help="A checkpoint made earlier: a file, the JSON itself, or - for standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, errors included.")
def verify(key: str | None, against: str | None, as_json: bool) -> int:  # noqa: FBT001 - as click calls it
    """Check the ledger: every event of the plan KEY, or of all plans.

    Each event has its hash and follows the one before it; plans, reservations and names are what the events
    say. Who changes the end of a chain as well is found with --against a checkpoint that was kept elsewhere.
    The exit status is 3 if anything is wrong.
    """
    refuse_empty({"key": key, "against": against})
    kept = None if against is None else _checkpoint(against)
    with Runner() as runner:
        found = audit(runner.ledger.read, key, kept)
    if as_json:
        plans = [{"key": plan.key, "events": plan.events, "head": plan.head} for plan in found.plans]
        told = {"status": "damaged" if found.faults else "whole", "faults": list(found.faults)}
        answer({**told, "plans": plans, "events": found.events, "names": found.names}, as_json=True)
        return Damaged.exit_code if found.faults else 0
    if found.faults:
        for fault in found.faults[1:]:
            say(f"Also: {spelled_out(fault)}")
        raise Damaged(found.faults[0], hint="put back a copy of ledger.db that is whole")
    table(
        ((plan.key, f"{plan.events}", "whole", plan.head) for plan in found.plans),
        ("plan", "events", "state", "head"),
    )
    return 0


@plan.command()
@click.argument("key", required=False)
def checkpoint(key: str | None) -> None:
    """Print where the chain of the plan KEY, or of every plan, ends now, as one line of JSON.

    Keep it where who writes the ledger cannot: theory plan verify --against it finds a chain that was cut off
    or written anew since.
    """
    refuse_empty({"key": key})
    with Runner() as runner:
        found = make_checkpoint(runner.ledger.read, key)
    answer(found.document(), as_json=True)


@plan.command()
def reconcile() -> None:
    """Close the reservations of processes that have died, and say which: execution, plan and USD.

    Each is charged in full and marked as estimated, since it may have been spent. Every run does so as it
    begins.
    """
    with Runner() as runner:
        closed = runner.ledger.close_the_dead()
    table(
        ((hold.execution_id, hold.plan, usd(hold.amount)) for hold in closed),
        ("execution", "plan", "charged"),
    )


@plan.command()
@click.argument("key", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, errors included.")
def report(key: str | None, as_json: bool) -> None:  # noqa: FBT001 - as click calls it
    """Add up what the plan KEY, or every plan, was spent on: in all, by ref and by day (UTC).

    Executions, failures, memo hits, USD spent, USD saved by the memo, settlements above their reservation and
    by how many USD.
    """
    refuse_empty({"key": key})
    with Runner() as runner:
        _close_the_dead(runner)
        found = make_report(runner.ledger.read, key)
    if as_json:
        answer({"plan": key, **found.document()}, as_json=True)
        return
    lines = {"total": found.total, **found.by_ref, **found.by_day}
    heading = ("of", "executions", "failures", "hits", "spent", "saved", "overruns", "over")
    table((_line(what, line) for what, line in lines.items()), heading)


def _line(what: str, line: Line) -> tuple[str, ...]:
    counts = str(line.executions), str(line.failures), str(line.hits)
    return what, *counts, usd(line.spent), usd(line.saved), str(line.overruns), usd(line.over)


def _checkpoint(text: str) -> Checkpoint:
    if text.lstrip().startswith("{"):
        return Checkpoint.parse(text)
    try:
        with open(0 if text == "-" else text, "rb", closefd=text != "-") as file:
            return Checkpoint.parse(file.read(MAX_JSON_BYTES + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Usage(
            f"the checkpoint {quoted(text)} cannot be read: {reason}",
            hint="theory plan checkpoint > FILE makes one",
        ) from None


def _close_the_dead(runner: Runner) -> None:
    """What a killed run still holds is closed before it is shown, where the home can be written."""
    with suppress(LedgerFailed):
        runner.tidy_up()


def _amount(text: str | None) -> int | None:
    try:
        return None if text is None else micro_usd(text)
    except ValueError as error:
        raise Usage(f"the limit: {error}", hint="write US dollars with a point, such as 5 or 0.25") from None


def _row(state: PlanState) -> tuple[str, ...]:
    limit = "none" if state.limit_micro_usd is None else usd(state.limit_micro_usd)
    return state.key, limit, usd(state.reserved_micro_usd), usd(state.spent_micro_usd)

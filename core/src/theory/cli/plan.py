"""``theory plan``: budgets."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from theory.cli.show import answer, say, table
from theory.errors import LedgerFailed, Usage
from theory.money import micro_usd, usd
from theory.run import Runner

if TYPE_CHECKING:
    from theory.ledger import PlanState


@click.group()
def plan() -> None:
    """Budgets: create, limit and look at plans."""


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

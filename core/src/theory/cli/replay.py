"""``theory replay``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from theory.cli.options import refuse_empty, settings_of, store_option
from theory.cli.run import options_given
from theory.cli.show import Events, answer, fail, say, table
from theory.errors import TheoryError
from theory.formats.paths import spelled_out
from theory.rooms.close import known
from theory.types import Failure
from theory.upkeep.replay import Replayer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theory.cancel import Cancellation
    from theory.types import JsonObject
    from theory.upkeep.replay import Original, Replayed

DIFFERS = 1  # as diff has it; 3 would say that bytes are damaged
_RUNS = 10_000


@click.command(short_help="Run an execution again from its records and compare the outputs.")
@click.argument("execution_id", metavar="ID")
@click.option(
    "--runs",
    type=click.IntRange(1, _RUNS),
    default=1,
    show_default=True,
    help="How often: is it deterministic?",
)
@click.option("--adapter", metavar="NAME", help="Where to run.  [default: where it ran]")
@click.option("--plan", metavar="KEY", help="Plan to charge.  [default: default]")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time for each run.  [default: the entry's]")
@click.option(
    "--adapter-opts-json", metavar="JSON", default="{}", help="Options of the adapter as a JSON object."
)
@click.option(
    "-o", "options", metavar="KEY=VALUE", multiple=True, help="One option of the adapter; repeatable."
)
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, errors included.")
@click.option("--quiet", is_flag=True, help="No logs and no progress on stderr.")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.pass_obj
def replay(cancellation: Cancellation, /, **given: Any) -> int:  # noqa: ANN401 - as the options above say
    """Run an execution again from its records and compare the outputs.

    Entry, folder, inputs, files and seed are those that the execution ID kept, whatever the registry says
    now. Each run is an execution of its own, without the memo, below /artifacts/replays/. The exit status is
    0 if all outputs are the same to the byte, 1 if one differs, and that of the run if it fails.
    """
    as_json, id_ = given["as_json"], given["execution_id"]
    refuse_empty({name: value for name, value in given.items() if name != "execution_id"})
    events = Events(stream=False, as_json=as_json, quiet=given["quiet"])
    with Replayer(settings_of(given["store"]), debug=given["debug"]) as replayer:
        try:
            original = replayer.original(id_)
            done = replayer.replay(
                original,
                runs=given["runs"],
                adapter=given["adapter"],
                options=options_given(given),
                plan=given["plan"],
                timeout=given["timeout"],
                cancellation=cancellation,
                listen=events,
            )
        except TheoryError as error:
            events.close()
            return fail(known(error, cancellation.signal, debug=given["debug"]), as_json=as_json)
    events.close()
    if as_json:
        answer(_document(original, done), as_json=True)
    else:
        _show(done)
    last = done[-1].envelope
    if isinstance(last, Failure):
        return last.exit_code
    return 0 if all(run.is_same for run in done) else DIFFERS


def _document(original: Original, done: tuple[Replayed, ...]) -> JsonObject:
    failed = isinstance(done[-1].envelope, Failure)
    return {
        "status": "error" if failed else "same" if all(run.is_same for run in done) else "differs",
        "execution_id": original.record.execution_id,
        "ref": original.record.ref,
        "runs": [run.document() for run in done],
    }


def _show(done: tuple[Replayed, ...]) -> None:
    table(
        (row for run in done for row in _rows(run)),
        ("execution", "state", "output", "then", "now"),
    )
    for run in done:
        for name, (then, now) in run.changed.items():
            say(spelled_out(f"Note: {run.envelope.execution_id} has another {name}: {then} then, {now} now"))
        if isinstance(run.envelope, Failure):
            say(spelled_out(f"Error: {run.envelope.execution_id}: {run.envelope.message}"))
            if run.envelope.hint:
                say(spelled_out(f"Hint: {run.envelope.hint}"))


def _rows(run: Replayed) -> Iterator[tuple[str, ...]]:
    for each in run.outputs:
        now = "" if each.state == "same" else each.now or "-"
        yield run.envelope.execution_id, each.state, each.path, each.then or "-", now

"""``theory explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from theory.cli.options import refuse_empty, settings_of, store_option
from theory.cli.run import attachments_given, inputs_given, options_given
from theory.cli.show import answer, table, tell
from theory.errors import Usage
from theory.formats.canon import compact
from theory.formats.paths import quoted
from theory.home import Home
from theory.request import Request, is_execution_id, options_over
from theory.upkeep.explain import ABSENT, explain_executions, explain_request

if TYPE_CHECKING:
    from theory.cancel import Cancellation
    from theory.config import Settings
    from theory.upkeep.explain import Explanation, Work

_SHOWN = 100  # places that people are shown
_LONGEST = 60  # characters of a value that people are shown


@click.command(short_help="Say why two executions have different memo keys, or why one missed.")
@click.argument("what", metavar="A|REF")
@click.argument("other", metavar="[B]", required=False)
@click.option("--inputs-json", metavar="JSON", default="{}", help="Inputs of REF, as for theory run.")
@click.option(
    "--attach", "attachments", metavar="NAME=PATH", multiple=True, help="An attachment of REF; repeatable."
)
@click.option(
    "--adapter-opts-json", metavar="JSON", default="{}", help="Options of the adapter as a JSON object."
)
@click.option(
    "-o", "options", metavar="KEY=VALUE", multiple=True, help="One option of the adapter; repeatable."
)
@click.option(
    "--adapter", metavar="NAME", help="Where REF would run.  [default: local, or the configured one]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed that REF would have.")
@click.option("--memo/--no-memo", default=None, help="As REF would be run.  [default: by determinism]")
@store_option
@click.option(
    "--registry", "registries", metavar="DIR", multiple=True, help="A registry to ask first; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, errors included.")
@click.pass_obj
def explain(cancellation: Cancellation, /, **given: Any) -> None:  # noqa: ANN401 - as the options above say
    """Say why two executions have different memo keys, or why one missed.

    A and B are execution ids. Without B, A is compared with the nearest former execution of its ref. With a
    REF and inputs, as for theory run, nothing runs: what its key would be, whether the memo has it, and what
    differs from the execution B or from the nearest one of REF.
    """
    refuse_empty({"what": given["what"], "other": given["other"]})
    settings = settings_of(given["store"], given["registries"])
    with Home(settings) as home:
        if is_execution_id(given["what"]):
            found = explain_executions(home, given["what"], given["other"])
        elif "/" not in given["what"]:
            raise Usage(
                f"{quoted(given['what'])} is neither an execution id nor a ref",
                hint="theory ls shows executions, theory registry ls refs",
            )
        else:
            found = explain_request(home, _request(given, settings, cancellation), given["other"])
    if given["as_json"]:
        answer(found.document(), as_json=True)
    else:
        _show(found)


def _request(given: dict[str, Any], settings: Settings, cancellation: Cancellation) -> Request:
    adapter = given["adapter"] or settings.adapter
    return Request(
        ref=given["what"],
        inputs=inputs_given(given["inputs_json"], cancellation),
        attachments=attachments_given(given["attachments"], given["inputs_json"]),
        adapter=adapter,
        options=options_over(settings.adapter_options, adapter, options_given(given)),
        plan=settings.plan,
        prefix=settings.write_prefix,
        seed=given["seed"],
        memo={True: "on", False: "off", None: "auto"}[given["memo"]],  # type: ignore[arg-type]  # its three words
    )


def _show(found: Explanation) -> None:
    sides = [("A", found.a), ("B", found.b)]
    table(
        [_side(name, work) for name, work in sides if work is not None],
        ("", "execution", "ref", "memo", "key"),
    )
    if found.a is None:
        pass
    elif found.a.memo_key == found.b.memo_key:
        tell(["the keys are equal"])
    else:
        tell([f"the keys differ in {', '.join(found.components)}"])
    rows = [(d.component, d.place, _value(d.a), _value(d.b)) for d in found.differences[:_SHOWN]]
    table(rows, ("component", "place", "a", "b"))
    if (more := len(found.differences) - _SHOWN) > 0:
        tell([f"and {more} more, which --json shows"])
    tell(found.notes)


def _side(name: str, work: Work) -> tuple[str, ...]:
    return name, work.execution_id or "(not run)", work.ref, work.memo, work.memo_key


def _value(value: object) -> str:
    if value is ABSENT:
        return "absent"
    if isinstance(value, dict) and value.keys() == {"cid", "executable"}:  # a file of the tree
        return f"{value['cid']}{' executable' if value['executable'] else ''}"
    text = compact(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"

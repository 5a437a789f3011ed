"""``theory run``."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from theory.cli.options import refuse_empty, settings_of, store_option
from theory.cli.show import Events, answer_envelope, fail
from theory.disk.pipes import Pipe
from theory.errors import BadAdapterOptions, BadInputs, SaveFailed, TheoryError, Usage
from theory.formats.canon import MAX_JSON_BYTES, BadJson, parse_json
from theory.formats.money import micro_usd
from theory.formats.paths import printable, quoted
from theory.rooms.close import known
from theory.run import Runner
from theory.types import Success

if TYPE_CHECKING:
    from theory.cancel import Cancellation
    from theory.types import JsonObject, MemoPolicy


_OPTIONS_HINT = 'write {"key": 1}; -o KEY=VALUE spares the shell\'s quoting'


@click.command(short_help="Run a processor and print its envelope.")
@click.argument("ref_argument", metavar="[REF]", required=False)
@click.option("--ref", help="Processor reference, such as llm/litellm@1.")
@click.option("--adapter", metavar="NAME", help="Where to run.  [default: local, or the configured one]")
@click.option("--plan", metavar="KEY", help="Plan to charge.  [default: default]")
@click.option(
    "--write-prefix",
    metavar="PATH/",
    help="World path for the outputs; {execution_id} is put in.  [default: /artifacts/outputs/]",
)
@click.option(
    "--inputs-json", metavar="JSON", default="{}", help="Inputs; @FILE reads a file, - standard input."
)
@click.option(
    "--adapter-opts-json", metavar="JSON", default="{}", help="Options of the adapter as a JSON object."
)
@click.option(
    "-o", "options", metavar="KEY=VALUE", multiple=True, help="One option of the adapter; repeatable."
)
@click.option(
    "--attach",
    "attachments",
    metavar="NAME=PATH",
    multiple=True,
    help='A file that {"$attach": "NAME"} in the inputs stands for; - is standard input; repeatable.',
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, errors included.")
@click.option("--save-dir", metavar="DIR", help="Save all outputs below this folder, by their world paths.")
@click.option("--save-first", metavar="FILE", help="Save the first output to this file.")
@click.option(
    "--stream", is_flag=True, help="Show tokens as they come; with --json every event, a line each."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for the processor, 0 to 2^53-1.")
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="Time for the command.  [default: the entry's]"
)
@click.option(
    "--memo/--no-memo", default=None, help="Use or skip remembered results.  [default: by determinism]"
)
@click.option("--refresh", is_flag=True, help="Run, and replace the remembered result.")
@click.option("--reserve-usd", metavar="USD", help="Hold this much of the plan.  [default: the entry's]")
@click.option(
    "--execution-id", metavar="ID", help="Try an execution again, or get its envelope if it is closed."
)
@click.option(
    "--exclusive",
    is_flag=True,
    help="Refuse (exit 5) while another run with --exclusive has this write prefix, or one in or above it.",
)
@store_option
@click.option(
    "--registry", "registries", metavar="DIR", multiple=True, help="A registry to ask first; repeatable."
)
@click.option("--build", is_flag=True, help="Build the image again (adapters that build).")
@click.option("--quiet", is_flag=True, help="No logs and no progress on stderr.")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.pass_obj
def run(cancellation: Cancellation, /, **given: Any) -> int:  # noqa: ANN401 - as the options above say
    """Run a processor and print its envelope.

    REF (or --ref REF) names the processor, such as text/wordcount@1. Nothing but the envelope goes to
    standard output; logs and notes go to standard error.
    """
    as_json, debug = given["as_json"], given["debug"]
    events = Events(stream=given["stream"], as_json=as_json, quiet=given["quiet"])
    refuse_empty(given)
    settings = settings_of(given["store"], given["registries"])
    _check_targets(given, settings.write_prefix)
    attachments = attachments_given(given["attachments"], given["inputs_json"])
    with Runner(settings, debug=debug) as runner:
        ref, options, memo, reserve = (
            _ref(given),
            options_given(given),
            _memo(given),
            _amount(given["reserve_usd"]),
        )
        envelope = runner.run(
            ref,
            inputs_given(given["inputs_json"], cancellation),
            attachments=attachments,
            adapter=given["adapter"],
            options=options,
            plan=given["plan"],
            write_prefix=given["write_prefix"],
            seed=given["seed"],
            timeout=given["timeout"],
            memo=memo,
            reserve_micro_usd=reserve,
            execution_id=given["execution_id"],
            exclusive=given["exclusive"],
            cancellation=cancellation,
            listen=events,
        )
        events.close()
        if isinstance(envelope, Success):
            try:
                _save(runner, envelope, given, cancellation)
            except TheoryError as error:
                told = known(error, cancellation.signal, debug=debug)
                told.meta = {**envelope.meta, **told.meta}  # the execution is closed, and this is its own
                return fail(told, as_json=as_json, execution_id=envelope.execution_id)
    return answer_envelope(envelope, as_json=as_json)


def _ref(given: dict[str, Any]) -> str:
    argument, option = given["ref_argument"], given["ref"]
    if argument and option and argument != option:
        raise Usage(f"two refs: {quoted(argument)} and --ref {quoted(option)}", hint="give one of them")
    if not (argument or option):
        raise Usage("no processor was named", hint="theory run REF; theory registry ls shows the refs")
    return str(argument or option)


def inputs_given(text: str, cancellation: Cancellation) -> str | bytes:
    """What ``--inputs-json`` says, or what the file or standard input says that it names.

    Raises:
        BadInputs: That cannot be read.
    """
    if text != "-" and not text.startswith("@"):
        return text
    try:
        descriptor = 0 if text == "-" else os.open(text[1:], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            with io.BufferedReader(Pipe(descriptor, cancellation.is_set)) as stream:
                return stream.read(MAX_JSON_BYTES + 1)
        finally:
            if descriptor:
                os.close(descriptor)
    except (OSError, ValueError) as error:
        what = "standard input" if text == "-" else f"the file of --inputs-json, {quoted(text[1:])},"
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInputs(
            f"{what} cannot be read: {reason}",
            hint="@FILE names a file with one JSON object, - standard input",
        ) from None


def attachments_given(texts: tuple[str, ...], inputs: str) -> dict[str, str]:
    """The sources of ``--attach``, by name.

    Raises:
        Usage: One is not ``NAME=PATH``, a name comes twice, or standard input would be read twice.
    """
    attachments: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not (name and equals and source):
            raise Usage(f"--attach {quoted(text)} is not NAME=PATH", hint="--attach image=photo.jpg")
        if name in attachments:
            raise Usage(f"two attachments are called {quoted(name)}", hint="give each one a name of its own")
        attachments[name] = source
    if [*attachments.values(), inputs].count("-") > 1:
        raise Usage(
            "standard input can be read only once", hint="use - for one attachment or for --inputs-json"
        )
    return attachments


def options_given(given: dict[str, Any]) -> JsonObject:
    """The adapter's options, of ``--adapter-opts-json`` and of each ``-o``.

    Raises:
        BadAdapterOptions: They are no JSON object, or one is given twice.
    """
    try:
        options = parse_json(given["adapter_opts_json"])
    except BadJson as error:
        where = f" at {printable(error.pointer)}" if error.pointer else ""
        raise BadAdapterOptions(
            f"--adapter-opts-json is not JSON that can be used: {error}{where}", hint=_OPTIONS_HINT
        ) from None
    if not isinstance(options, dict):
        raise BadAdapterOptions("--adapter-opts-json is not a JSON object", hint=_OPTIONS_HINT)
    for text in given["options"]:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise BadAdapterOptions(
                f"-o {quoted(text)} is not KEY=VALUE",
                hint="theory adapters show NAME lists an adapter's options",
            )
        if key in options:
            raise BadAdapterOptions(
                f"the option {quoted(key)} is given twice",
                hint="say it once, with -o or in --adapter-opts-json",
            )
        options[key] = value
    return {**options, "build": True} if given.get("build") else options


def _memo(given: dict[str, Any]) -> MemoPolicy:
    if given["refresh"]:
        if given["memo"] is False:
            raise Usage("--refresh and --no-memo contradict each other", hint="give one of them")
        return "refresh"
    return cast("MemoPolicy", {True: "on", False: "off", None: "auto"}[given["memo"]])


def _amount(text: str | None) -> int | None:
    try:
        return None if text is None else micro_usd(text)
    except ValueError as error:
        raise Usage(f"--reserve-usd: {error}", hint="write US dollars with a point, such as 0.02") from None


def _check_targets(given: dict[str, Any], prefix: str) -> None:
    for name in ("save_dir", "save_first"):
        if "\0" in (given[name] or ""):
            option = f"--{name.replace('_', '-')}"
            raise Usage(f"{option} {quoted(given[name])} has a NUL character", hint="name another path")
    if given["save_dir"] or given["save_first"]:
        from theory.rooms import save  # noqa: PLC0415 - most runs save nothing

        if given["save_dir"]:
            save.check_folder(Path(given["save_dir"]), given["write_prefix"] or prefix)
        if given["save_first"]:
            save.check_file(Path(given["save_first"]))


def _save(runner: Runner, envelope: Success, given: dict[str, Any], cancellation: Cancellation) -> None:
    if given["save_dir"] or given["save_first"]:
        from theory.rooms import save  # noqa: PLC0415 - as above

        if given["save_dir"]:
            save.save_all(
                runner.store, envelope.outputs, Path(given["save_dir"]), cancelled=cancellation.is_set
            )
        if given["save_first"]:
            if not envelope.outputs:
                raise SaveFailed(f"execution {envelope.execution_id} has no output to save")
            file = Path(given["save_first"])
            save.save_one(runner.store, envelope.outputs[0], file, cancelled=cancellation.is_set)

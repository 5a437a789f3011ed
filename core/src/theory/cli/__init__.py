"""The command line: a group whose commands are imported when they are called.

``stdout`` carries the answer and nothing else; notes, logs and errors go to ``stderr``.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import click

from theory import __version__
from theory.errors import Interrupted, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from theory.cancel import Cancellation
    from theory.errors import TheoryError

# name: (module, short help); "theory --help" imports none of them, and a test compares the texts
COMMANDS = {
    "run": ("theory.cli.run", "Run a processor and print its envelope."),
    "ls": ("theory.cli.artifacts", "List executions, or the artifacts below a world path."),
    "show": ("theory.cli.artifacts", "Print all that is recorded of an execution."),
    "cat": ("theory.cli.artifacts", "Write the bytes of an artifact to standard output."),
    "get": ("theory.cli.artifacts", "Copy artifacts to files."),
    "explain": ("theory.cli.explain", "Say why two executions have different memo keys, or why one missed."),
    "replay": ("theory.cli.replay", "Run an execution again from its records and compare the outputs."),
    "verify": ("theory.cli.store", "Check that every blob and record is whole."),
    "gc": ("theory.cli.store", "Move to the trash what nothing needs, and empty it."),
    "keep": ("theory.cli.store", "Pin an execution or an artifact, or list the pins."),
    "plan": ("theory.cli.plan", "Budgets: create, limit, look at and check plans."),
    "registry": ("theory.cli.registry", "Look at registries and check their entries."),
    "adapters": ("theory.cli.plugins", "List adapters and show what they can do."),
    "plugins": ("theory.cli.plugins", "List every plugin, the broken ones with the reason."),
    "doctor": ("theory.cli.plugins", "Look at the surroundings and say what is wrong."),
    "config": ("theory.cli.config", "Show each setting and where it came from."),
    "schema": ("theory.cli.config", "Print the JSON Schema of a document."),
}

_JSON = frozenset({"run", "explain", "replay", "plan", "verify", "gc"})  # which have --json


class Commands(click.Group):
    """The commands of core and those that plugins bring (entry points of ``theory.commands``)."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        """Core's commands in reading order, then the plugins'."""
        return [*COMMANDS, *(name for name in _brought() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one command."""
        from importlib import import_module  # noqa: PLC0415 - "theory --help" imports none

        if cmd_name in COMMANDS:
            command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        elif cmd_name in _brought():
            from theory.plugins import COMMANDS as GROUP  # noqa: PLC0415 - only for a command of a plugin
            from theory.plugins import Plugins  # noqa: PLC0415 - as above

            command = Plugins.installed().load(GROUP, cmd_name)
        else:
            return None
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with near matches for a name that is wrong."""
        if args and args[0] not in {"run", "replay"}:
            # Only a run has something to settle when it is interrupted; the others just end.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)
        known = not args or args[0].startswith("-") or args[0] in COMMANDS
        if not known and args[0] not in (names := self.list_commands(ctx)):
            from difflib import get_close_matches  # noqa: PLC0415 - only for a name that is wrong

            near = get_close_matches(args[0], names, n=1)
            hint = f"did you mean theory {near[0]}?" if near else "theory --help lists the commands"
            raise Usage(f"no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in COMMANDS])
        if brought := {name: owner for name, owner in _brought().items() if name not in COMMANDS}:
            with formatter.section("Commands of plugins"):
                rows = [(_plain(name), f"From {_plain(owner)}.") for name, owner in brought.items()]
                formatter.write_dl(rows)


def _plain(name: str) -> str:
    """A name from a plugin's metadata, without what would steer a terminal."""
    return name if name.isprintable() else ascii(name)


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Documentation: docs/README.md",
)
@click.version_option(__version__, prog_name="theory")
def theory() -> None:
    """Run versioned processors anywhere, and believe the records.

    A processor is named by its ref, namespace/name@version. Every run answers with one envelope; its outputs
    are content-addressed, it leaves a receipt, and its plan's ledger says what it cost.
    """


def run_command_line(arguments: Sequence[str], cancellation: Cancellation) -> int:  # noqa: PLR0911 - one an ending
    """Run one command line; its exit status.

    Args:
        arguments: Without the program's name.
        cancellation: What a signal sets.
    """
    as_json = not _JSON.isdisjoint(arguments) and any(w.partition("=")[0] == "--json" for w in arguments)
    debug = "--debug" in arguments
    if "_THEORY_COMPLETE" in os.environ:
        theory.main(list(arguments), prog_name="theory")  # answers the shell and exits
    try:
        # Not by theory.main: it ends the process itself when who reads our output has gone.
        with theory.make_context("theory", list(arguments), obj=cancellation) as context:
            answer = theory.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        from theory.cli.show import say  # noqa: PLC0415 - "theory --help" shows nothing of ours

        say(error.format_message())
        return Usage.exit_code
    except click.ClickException as error:
        return _fail(_usage(error), as_json=as_json)
    except SystemExit as done:  # the answer could not be written, and stderr says so
        return done.code if isinstance(done.code, int) else 1
    except (KeyboardInterrupt, click.Abort):
        return _fail(Interrupted("interrupted"), as_json=as_json)
    except BrokenPipeError:
        # Who reads our output has gone. Whatever ran is closed; there is nobody to tell.
        from theory.cli.show import silence  # noqa: PLC0415 - as above

        silence()
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - our own bug, wherever it is, still gets one answer
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # as it showed a help page
            from theory.cli.show import refused_answer  # noqa: PLC0415 - as below

            return refused_answer(error)
        from theory.rooms.close import known  # noqa: PLC0415 - only for an error

        return _fail(known(error, cancellation.signal, debug=debug), as_json=as_json)
    return answer if isinstance(answer, int) else 0


def _usage(error: click.ClickException) -> Usage:
    hint = error.ctx.command_path + " --help" if isinstance(error, click.UsageError) and error.ctx else ""
    if not isinstance(error, click.NoSuchOption):
        return Usage(_lowered(error.format_message()), hint=hint)
    from theory.formats.paths import quoted  # noqa: PLC0415 - only for an error

    near = " or ".join(sorted(error.possibilities or ()))
    # Not in click's words, which differ from one version to the next.
    return Usage(
        f"no such option {quoted(error.option_name)}", hint=f"did you mean {near}?" if near else hint
    )


def _fail(error: TheoryError, *, as_json: bool) -> int:
    from theory.cli.show import fail  # noqa: PLC0415 - only for an error

    return fail(error, as_json=as_json)


def _brought() -> dict[str, str]:
    from theory import discovery  # noqa: PLC0415 - a command of core needs no plugin's name

    found = discovery.allowed(discovery.installed(), os.environ)
    return {point.name: point.distribution for point in found if point.group == "theory.commands"}


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".")

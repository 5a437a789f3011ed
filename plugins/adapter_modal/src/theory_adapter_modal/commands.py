"""``theory modal``: what is set up on Modal once, before runs can use it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Literal, cast

import click

from theory import Runner, errors

if TYPE_CHECKING:
    from theory import Processor
    from theory_adapter_modal.function.deployed import Deployed
    from theory_adapter_modal.options import Options


@click.group()
def modal() -> None:
    """What is set up on Modal once, for runs to use."""


@modal.command()
@click.argument("ref")
@click.option(
    "-o", "options", metavar="KEY=VALUE", multiple=True, help="One option, as a run has it; repeatable."
)
@click.option(
    "--registry", "registries", metavar="DIR", multiple=True, help="A registry to ask first; repeatable."
)
@click.option("--build", is_flag=True, help="Build the image again.")
@click.option("--quiet", is_flag=True, help="No log of a failed build on stderr.")
def deploy(
    ref: str, options: tuple[str, ...], registries: tuple[str, ...], *, build: bool, quiet: bool
) -> None:
    """Deploy the function of a processor: warm containers that serve its runs one after another.

    Runs of REF with the same -o use it from then on. When the entry changes, it has to be deployed again;
    until then its runs get a sandbox each. To deploy twice changes nothing. It prints what it deployed.

    Containers stay warm from one command to the next where the entry has no secrets, or where Modal keeps
    them: -o secret=NAME, here and in the runs.
    """
    environ = dict(os.environ)
    if registries:
        named = (os.path.abspath(folder) for folder in registries)
        environ["THEORY_REGISTRY"] = os.pathsep.join((*named, environ.get("THEORY_REGISTRY", "")))
    given = _given(options)
    if build:
        given["build"] = "true"
    with Runner(environ=environ) as runner:
        processor = runner.entry(ref)
        chosen = cast("Options", runner.options("modal", given))
    deployed = _deployed(processor, chosen, quiet=quiet)
    sys.stdout.write(json.dumps(deployed._asdict(), indent=2) + "\n")


def _deployed(processor: Processor, options: Options, *, quiet: bool) -> Deployed:
    from theory_adapter_modal import faults  # noqa: PLC0415 - "theory modal --help" needs none of these
    from theory_adapter_modal.account import client  # noqa: PLC0415 - as above
    from theory_adapter_modal.function.deployed import deploy  # noqa: PLC0415 - as above

    answering = client()
    try:
        return asyncio.run(deploy(processor, options, answering, _Terminal(quiet=quiet)))
    except errors.TheoryError:
        raise
    except Exception as error:
        if faults.is_of_modal(error):
            raise faults.told(error) from error
        raise  # our own bug


class _Terminal:
    """Where the log of a build goes without a run."""

    deadline = None

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:  # noqa: ARG002 - as a Channel has it
        """Show it."""
        if not self._quiet:
            text = data.decode("utf-8", "replace")
            sys.stderr.write("".join(char for char in text if char.isprintable() or char in "\n\t"))

    def started(self) -> None:
        """Nothing is timed."""

    def wait_cancelled(self, seconds: float) -> bool:  # noqa: ARG002 - as a Channel has it
        """A Ctrl-C ends the process."""
        return False


def _given(options: tuple[str, ...]) -> dict[str, str]:
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not key or not equals:
            raise errors.Usage(f"-o {option[:100]!r} is not KEY=VALUE", hint="theory modal deploy --help")
        given[key] = value
    return given

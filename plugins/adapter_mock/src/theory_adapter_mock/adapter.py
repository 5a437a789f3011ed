"""The hooks: answer at once with what the entry says, or fail in the way that the options ask for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from theory import (
    AdapterInfo,
    Capability,
    Finding,
    Image,
    Outcome,
    canonical_json,
    cid_of,
    errors,
    hookimpl,
)
from theory_adapter_mock.answer import answer_to

if TYPE_CHECKING:
    from theory import Channel, Job, Processor

_MAX_MICRO_USD = 2**53 - 1  # what the ledger can hold
_MAX_EXIT_CODE = 255
_MAX_LATENCY_S = 86_400  # a day


@dataclass(frozen=True)
class Options:
    """How the simulation goes; by default it succeeds at once and costs nothing.

    Raises:
        BadAdapterOptions: A value is out of its range.
    """

    cost_micro_usd: int = field(
        default=0, metadata={"help": "what the execution costs, and what is reserved for it, in micro-USD"}
    )
    latency_s: float = field(
        default=0.0,
        metadata={
            "help": "seconds until the answer; Ctrl-C and the entry's timeout end them, as for a real run"
        },
    )
    exit_code: int = field(
        default=0, metadata={"help": "exit status of the command; other than 0 it fails with ERR_PROCESSOR"}
    )
    fail: Literal["", "timeout", "oom", "outputs", "output_path", "crash"] = field(
        default="",
        metadata={
            "help": "end at once as a real run might: timeout (ERR_TIMEOUT), oom (ERR_OUT_OF_MEMORY), "
            "outputs (they break the entry's schema: ERR_OUTPUTS), output_path (a name that no artifact "
            "may have: ERR_OUTPUT_PATH), crash (the adapter breaks down halfway: ERR_PLUGIN)"
        },
    )
    log: str = field(
        default="", metadata={"help": "a line that the command prints; JSON with an event key is an event"}
    )

    def __post_init__(self) -> None:
        """Refuse what no execution could have."""
        for name, value, most in (
            ("cost_micro_usd", self.cost_micro_usd, _MAX_MICRO_USD),
            ("exit_code", self.exit_code, _MAX_EXIT_CODE),
            ("latency_s", self.latency_s, _MAX_LATENCY_S),
        ):
            if not 0 <= value <= most:
                raise errors.BadAdapterOptions(
                    f"{name} of the mock adapter is {value}, which is not between 0 and {most}",
                    hint="theory adapters show mock",
                )


@hookimpl
def describe_adapter() -> AdapterInfo:
    """It offers everything, since it gives nothing."""
    return AdapterInfo(
        summary="simulates: answers from the entry or its outputs schema, runs nothing, fails on demand",
        offers=frozenset(get_args(Capability)),
        pretends=True,
        folders=False,
        options=Options,
        capacity=64,
    )


@hookimpl
def identify(processor: Processor, options: Options) -> Image:
    """No image, but what the simulation depends on; an entry without an answer is refused here already.

    The entry's answer and the options are no part of the tree: without them in the id, a failure that is
    asked for would be answered from the memo.

    Raises:
        RegistryFault: adapter.mock of the entry is wrong.
        Unsupported: The outputs schema is not simple enough to derive an answer from.
    """
    answer_to(processor)
    chosen = {name: value for name, value in vars(options).items() if value != getattr(Options, name)}
    material = {"answer": processor.adapter.get("mock", {}), "options": chosen}
    return Image(id="mock:" + cid_of(canonical_json(material)), digest=None, platform="")


@hookimpl
def execute(job: Job, options: Options, channel: Channel) -> Outcome:
    """Pretend to run the job: wait, say what the options ask for, hand over the answer.

    Raises:
        RegistryFault, Unsupported: As ``identify``.
        RuntimeError: The option fail=crash asks for it.
    """
    answer = answer_to(job.processor)
    messages = job.inputs.get("messages")
    if isinstance(messages, list):
        answer = answer.counted(messages)
    started_at, began = time.time(), time.monotonic()

    def outcome(
        ended: Literal["exit", "timeout", "oom", "cancelled"],
        exit_code: int | None = None,
        message: str = "",
        files: dict[str, bytes] | None = None,
    ) -> Outcome:
        took = time.monotonic() - began
        cost = options.cost_micro_usd
        return Outcome(ended, exit_code, started_at, took, cost_micro_usd=cost, message=message, files=files)

    channel.started()
    if options.log:
        channel.write("stdout", options.log.encode() + b"\n")
    if options.latency_s and (cut_short := _wait(options.latency_s, channel)):
        return outcome(cut_short)
    if options.fail == "timeout" or options.fail == "oom":  # noqa: PLR1714 - mypy knows by this what is left
        return outcome(options.fail, message="simulated")
    if options.exit_code:
        channel.write("stderr", f"simulated failure: exit_code={options.exit_code}\n".encode())
        return outcome("exit", options.exit_code)
    if isinstance(messages, list):
        channel.write("stdout", answer.stream)
    if options.fail == "crash":
        raise RuntimeError("the mock adapter breaks down halfway, because fail=crash asks for it")
    files = answer.files()
    if options.fail:
        files = _spoiled(files, options.fail)
    return outcome("exit", 0, files=files)


@hookimpl
def diagnose() -> tuple[Finding, ...]:
    """Nothing can be missing."""
    return (Finding("mock adapter", ok=True, message="simulates; it needs nothing"),)


def _spoiled(files: dict[str, bytes], how: Literal["outputs", "output_path"]) -> dict[str, bytes]:
    """The files of a run that goes wrong at its end."""
    if how == "outputs":
        return {"meta.json": b"this is no JSON: fail=outputs\n"}  # whatever the schema says of it
    return {**files, "two\nlines.txt": b"no artifact may have this name: fail=output_path\n"}


def _wait(seconds: float, channel: Channel) -> Literal["cancelled", "timeout"] | None:
    """Let the time pass that a real run would take; say how the run ended if it did not get so far."""
    deadline = channel.deadline
    allowed = seconds if deadline is None else max(0.0, deadline - time.monotonic())
    if channel.wait_cancelled(min(seconds, allowed)):
        return "cancelled"
    return "timeout" if seconds > allowed else None

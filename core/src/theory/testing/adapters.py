"""The promises of an adapter, as tests: subclass ``AdapterContract``, give it your adapter, run pytest.

    import pytest
    import theory_adapter_mine.adapter
    from theory.testing import AdapterContract

    class TestMine(AdapterContract):
        @pytest.fixture
        def adapter(self):
            return theory_adapter_mine.adapter      # the module (or object) that your entry point names

Every test runs a real job: an entry on disk whose program is ``theory/testing/processor.py`` and whose inputs
list the steps that it does, a workspace as core lays it out, and a channel that remembers what it is told.
An adapter that says ``pretends=True`` runs no program: it is told the answer in ``Processor.adapter`` and has
to pass what makes sense without one; the rest is skipped.

What you may override:

``options(behaviour)``
    The options record for a test. A pretending adapter must be told to misbehave, because no program does it.
``image(folder)``
    The image that the entry names; write what it needs into the folder. The program needs Python 3.8 or later
    as ``python``, and ``main.py`` in the working directory.
``material(outputs)``
    What the entry tells the adapters (``Processor.adapter``); ``outputs`` is the answer that is wanted.
``image_environment``
    Names of variables that your image sets by itself.
``cache`` (a fixture)
    The adapter's cache folder: fresh for each test, unless you share one because filling it takes long.
``patience_s``
    Seconds after which an execution counts as hanging: more, where images are built or pulled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets as random_source
import threading
import types
from typing import TYPE_CHECKING, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from theory.hookspecs import HOOKS_OF_GROUP
from theory.testing.bench import Bench, artifact_of, files_below, nothing_holds
from theory.testing.channel import ChannelInStep, RecordingChannel
from theory.types import Capability, Finding, ImageSource, Runtime, SecretNeeds, Secrets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory.testing.bench import Behaviour
    from theory.types import Json, JsonObject

TEXT = "Grüße,\r\nand no newline at the end"
ANSWER = {"text/greeting.txt": TEXT, "empty.txt": "", "meta.json": '{"model": "none"}'}
STEPS = [["put", path, text] for path, text in ANSWER.items()]
EVERY_BYTE = bytes(range(256))

STOP_S = 10.0  # design: on cancel an adapter stops the work and returns within 10 s
LATE_S = 5.0  # how long after its deadline a command may still be on its way out: asked first, then killed
LEFT_RUNNING = "execute returned, and a child of the command still runs"
CLOCK_S = 0.1  # wall clock and monotonic clock may differ by so much over a test


class AdapterContract:
    """What every adapter promises. Subclass it in a test module, under a name that begins with ``Test``."""

    image_environment: frozenset[str] = frozenset()
    patience_s: float = 60.0

    # ---------------------------------------------------------------- what a subclass gives

    @pytest.fixture
    def adapter(self) -> object:
        """The plugin under test: the module or object with the hook implementations."""
        raise NotImplementedError(
            "override the fixture `adapter`: return the module that your entry point names"
        )

    def options(self, behaviour: Behaviour) -> object:  # noqa: ARG002 - for those that override it
        """The adapter's options for a test; None for the defaults.

        An adapter that pretends returns what makes it behave so, or calls ``pytest.skip`` where it cannot:
        "success"; "exit 3" (the command ends with status 3); "timeout" (it does not end in time);
        "until cancelled" (it goes on for at least a minute unless it is cancelled). One that runs real
        commands need not tell them apart: the program does.
        """
        return None

    def image(self, folder: Path) -> ImageSource:
        """The image of the entry in this folder."""
        (folder / "Dockerfile").write_text(
            "FROM python:3.11-slim\nWORKDIR /entry\nCOPY main.py ./\n", encoding="utf-8"
        )
        return ImageSource(dockerfile="Dockerfile")

    def material(self, outputs: dict[str, str]) -> Mapping[str, JsonObject]:
        """What the entry tells the adapters: by default the answer, for one that pretends."""
        return {"mock": {"outputs": dict(outputs)}}

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        """The adapter's cache folder."""
        return tmp_path / "cache"

    # ---------------------------------------------------------------- the fixtures that the tests stand on

    @pytest.fixture
    def bench(self, adapter: object, tmp_path: Path, cache: Path) -> Bench:
        """Runs jobs on the adapter."""
        folder = tmp_path / "bench"
        folder.mkdir()
        return Bench(adapter, folder, cache, self.image, self.material, self.options, self.patience_s)

    @pytest.fixture
    def real(self, bench: Bench) -> Bench:
        """Runs jobs on the adapter; skips the test for one that pretends."""
        if bench.info.pretends:
            pytest.skip("the adapter pretends: no program runs")
        return bench

    # ---------------------------------------------------------------- describe_adapter, identify, diagnose

    def test_it_implements_the_hooks_of_an_adapter_and_no_others(self, bench: Bench) -> None:
        """A misspelt hook would be ignored in silence; one of another group would let it listen in."""
        bench.manager.check_pending()
        callers = bench.manager.get_hookcallers(bench.adapter) or []
        hooks = {caller.name for caller in callers}
        assert hooks >= {"describe_adapter", "identify", "execute"}, f"it implements {sorted(hooks)} only"
        assert hooks <= HOOKS_OF_GROUP["theory.adapters"], f"no adapter may implement all of {sorted(hooks)}"

    def test_it_describes_itself(self, bench: Bench) -> None:
        """The summary is a line, and what it offers are known capabilities."""
        info = bench.info
        assert info.summary.strip(), "the summary is empty"
        assert "\n" not in info.summary, "the summary is more than a line"
        assert isinstance(info.offers, frozenset), f"offers is a {type(info.offers).__name__}, no frozenset"
        assert info.offers <= set(get_args(Capability)), f"unknown: {info.offers - set(get_args(Capability))}"
        assert info.capacity >= 1
        assert info == bench.info, "it describes itself in another way the second time"

    def test_its_options_are_a_frozen_dataclass_of_plain_fields_with_defaults(self, bench: Bench) -> None:
        """Core makes --adapter-opts-json, -o key=value and a page of documentation from it."""
        kind = bench.info.options
        if kind is None:
            return
        assert dataclasses.is_dataclass(kind), f"{kind!r} is no dataclass"
        record = kind()  # every field has a default
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            assert _is_plain(hints[field.name]), f"{field.name}: {hints[field.name]} is no type for an option"
            with pytest.raises(dataclasses.FrozenInstanceError, match=field.name):
                setattr(record, field.name, None)

    def test_identifying_an_image_is_stable_and_builds_nothing(self, bench: Bench, tmp_path: Path) -> None:
        """The id is part of the memo key, so the same entry has the same one, unless it is of one run."""
        processor = bench.processor(ANSWER)
        before = files_below(tmp_path)
        first, second = (bench.identify(processor) for _ in range(2))
        if first.is_passing:
            assert first.id != second.id, f"{first.id} is of one run, and two got it"
        else:
            assert first == second, "two answers for one entry"
        assert first.id, "the id is empty"
        assert first.digest is None or re.fullmatch(r"sha256:[0-9a-f]{64}", first.digest), f"{first.digest=}"
        assert first.platform == "" or re.fullmatch(r"[a-z0-9]+/[a-z0-9_/]+", first.platform), (
            f"{first.platform=}"
        )
        assert first.python is None or re.fullmatch(r"3\.[0-9]+", first.python), f"{first.python=}"
        assert files_below(tmp_path) == before, "identify wrote files"

    def test_a_diagnosis_is_a_tuple_of_findings(self, bench: Bench) -> None:
        """For theory doctor; an adapter need not have one."""
        for findings in bench.manager.hook.diagnose():
            assert isinstance(findings, tuple)
            assert all(isinstance(finding, Finding) for finding in findings), f"{findings!r}"

    # ---------------------------------------------------------------- execute: the straight way

    def test_outputs_land_in_out_byte_for_byte(self, bench: Bench) -> None:
        """Nothing is added, dropped or translated, and exit status 0 is told as such."""
        ran = bench.run(bench.job(*STEPS, outputs=ANSWER))
        assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 0), str(ran)
        assert ran.outputs() == {path: text.encode() for path, text in ANSWER.items()}

    def test_the_image_that_ran_is_the_one_that_is_identified_from_then_on(self, bench: Bench) -> None:
        """Or nothing that an image was built for would ever be remembered."""
        job = bench.job(*STEPS, outputs=ANSWER)
        ran = bench.run(job).outcome.image or job.image
        assert ran == bench.identify(job.processor)
        assert not ran.is_passing

    def test_the_start_is_told_once_and_before_any_output(self, bench: Bench) -> None:
        """The timeout counts from it."""
        ran = bench.run(bench.job(["say_hex", "stdout", b"hi".hex()], *STEPS, outputs=ANSWER))
        assert ran.channel.heard[:1] == ("started",), f"first it called {ran.channel.heard[:1]}"
        assert ran.channel.heard.count("started") == 1

    def test_times_are_those_of_this_execution(self, bench: Bench) -> None:
        """started_at in seconds since the epoch, duration_s in seconds, within what the caller saw."""
        ran = bench.run(bench.job(*STEPS, outputs=ANSWER))
        outcome = ran.outcome
        assert ran.began_at - CLOCK_S <= outcome.started_at <= ran.began_at + ran.took_s + CLOCK_S
        assert 0 <= outcome.duration_s <= ran.took_s + CLOCK_S
        assert outcome.cost_micro_usd is None or outcome.cost_micro_usd >= 0

    def test_the_same_job_twice_gives_the_same_bytes(self, bench: Bench) -> None:
        """In fresh folders, by a program that does the same."""
        job = bench.job(*STEPS, outputs=ANSWER)
        first, second = bench.run(job), bench.run(job)
        assert first.outputs() == second.outputs()

    def test_a_retry_that_finds_the_state_of_the_first_try_delivers_too(self, bench: Bench) -> None:
        """After a caller died, core executes the same id again with the same state folder."""
        job = bench.job(*STEPS, outputs=ANSWER)
        first, second = bench.workspace(job), bench.workspace(job)
        assert first.state == second.state
        bench.run(job, workspace=first)
        assert bench.run(job, workspace=second).outputs().keys() == ANSWER.keys()

    def test_jobs_at_once_do_not_mix(self, bench: Bench) -> None:
        """Four threads, each with an answer and a log of its own."""
        count = 4
        line_up = threading.Barrier(count)
        words = [f"job-{number}" for number in range(count)]
        jobs = [
            bench.job(
                ["say_hex", "stdout", word.encode().hex()],
                ["put", f"{word}.txt", word],
                outputs={f"{word}.txt": word},
            )
            for word in words
        ]
        channels = [ChannelInStep(line_up) for _ in words]
        started = [bench.start(job, channel=channel) for job, channel in zip(jobs, channels, strict=True)]
        for word, later in zip(words, started, strict=True):
            ran = later.within(bench.patience_s)
            assert ran.outcome.exit_code == 0, str(ran)
            assert ran.outputs() == {f"{word}.txt": word.encode()}
            if not bench.info.pretends:
                assert ran.channel.output("stdout") == word.encode()

    # ---------------------------------------------------------------- execute: the other ends

    def test_a_failing_command_is_an_outcome(self, bench: Bench) -> None:
        """Not an exception: core says what it means."""
        ran = bench.run(bench.job(["leave", 3], outputs=ANSWER), "exit 3")
        assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 3), str(ran)

    def test_a_command_is_ended_at_its_deadline(self, bench: Bench) -> None:
        """Soon after, not before, and with all its children."""
        job = bench.job(
            ["leave_a_child", "alive"], ["sleep", 300], outputs=ANSWER, runtime=Runtime(timeout=1)
        )
        ran = bench.run(job, "timeout")
        assert (ran.outcome.ended, ran.outcome.exit_code) == ("timeout", None), str(ran)
        assert ran.channel.deadline is not None
        assert ran.returned_at <= ran.channel.deadline + LATE_S
        if not bench.info.pretends:
            assert ran.returned_at >= ran.channel.deadline, "the command did not get its time"
            assert nothing_holds(ran.workspace.out / "alive"), LEFT_RUNNING

    @pytest.mark.parametrize("steps", [[], [["ignore_signals"]]], ids=["polite", "deaf to signals"])
    def test_a_cancelled_command_is_stopped_in_time(self, bench: Bench, steps: list[list[Json]]) -> None:
        """From another thread, within ten seconds, with all its children."""
        said = ["say_hex", "stdout", b"ready".hex()]
        job = bench.job(*steps, ["leave_a_child", "alive"], said, ["sleep", 300], outputs=ANSWER)
        channel = RecordingChannel()
        later = bench.start(job, "until cancelled", channel=channel)
        sign = "started" if bench.info.pretends else "stdout"
        channel.wait_for(lambda: sign in channel.heard, bench.patience_s)
        channel.cancel()
        ran = later.within(STOP_S)
        assert (ran.outcome.ended, ran.outcome.exit_code) == ("cancelled", None), str(ran)
        if not bench.info.pretends:
            assert nothing_holds(ran.workspace.out / "alive"), LEFT_RUNNING

    def test_a_child_that_is_left_behind_neither_delays_nor_outlives_the_command(self, real: Bench) -> None:
        """It has stdout open, which a reader that waits for the end of the stream would wait for."""
        channel = RecordingChannel()
        later = real.start(real.job(["leave_a_child", "alive"]), channel=channel)
        channel.wait_for(lambda: "started" in channel.heard, real.patience_s)
        ran = later.within(STOP_S)
        assert ran.outcome.exit_code == 0, str(ran)
        assert nothing_holds(ran.workspace.out / "alive"), LEFT_RUNNING

    def test_a_command_beyond_its_memory_does_not_succeed(self, real: Bench) -> None:
        """Where memory_limit is offered: it is killed, or it is refused the memory."""
        if "memory_limit" not in real.info.offers:
            pytest.skip("the adapter offers no memory_limit")
        ran = real.run(real.job(["allocate", 384], ["put", "a.txt", "a"], runtime=Runtime(memory=128)))
        assert ran.outcome.ended == "oom" or ran.outcome.exit_code != 0, str(ran)

    # ---------------------------------------------------------------- execute: what a program sees

    def test_output_is_passed_on_byte_for_byte(self, real: Bench) -> None:
        """Both streams, every byte, more than a pipe holds, and no line end at the end."""
        long = EVERY_BYTE * 2048
        steps = [
            ["say_hex", stream, data.hex()] for stream in ("stdout", "stderr") for data in (EVERY_BYTE, long)
        ]
        ran = real.run(real.job(*steps))
        assert ran.outcome.exit_code == 0
        for stream in ("stdout", "stderr"):
            same = ran.channel.output(stream) == EVERY_BYTE + long  # pytest would look for minutes for a diff
            assert same, f"{stream} is not what the program wrote"

    def test_output_is_passed_on_while_the_command_runs(self, real: Bench) -> None:
        """So that people see tokens as they come."""
        channel = RecordingChannel()
        later = real.start(real.job(["say_hex", "stdout", b"tok".hex()], ["sleep", 300]), channel=channel)
        channel.wait_for(lambda: channel.output("stdout") == b"tok", real.patience_s)
        channel.cancel()
        assert later.within(STOP_S).outcome.ended == "cancelled"

    def test_outputs_may_be_any_bytes(self, real: Bench) -> None:
        """Not only text."""
        ran = real.run(real.job(["put_hex", "deep/er/every.bin", EVERY_BYTE.hex()]))
        assert ran.outputs() == {"deep/er/every.bin": EVERY_BYTE}, str(ran)

    def test_an_input_file_is_at_its_world_path_and_read_only(self, real: Bench) -> None:
        """THEORY_ROOT in front of the path in the inputs."""
        artifact = artifact_of("every byte.bin", EVERY_BYTE)
        job = real.job(
            ["copy_input", artifact.path, "copy.bin"],
            ["try_to_write", artifact.path, "try.json"],
            files=(artifact,),
        )
        ran = real.run(job, workspace=real.workspace(job, {artifact.path: EVERY_BYTE}))
        assert ran.outcome.exit_code == 0, str(ran)
        assert ran.outputs()["copy.bin"] == EVERY_BYTE
        tried = json.loads(ran.outputs()["try.json"])
        # No mode stops root, where the adapter leaves the command as it is itself.
        assert tried["refused"] or (tried["is_root"] and not tried["mode"] & 0o222), (
            f"it can be written: {tried}"
        )

    def test_the_environment_is_the_documented_one_and_nothing_of_the_callers(
        self, real: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Job.environment with PATH, HOME and TMPDIR, and THEORY_ROOT where the adapter has one."""
        monkeypatch.setenv("THEORY_CONTRACT_CANARY", "tweet")
        monkeypatch.setenv("PYTHONPATH", "/tweet")
        job = real.job(["show_environment", "seen.json"])
        ran = real.run(job)
        assert ran.outcome.exit_code == 0, str(ran)
        seen = json.loads(ran.outputs()["seen.json"])
        variables = seen["variables"]
        added = {"THEORY_ROOT", "PATH", "HOME", "TMPDIR"}
        assert added <= variables.keys(), f"{sorted(added - variables.keys())} missing"
        by_the_system = {"__CF_USER_TEXT_ENCODING"}  # macOS gives it to every process
        surplus = variables.keys() - job.environment.keys() - added - self.image_environment - by_the_system
        assert not surplus, f"{sorted(surplus)} should not be there"
        told = {
            **job.environment,
            "THEORY_ROOT": variables["THEORY_ROOT"],
        }  # "" unless the adapter has a root
        assert {name: variables.get(name) for name in told} == told
        assert variables["HOME"] == variables["TMPDIR"]
        assert seen["home_is_writable"], (
            f"HOME={variables['HOME']} is no folder that the program can write to"
        )
        assert "tweet" not in json.dumps(seen)

    def test_a_secret_reaches_the_program_and_stays_nowhere(self, real: Bench, tmp_path: Path) -> None:
        """In NAME, or in the file that NAME_FILE names; as the entry asks, where the adapter offers it."""
        offered = [way for way in ("env", "file") if f"secrets_{way}" in real.info.offers]
        if not offered:
            pytest.skip("the adapter offers no secrets")
        for deliver in (None, *offered):
            value = f"secret-{random_source.token_hex(16)}"
            needs = SecretNeeds(required=("CONTRACT_KEY",), deliver=deliver)  # type: ignore[arg-type]  # env or file
            job = real.job(["find_secret", "CONTRACT_KEY", "found.json"], secrets=needs)
            ran = real.run(job, secrets=Secrets({"CONTRACT_KEY": value}))
            assert ran.outcome.exit_code == 0, str(ran)
            found = json.loads(ran.outputs()["found.json"])
            assert found["sha256"] == hashlib.sha256(value.encode()).hexdigest(), f"the program found {found}"
            assert deliver in {None, found["where"]}, f"asked for {deliver}, the program found {found}"
            leaks = [path for path, data in files_below(tmp_path).items() if value.encode() in data]
            assert not leaks, f"the secret is still in {leaks}"
            assert value not in repr(ran.outcome)
            assert value not in os.environ.values(), "the secret is in the caller's own environment"


def _is_plain(kind: object) -> bool:
    """Whether core can read an option of this type from text and from JSON."""
    if get_origin(kind) is Literal:
        return all(isinstance(value, (str, int, float, bool)) for value in get_args(kind))
    if get_origin(kind) in {Union, types.UnionType}:
        return all(member is types.NoneType or _is_plain(member) for member in get_args(kind))
    return kind in {str, int, float, bool}

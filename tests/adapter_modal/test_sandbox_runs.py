"""Jobs in sandboxes: what goes in, what comes out, how they end."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import pytest
from modal_proto import api_pb2

from adapter_modal.sandboxes import Sandboxes
from theory import errors
from theory.testing.bench import artifact_of
from theory.types import Runtime, Secrets

if TYPE_CHECKING:
    from pathlib import Path

    from modal_emulator.handle import Handle

MANY = 600  # files; the limit of core is 20,000
LARGE = 6 * 1024 * 1024  # bytes, more than any message of the protocol


@pytest.fixture
def sandboxes(emulator: Handle, tmp_path: Path) -> Sandboxes:
    assert emulator.environ
    return Sandboxes(tmp_path)


def test_what_a_run_asks_of_modal_is_what_its_entry_says(emulator: Handle, sandboxes: Sandboxes) -> None:
    job = sandboxes.job("print('hi')", runtime=Runtime(cpu=0.5, memory=256, timeout=9))
    ran = sandboxes.start(dataclasses.replace(job, plan="Team ä")).within(60.0)
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 0), str(ran)
    (made,) = emulator.requests("SandboxCreateV2")
    asked = made["request"]["definition"]
    assert asked["name"] == f"theory-{ran.job.execution_id}"
    given = {name: asked["resources"][name] for name in ("milli_cpu_max", "memory_mb_max")}
    assert given == {"milli_cpu_max": 500, "memory_mb_max": 256}
    assert asked["network_access"]["network_access_type"] == api_pb2.NetworkAccess.BLOCKED
    assert {tag["tag_name"]: tag["tag_value"] for tag in made["request"]["tags"]} == {
        "theory.execution": ran.job.execution_id,
        "theory.ref": "contract.steps.1",
        "theory.plan": "Team---18518279",
    }
    assert asked["idle_timeout_secs"] == 600
    assert (ran.outcome.cost_micro_usd or 0) > 0


def test_nothing_is_left_of_a_run(emulator: Handle, sandboxes: Sandboxes) -> None:
    ran = sandboxes.run("pass")
    assert len(emulator.requests("SandboxTerminateV2")) == 1
    assert list((ran.workspace.cache / "sandboxes").iterdir()) == []


def test_large_files_go_in_and_out_byte_for_byte(sandboxes: Sandboxes) -> None:
    data = os.urandom(LARGE)
    artifact = artifact_of("large.bin", data)
    job = sandboxes.job(
        f"import shutil; shutil.copy({artifact.path!r}, '/job/out/copy.bin')", files=(artifact,)
    )
    ran = sandboxes.bench.run(job, workspace=sandboxes.bench.workspace(job, {artifact.path: data}))
    assert ran.outcome.exit_code == 0, str(ran)
    assert (ran.workspace.out / "copy.bin").read_bytes() == data


def test_many_files_come_out(sandboxes: Sandboxes) -> None:
    code = f"""
import os
for n in range({MANY}):
    os.makedirs(f"/job/out/{{n % 7}}", exist_ok=True)
    open(f"/job/out/{{n % 7}}/{{n}}.txt", "w").write(str(n))
"""
    found = sandboxes.run(code).outputs()
    assert found == {f"{n % 7}/{n}.txt": str(n).encode() for n in range(MANY)}


def test_links_and_pipes_arrive_as_such_so_that_core_refuses_them(sandboxes: Sandboxes) -> None:
    code = """
import os
os.chdir("/job/out")
os.symlink("/etc/passwd", "link")
os.mkfifo("pipe")
open("kept.txt", "w").write("kept")
os.link("kept.txt", "second.txt")
"""
    out = sandboxes.run(code).workspace.out
    assert os.readlink(out / "link") == "/etc/passwd"
    assert (out / "pipe").is_fifo()
    assert (out / "second.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import socket; socket.socket(socket.AF_UNIX).bind('/job/out/a')", "the output 'a' is a socket"),
        ("import os; os.rename('/job/out', '/job/other')", "was replaced or removed"),
        ("import os; os.rmdir('/job/out'); os.symlink('/etc', '/job/out')", "was replaced or removed"),
    ],
    ids=["socket", "removed", "link in its place"],
)
def test_outputs_that_cannot_be_taken_are_refused(sandboxes: Sandboxes, code: str, words: str) -> None:
    with pytest.raises(errors.BadOutputPath, match=words):
        sandboxes.run(code)


def test_names_that_are_no_text_arrive_as_they_are(sandboxes: Sandboxes) -> None:
    ran = sandboxes.run(
        "open(b'/job/out/a\\xff', 'w').write('x'); open('/job/out/ü' + 'a' * 120, 'w').write('y')"
    )
    names = sorted(os.listdir(os.fsencode(ran.workspace.out)))
    assert names == [b"a\xff", "ü".encode() + b"a" * 120]


def test_a_command_that_is_not_there_ends_as_in_a_shell(sandboxes: Sandboxes) -> None:
    ran = sandboxes.run("", command=("/no/such/program",))
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 127), str(ran)


def test_a_signal_is_a_status_as_shells_have_it(sandboxes: Sandboxes) -> None:
    ran = sandboxes.run("import os; os.kill(os.getpid(), 15)")
    assert (ran.outcome.ended, ran.outcome.exit_code) == ("exit", 143), str(ran)


def test_a_run_that_is_too_long_for_modal_is_refused_before_it_costs(
    emulator: Handle, sandboxes: Sandboxes
) -> None:
    with pytest.raises(errors.Unsupported, match="a sandbox of Modal lives for 86400 s"):
        sandboxes.run("", runtime=Runtime(timeout=90_000))
    assert emulator.requests("SandboxCreateV2") == []


def test_secrets_are_variables_of_the_command_and_in_no_request(
    emulator: Handle, sandboxes: Sandboxes
) -> None:
    code = "import json, os; json.dump(os.environ['KEY'][::-1], open('/job/out/k.json', 'w'))"
    ran = sandboxes.run(code, secrets=Secrets({"KEY": "a-hidden-value"}))
    assert json.loads(ran.outputs()["k.json"]) == "eulav-neddih-a"
    told = [line for line in emulator.requests() if "a-hidden-value" in json.dumps(line)]
    assert not [line["method"] for line in told if line["method"] != "TaskExecStart"]


def test_an_image_without_a_shell_runs(emulator: Handle, sandboxes: Sandboxes) -> None:
    # The shell is taken away by the command itself: what follows has the file tool alone.
    code = """
import os
os.makedirs("/job/out/deep"); open("/job/out/deep/a.bin", "wb").write(bytes(range(256)))
os.symlink("a.bin", "/job/out/link")
os.remove("/bin/sh")
"""
    ran = sandboxes.run(code)
    assert ran.outcome.exit_code == 0, str(ran)
    assert ran.outputs()["deep/a.bin"] == bytes(range(256))
    assert os.readlink(ran.workspace.out / "link") == "a.bin"
    assert emulator.unknown() == []


def test_graphics_cards_are_asked_for_by_their_name(emulator: Handle, sandboxes: Sandboxes) -> None:
    ran = sandboxes.run("print('hi')", runtime=Runtime(gpu="t4"))
    assert ran.outcome.exit_code == 0, str(ran)
    assert ran.channel.output("stdout") == b"hi\n"
    (made,) = emulator.requests("SandboxCreate")
    assert made["request"]["definition"]["resources"]["gpu_config"]["gpu_type"] == "T4"
    assert emulator.requests("SandboxTerminate")

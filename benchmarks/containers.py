"""One small container: by theory, by ``docker run``, by cwltool, and by the engine's bare API.

    python benchmarks/containers.py [CWLTOOL]

Needs a Docker engine and the image python:3.11-slim. CWLTOOL is the path of a cwltool to compare with;
without it that row is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rounds import compare, ratio

from theory import Runner, Success
from theory_adapter_local.engine.client import engine_of
from theory_adapter_local.engine.faults import DockerUnavailable

if TYPE_CHECKING:
    from theory.types import JsonObject
    from theory_adapter_local.engine.client import Engine

INPUTS = {"text": "to be or not to be"}
COMMAND = ["python", "main.py"]
RUN = "theory run --adapter local"
HIT = "theory run --adapter local, memo hit"
DOCKER = "docker run --rm --network none"
CWLTOOL = "cwltool, Docker"
AT_ONCE, COUNT = 20, 60


def main() -> None:
    """Measure."""
    cwltool = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else shutil.which("cwltool")
    try:
        engine = engine_of()
    except DockerUnavailable as error:
        print(f"{error.message}: {error.hint}")
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THEORY_HOME"] = f"{folder}/home"
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        with Runner() as runner:
            image = built(runner)
            before = left(engine)
            cold(Path(folder), image, cwltool)
            in_process(runner, engine, image)
            at_once(runner, engine, image)
            after = left(engine)
    print(f"\nthreads {threading.active_count()}; containers and volumes left behind: {after - before}")


def built(runner: Runner) -> str:
    """The image of text/wordcount@1, built where it is missing."""
    envelope = runner.run("text/wordcount@1", INPUTS, adapter="local", memo="off")
    assert isinstance(envelope, Success), envelope
    return str(envelope.meta["image_digest"])


def cold(home: Path, image: str, cwltool: str | None) -> None:
    """From the command line, one after the other."""
    theory = str(Path(sys.executable).parent / "theory")
    job = home / "job"
    (job / "out").mkdir(parents=True)
    (job / "inputs.json").write_text(json.dumps(INPUTS))
    shared = ["-v", f"{job}/inputs.json:/job/inputs.json:ro", "-v", f"{job}/out:/job/out"]
    run = [
        theory,
        "run",
        "text/wordcount@1",
        "--adapter",
        "local",
        "--json",
        "--inputs-json",
        json.dumps(INPUTS),
    ]
    bare = ["docker", "run", "--rm", "--network", "none", "--user", "0", *shared, image, *COMMAND]

    def call(*command: str) -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, cwd=home, check=True)

    call(*run, "--memo")
    measured = {
        DOCKER: lambda: call(*bare),
        RUN: lambda: call(*run, "--no-memo"),
        HIT: lambda: call(*run, "--memo"),
    }
    if cwltool:
        (home / "tool.cwl").write_text(json.dumps(tool(image)))
        words = [
            cwltool,
            "--quiet",
            "--disable-pull",
            "--outdir",
            "cwl",
            "tool.cwl",
            "--text",
            INPUTS["text"],
        ]
        measured[CWLTOOL] = lambda: call(*words)
    seconds = compare(DOCKER, measured)
    print()
    promises = [(RUN, DOCKER, 1.2), *([(RUN, CWLTOOL, 0.15)] if cwltool else [])]
    for name, yardstick, most in promises:
        print(f"{ratio(seconds[name], seconds[yardstick]):6.2f}  at most {most:4} {name} / {yardstick}")


def tool(image: str) -> JsonObject:
    """The same work as cwltool has it."""
    listing: JsonObject = {
        "class": "InitialWorkDirRequirement",
        "listing": [{"entryname": "inputs.json", "entry": '{"text": "$(inputs.text)"}'}],
    }
    script = "mkdir -p /tmp/job/out && cp inputs.json /tmp/job/ && cd /app && THEORY_ROOT=/tmp python main.py"
    return {
        "cwlVersion": "v1.2",
        "class": "CommandLineTool",
        "requirements": [{"class": "DockerRequirement", "dockerImageId": image}, listing],
        "baseCommand": ["sh", "-c", f"here=$PWD; {script} && cp /tmp/job/out/counts.json $here/"],
        "inputs": {"text": {"type": "string"}},
        "outputs": {"counts": {"type": "File", "outputBinding": {"glob": "counts.json"}}},
    }


def in_process(runner: Runner, engine: Engine, image: str) -> None:
    """One after the other in one process."""
    print()
    name, bare = "Runner.run", "create, start, wait, remove"
    measured = {bare: lambda: contained(engine, image), name: lambda: executed(runner)}
    seconds = compare(bare, measured)
    print(f"\n{ratio(seconds[name], seconds[bare]):6.2f}  at most  1.1 {name} / {bare}")


def at_once(runner: Runner, engine: Engine, image: str) -> None:
    """Twenty at a time."""
    print()
    rates = {}
    for name, call in (
        ("bare", lambda: contained(engine, image)),
        ("Runner.run", lambda: executed(runner)),
    ):
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(call) for _ in range(COUNT)]:
                done.result()
        rates[name] = COUNT / (time.perf_counter() - began)
        print(f"{name:12} {rates[name]:6.1f} containers a second, {AT_ONCE} at once")
    print(f"{rates['Runner.run'] / rates['bare']:6.2f}  at least 0.9 of the bare API's")


def executed(runner: Runner) -> None:
    """One execution, durable."""
    envelope = runner.run("text/wordcount@1", INPUTS, adapter="local", memo="off")
    assert isinstance(envelope, Success), envelope


def contained(engine: Engine, image: str) -> None:
    """One container of the same image that does no less than start Python, by the API alone."""
    body: JsonObject = {
        "Image": image,
        "Entrypoint": COMMAND[:1],
        "Cmd": ["-c", "import json, os, re, collections, pathlib"],
        "HostConfig": {"NetworkMode": "none"},
    }
    made = engine.call("POST", "/containers/create", body=body)["Id"]
    engine.call("POST", f"/containers/{made}/start")
    engine.call("POST", f"/containers/{made}/wait", timeout_s=None)
    engine.call("DELETE", f"/containers/{made}", query={"force": "1"})


def left(engine: Engine) -> int:
    """How many containers and volumes there are."""
    containers = engine.call("GET", "/containers/json", query={"all": "1"})
    return len(containers) + len(engine.call("GET", "/volumes")["Volumes"] or ())


if __name__ == "__main__":
    main()

"""What one adapter remembers of a pinned image serves the others."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapter_local.registry import Registry
from core.bed import read
from parity.parity import WAYS, Way, run
from theory import Runner, Success

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modal_emulator.handle import Handle
    from theory_adapter_local.engine.client import Engine

REF = "pinned/shell@1"
ENTRY = """\
ref: {ref}
description: Says what it is told
image: {{oci: "{image}"}}
command: [/bin/sh, -c, 'read -r it < /job/inputs.json; echo "$it" > /job/out/said.txt']
runtime: {{timeout: 60}}
determinism: pure
"""


def shell() -> dict[str, bytes]:
    """The files of an image with a shell and nothing else: this machine's, with what it is linked to."""
    listed = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    return {path.lstrip("/"): Path(path).read_bytes() for path in ("/bin/sh", *re.findall(r"/\S+", listed))}


@pytest.fixture(scope="module")
def pinned(runner: Runner, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The same home with an entry that pins its image by digest; a registry on loopback has it."""
    registry = Registry()
    try:
        digest = registry.add("acme/shell", "1", [shell()])
        image = f"{registry.host}/acme/shell@{digest}"
        folder = tmp_path_factory.mktemp("pinned") / "pinned" / "shell" / "1"
        folder.mkdir(parents=True)
        (folder / "processor.yaml").write_text(ENTRY.format(ref=REF, image=image))
        environ = {"THEORY_HOME": str(runner.settings.home), "THEORY_REGISTRY": str(folder.parents[2])}
        with Runner(environ=environ, plugins=runner.plugins) as one:
            yield one
        engine.call("DELETE", f"/images/{image}", query={"force": "1"})
    finally:
        registry.close()


@pytest.mark.parametrize(("first", "second"), [("local", "modal"), ("modal", "local")])
def test_a_pinned_image_is_run_once_whoever_runs_it(
    pinned: Runner, modal: Handle, first: str, second: str
) -> None:
    def once(way: Way) -> Success:
        envelope = run(pinned, way, REF, {"said": f"by {first}"}, memo="auto")
        assert isinstance(envelope, Success), envelope
        return envelope

    miss = once(WAYS[first])
    asked = len(modal.requests("SandboxCreateV2"))
    hit = once(WAYS[second])
    assert (miss.meta["memo"], hit.meta["memo"]) == ("miss", "hit")
    assert (miss.meta["adapter"], hit.meta["adapter"]) == (first, second)
    assert miss.outputs == hit.outputs
    assert miss.meta["image_digest"] == hit.meta["image_digest"]
    assert read(pinned, hit.outputs[0].path) == f'{{"said":"by {first}"}}\n'.encode()
    assert len(modal.requests("SandboxCreateV2")) == asked

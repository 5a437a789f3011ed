"""A Dockerfile whose step fails: the same code everywhere, the step and its last words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parity.parity import WAYS, run
from theory import Runner
from theory.types import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

REF = "broken/build@1"
ENTRY = """\
ref: broken/build@1
description: Cannot be built
image: {dockerfile: Dockerfile}
command: [python, main.py]
"""


@pytest.fixture
def broken(runner: Runner, tmp_path_factory: pytest.TempPathFactory, base_image: str) -> Iterator[Runner]:
    """The same home with an entry whose image cannot be built."""
    folder = tmp_path_factory.mktemp("broken") / "broken" / "build" / "1"
    folder.mkdir(parents=True)
    (folder / "processor.yaml").write_text(ENTRY)
    (folder / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo first\nRUN echo boom >&2; exit 7\n")
    environ = {"THEORY_HOME": str(runner.settings.home), "THEORY_REGISTRY": str(folder.parents[2])}
    with Runner(environ=environ, plugins=runner.plugins) as one:
        yield one


@pytest.mark.parametrize("name", ["local", "modal"])
def test_the_step_that_failed_is_named_with_its_last_words(broken: Runner, name: str) -> None:
    envelope = run(broken, WAYS[name], REF, {})
    assert isinstance(envelope, Failure)
    assert (envelope.code, envelope.exit_code) == ("ERR_IMAGE_BUILD", 1)
    assert "RUN echo boom >&2; exit 7" in envelope.message
    assert "boom" in envelope.message.splitlines()
    assert "first" not in envelope.message

"""The adapter ``modal`` keeps the promises that every adapter makes, in sandboxes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import theory.testing.adapters
import theory_adapter_modal.adapter
from theory.testing import AdapterContract
from theory.testing.bench import Bench
from theory.types import ImageSource, Processor

if TYPE_CHECKING:
    from collections.abc import Iterator

PINNED = f"python:3.11-slim@sha256:{'5' * 64}"


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """The contract's program, in a place that the emulator's processes see, which is not /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="theory-modal-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield Path(shutil.copy(Path(theory.testing.adapters.__file__).with_name("processor.py"), folder))
    shutil.rmtree(folder)


@pytest.mark.skipif(
    os.environ.get("THEORY_EMULATOR_RUNNER", "process") != "process",
    reason="the contract's image is pinned by a digest that only the emulator's runner of processes takes",
)
@pytest.mark.usefixtures("emulator")
class TestModal(AdapterContract):
    # What Modal sets in each of its containers, and what starts commands there.
    image_environment = frozenset(
        {"MODAL_SANDBOX_ID", "MODAL_TASK_ID", "MODAL_IMAGE_ID", "MODAL_IS_REMOTE", "PWD", "LANG"}
    )

    def image(self, folder: Path) -> ImageSource:  # noqa: ARG002 - nothing is built
        return ImageSource(oci=PINNED)

    @pytest.fixture
    def bench(self, adapter: object, tmp_path: Path, cache: Path, program: Path) -> Bench:
        """Its command is a file of this machine, which the emulator's processes see."""

        class Here(Bench):
            def processor(self, outputs: dict[str, str] | None = None, **changes: object) -> Processor:
                return super().processor(outputs, **{"command": ("python", str(program)), **changes})

        return Here(adapter, tmp_path, cache, self.image, self.material, self.options, self.patience_s)

    # The emulator's processes have no memory of their own; tests/parity does this in containers.
    test_a_command_beyond_its_memory_does_not_succeed = None  # type: ignore[assignment]

    @pytest.fixture
    def adapter(self) -> object:
        return theory_adapter_modal.adapter

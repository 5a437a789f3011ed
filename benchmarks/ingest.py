"""An attachment on its way into the store, durable, against copying and hashing the same file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from blake3 import blake3
from rounds import compare

from theory import Runner

MIB = 1024 * 1024


def main() -> None:
    """Measure; the size in MiB is the argument, 256 unless told."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THEORY_HOME"] = f"{folder}/home"
        source, copy = Path(folder, "source.bin"), Path(folder, "copy.bin")
        with source.open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(MIB))
        with Runner() as runner:

            def attach() -> None:
                envelope = runner.run(
                    "text/wordcount@1",
                    {"file": {"$attach": "file"}},
                    attachments={"file": source},
                    adapter="mock",
                    memo="off",
                )
                assert envelope.status == "success", envelope

            def copy_and_hash() -> None:
                subprocess.run(["cp", source, copy], check=True)
                hasher = blake3()
                with source.open("rb", buffering=0) as file:
                    while block := file.read(MIB):
                        hasher.update(block)

            def copy_durably() -> None:
                subprocess.run(["cp", source, copy], check=True)
                subprocess.run(["sync", "-f", copy], check=True)

            compare(
                "cp, and hashing in one thread",
                {
                    "cp, and hashing in one thread": copy_and_hash,
                    "cp && sync -f": copy_durably,
                    f"theory, attachment of {size} MiB": attach,
                },
                rounds=5,
            )


if __name__ == "__main__":
    main()

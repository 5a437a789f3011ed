"""10,000 files of 4 KiB into the store, durable, against copying them with ``cp -r`` and a sync."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rounds import compare

from theory.store import blobs
from theory.store.filestore import FileStore

SIZE_BYTES = 4096


def main() -> None:
    """Measure; the number of files is the argument, 10,000 unless told."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        for number in range(count):
            (source / f"{number}.bin").write_bytes(os.urandom(SIZE_BYTES))
        subprocess.run(["sync", "-f", source], check=True)
        rounds = iter(range(1000))  # nothing is deleted between: that would slow down what comes next

        def put() -> None:
            store = FileStore(Path(folder, f"store{next(rounds)}"))
            with blobs.Batch(store) as batch:
                for entry in os.scandir(source):
                    descriptor = os.open(entry.path, os.O_RDONLY)
                    batch.add(blobs.stage(store, descriptor))
                    os.close(descriptor)
                batch.put()
            assert sum(1 for _ in store.list()) == count
            store.close()

        def copy_durably() -> None:
            copy = Path(folder, f"copy{next(rounds)}")
            subprocess.run(["cp", "-r", source, copy], check=True)
            subprocess.run(["sync", "-f", copy], check=True)

        compare(
            "cp -r && sync -f",
            {"cp -r && sync -f": copy_durably, f"theory, {count:,} files put into a new store": put},
            rounds=5,
        )


if __name__ == "__main__":
    main()

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from theory.disk.mounts import file_system, is_local

if TYPE_CHECKING:
    from pathlib import Path

ASK = "import sys; from theory.disk.mounts import file_system; print(*map(file_system, sys.argv[1:]))"


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    inner = tmp_path / "a b" / "inner"
    inner.mkdir(parents=True)
    mounted = 'mount -t tmpfs none "$0" && mkdir -p "$0/x" && exec "$@"'
    wrapper = ["unshare", "-rm", "sh", "-c", mounted, str(inner)]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the file system cannot be mounted here")
    (tmp_path / "link").symlink_to(inner)
    asked = [str(inner), str(inner / "x"), str(tmp_path / "link"), str(tmp_path / "a b"), "/proc"]
    done = subprocess.run([*wrapper, sys.executable, "-c", ASK, *asked], check=True, capture_output=True)
    outside = file_system(str(tmp_path))
    assert done.stdout.decode().split() == ["tmpfs", "tmpfs", "tmpfs", outside, "proc"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_what_is_no_disk_of_this_machine_is_not_local() -> None:
    assert not is_local("/proc")

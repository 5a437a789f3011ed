"""A job's environment is closed and the same everywhere; its fingerprint says where it ran."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from core.bed import Fake, good, house, write_entry
from theory import Image

if TYPE_CHECKING:
    from pathlib import Path


def test_the_environment_is_what_the_design_says_and_nothing_of_the_callers(tmp_path: Path) -> None:
    write_entry(tmp_path / "entries", runtime={"cpu": 1.5})
    adapter = Fake()
    with house(tmp_path, adapter, environ={"PATH": "/mine", "LANG": "de_DE"}) as runner:
        envelope = good(runner.run("test/thing@1", seed=2**32 + 5))
    threads = dict.fromkeys(
        [
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
            "NUMEXPR_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS",
            "RAYON_NUM_THREADS",
        ],
        "2",
    )
    assert adapter.calls[0].job.environment == {
        "THEORY_EXECUTION_ID": envelope.execution_id,
        "THEORY_REF": "test/thing@1",
        "THEORY_SEED": "4294967301",
        "THEORY_ROOT": "",
        "USER": "theory",
        "LOGNAME": "theory",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "5",
        "SOURCE_DATE_EPOCH": "315532800",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        **threads,
    }


@pytest.mark.parametrize(
    ("platform", "python", "expected"),
    [
        ("linux/amd64", "3.11", "linux_x64_py311_test-thing"),
        ("linux/arm64", "3.9", "linux_arm64_py39_test-thing"),
        ("linux/arm/v7", None, "linux_armv7_none_test-thing"),
        ("", None, "none_none_none_test-thing"),
        ("linux", None, "linux_none_none_test-thing"),
    ],
)
def test_the_fingerprint_has_none_for_what_is_unknown(
    tmp_path: Path, platform: str, python: str | None, expected: str
) -> None:
    adapter = Fake()
    with house(tmp_path, adapter) as runner:
        runner.run("test/thing@1")
    job = dataclasses.replace(adapter.calls[0].job, image=Image("x", None, platform, python))
    assert job.env_fingerprint == expected


def test_the_time_that_a_caller_gives_is_the_commands(tmp_path: Path) -> None:
    adapter = Fake()
    with house(tmp_path, adapter) as runner:
        runner.run("test/thing@1", timeout=2.5)
    assert adapter.calls[0].job.processor.runtime.timeout == 2.5

"""What the adapter says of itself and of an entry, before anything runs."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import theory_adapter_process.adapter as process
from theory import errors
from theory.options import options_of
from theory_adapter_process.adapter import Options

if TYPE_CHECKING:
    from theory.testing.bench import Bench


def test_it_does_not_claim_to_isolate() -> None:
    info = process.describe_adapter()
    assert not info.offers & {"isolation", "image", "gpu", "cpu_limit"}
    assert {"process", "network", "secrets_env"} <= info.offers
    assert "no isolation" in info.summary
    assert not info.pretends


def test_memory_is_offered_as_limited_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for linux in (True, False):
        monkeypatch.setattr(process, "_LINUX", linux)
        assert ("memory_limit" in process.describe_adapter().offers) is linux


def test_an_entry_without_a_command_is_refused(bench: Bench) -> None:
    message = "contract/steps@1 has no command, so it needs its image; process cannot run images"
    with pytest.raises(errors.Unsupported, match=re.escape(message)) as caught:
        process.identify(bench.processor(command=None), Options())
    assert caught.value.hint == "theory run contract/steps@1 --adapter local"


def test_a_program_that_this_machine_lacks_is_refused(bench: Bench) -> None:
    with pytest.raises(
        errors.Unsupported, match="contract/steps@1 runs 'no-such-program', which is not on this"
    ):
        process.identify(bench.processor(command=("no-such-program", "-x")), Options())


def test_an_entry_without_its_program_is_refused(bench: Bench) -> None:
    with pytest.raises(
        errors.Unsupported, match=r"contract/steps@1 runs 'gone\.py', which is not in its folder"
    ):
        process.identify(bench.processor(command=("python", "gone.py", "-x")), Options())


@pytest.mark.parametrize("program", ["python", "python3", "sh", "./none", "/none/at/all"])
def test_what_may_be_there_is_not_refused(bench: Bench, program: str) -> None:
    assert process.identify(bench.processor(command=(program,)), Options()).python


def test_an_image_is_the_content_of_its_environment(bench: Bench) -> None:
    """The id is part of memo keys: changing it forgets every result."""
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / "lock").write_bytes(b"tiny==1.0\n")
    plain = process.identify(bench.processor(), Options())
    locked = process.identify(bench.processor(adapter={"process": {"requirements": "lock"}}), Options())
    if sys.version_info[:2] == (3, 11):
        assert plain.id == "process:b3:a2e2b63fefe77e1ba7953b87387615c0f5cb10c2d06b3d09f9e5dcd408d40003"
        assert locked.id == "process:b3:664304ca8647cc789a2dac4f8590767e5c0cb8f8fb3751b32b1c0be7a38d87e0"
    assert plain.id != locked.id
    assert plain.digest is None
    assert plain.python == "{}.{}".format(*sys.version_info)


def test_the_platform_is_spelled_as_docker_does(bench: Bench) -> None:
    system, _, arch = process.identify(bench.processor(), Options()).platform.partition("/")
    assert system == sys.platform
    assert arch == {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"requirement": "x"}, "contract/steps@1: /adapter/process/requirement is unknown"),
        ({"requirements": 3}, "/adapter/process/requirements is no path below the entry's folder"),
        ({"requirements": "../x"}, "/adapter/process/requirements is no path below the entry's folder"),
        (
            {"requirements": "/etc/passwd"},
            "/adapter/process/requirements is no path below the entry's folder",
        ),
        (
            {"requirements": "none.lock"},
            "/adapter/process/requirements: none.lock: No such file or directory",
        ),
    ],
    ids=["unknown key", "no text", "upwards", "absolute", "missing"],
)
def test_a_faulty_entry_is_told(bench: Bench, told: dict[str, object], message: str) -> None:
    with pytest.raises(errors.RegistryFault, match=re.escape(message)):
        process.identify(bench.processor(adapter={"process": told}), Options())


@pytest.mark.parametrize(
    "line",
    [
        *("-r other.txt", "  --requirement=other.txt", "-rother.txt", "--req other", "-c limits.txt", "-e ."),
        *("-f wheels", "--find-links=wheels", "./tiny.whl", "tiny.whl", "tiny-1.0.tar.gz[extra]", "../tiny"),
        *("sub/tiny", "/abs/tiny", "file:///tiny.whl", "tiny @ file:tiny.whl", "tiny==${VERSION}", "."),
        *("tiny @ https://host/${NAME}.whl", "tiny==1 -r other", "tiny==1 --hash=sha256:00 -r other"),
        *("\\\n-r other", "--config-settings=x", "-"),
    ],
)
def test_a_lock_that_takes_in_what_it_does_not_cover_is_refused(bench: Bench, line: str) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / "lock").write_text(f"tiny==1.0\n{line}\n", encoding="utf-8")
    with pytest.raises(errors.RegistryFault, match=r"lock, line [23] takes in what the lock itself does not"):
        process.identify(bench.processor(adapter={"process": {"requirements": "lock"}}), Options())


def test_a_line_of_many_spaces_is_judged_as_fast_as_any(bench: Bench) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    spaces = " " * 10_000  # with the patterns alone this takes hours
    (folder / "lock").write_text(f"tiny{spaces}==1.0{spaces}\ntiny{spaces}&\n", encoding="utf-8")
    with pytest.raises(errors.RegistryFault, match="lock, line 2 takes in what"):
        process.identify(bench.processor(adapter={"process": {"requirements": "lock"}}), Options())


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("tiny@https://" + ";" * 1_000_000 + "$", 1), ("tiny==1;" + ".whl[" * 200_000, 2)],
    ids=["markers", "extras"],
)
def test_a_line_that_seems_to_end_many_times_is_judged_as_fast_as_any(
    bench: Bench, line: str, wrong: int
) -> None:
    # To try one end after the other takes hours.
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / "lock").write_text(f"{line}\n-r other\n", encoding="utf-8")
    with pytest.raises(errors.RegistryFault, match=f"lock, line {wrong} takes in what"):
        process.identify(bench.processor(adapter={"process": {"requirements": "lock"}}), Options())


@pytest.mark.parametrize(
    "lock",
    [
        "tiny==1.0",
        "tiny[a, b]>=1,<2 ; python_version<'3.12'",
        "tiny (==1.0)",
        "zope.interface===5.0+local",
        "tiny==1.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n    # via other \\",
        "--index-url https://${TOKEN}@host/\n-i https://host/\n--no-binary tiny\n--only-binary=:all:",
        "tiny @ https://host/tiny.whl --hash=sha256:00",
        "git+https://host/tiny@abc",
        "\ufeff# a comment -r other\n\n",
    ],
)
def test_a_lock_of_names_versions_and_hashes_is_taken(bench: Bench, lock: str) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / "lock").write_text(lock, encoding="utf-8")
    assert process.identify(bench.processor(adapter={"process": {"requirements": "lock"}}), Options()).id


def test_a_lock_that_is_too_large_is_refused_and_not_cut(bench: Bench) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    (folder / "lock").write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(errors.RegistryFault, match="lock is larger than 4 MiB"):
        process.identify(bench.processor(adapter={"process": {"requirements": "lock"}}), Options())


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028"], ids=ascii)
def test_a_lock_of_too_many_lines_is_refused_before_they_are_judged(bench: Bench, end: str) -> None:
    folder = bench.folder / "entry"
    folder.mkdir()
    for more in range(2):
        (folder / "lock").write_text(end * (100_000 + more), encoding="utf-8", newline="")
        processor = bench.processor(adapter={"process": {"requirements": "lock"}})
        if not more:
            assert process.identify(processor, Options()).id
            continue
        with pytest.raises(errors.RegistryFault, match="lock has more than 100,000 lines"):
            process.identify(processor, Options())


@pytest.mark.parametrize("python", ["/none/python", "sh"])
def test_an_interpreter_that_is_none_is_refused(bench: Bench, python: str) -> None:
    with pytest.raises(errors.BadAdapterOptions, match="the option python of the adapter process: "):
        process.identify(bench.processor(), Options(python=python))


@given(open_files=st.integers(min_value=-1000, max_value=15))
def test_an_open_files_limit_that_no_program_survives_is_refused(open_files: int) -> None:
    with pytest.raises(errors.BadAdapterOptions, match="open_files is below 16"):
        options_of("process", Options, {"open_files": open_files})


@pytest.mark.parametrize("file_size", [0, -1, 2**41])
def test_a_file_size_that_cannot_be_is_refused(file_size: int) -> None:
    with pytest.raises(errors.BadAdapterOptions, match="file_size is not between 1 and"):
        options_of("process", Options, {"file_size": file_size})


def test_a_doctor_is_told_which_python_it_is_and_that_nothing_isolates() -> None:
    findings = {finding.subject: finding for finding in process.diagnose()}
    assert all(finding.ok for finding in findings.values()), findings
    assert sys.version.split()[0] in findings["python"].message
    assert findings["isolation"].message.startswith("none")

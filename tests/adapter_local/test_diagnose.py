"""What ``theory doctor`` says of an engine, whichever it is, and of none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_local.talker import PING, Request, Talker, json_answer
from theory_adapter_local import diagnose
from theory_adapter_local.diagnose import findings
from theory_adapter_local.engine.client import engine_of

if TYPE_CHECKING:
    from pathlib import Path

    from theory import Finding
    from theory_adapter_local.engine.client import Engine

INFO: dict[str, Any] = {
    "OSType": "linux",
    "Driver": "overlay2",
    "CgroupVersion": "2",
    "NCPU": 4,
    "MemTotal": 8 << 30,
    "InitBinary": "docker-init",
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
    "DockerRootDir": "/",
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "Warnings": None,
}
SUBJECTS = ["engine", "system", "hardening", "files", "disk", "left over"]


def told(
    folder: Path, info: object, *, images: object = (), containers: object = (), ping: bytes = PING
) -> dict[str, Finding]:
    def answer(request: Request) -> bytes:
        path = request.target.partition("?")[0].removeprefix("/v1.41")
        found = {
            "/info": info,
            "/version": {"Version": "27.1", "ApiVersion": "1.46"},
            "/images/json": images,
            "/containers/json": containers,
        }
        return json_answer(json.dumps(found[path])) if path in found else json_answer('{"message":"no"}', 500)

    with Talker(str(folder / "s"), answer, ping=ping) as talker:
        found = findings({"DOCKER_HOST": talker.host})
        engine_of({"DOCKER_HOST": talker.host}).close()
    return {finding.subject: finding for finding in found}


def test_no_engine_is_one_finding_with_the_hint_of_its_error(tmp_path: Path) -> None:
    (finding,) = findings({"DOCKER_HOST": f"unix://{tmp_path}/none"})
    assert (finding.subject, finding.ok) == ("engine", False)
    assert finding.message == "Docker daemon not running or not installed"
    assert "there is no such socket; start its engine: " in finding.hint


def test_a_good_engine_is_described(tmp_path: Path) -> None:
    found = told(tmp_path, INFO)
    assert list(found) == SUBJECTS
    assert all(finding.ok and not finding.hint for finding in found.values())
    assert found["engine"].message == f"Docker 27.1 at unix://{tmp_path}/s, API 1.41 (from DOCKER_HOST)"
    assert found["system"].message == "storage overlay2, cgroup v2, 4 cores, 8192 MiB of memory"
    assert found["hardening"].message == "seccomp, apparmor, init, all limits"
    assert found["files"].message == "mounted or copied: that cannot be tried before there is an image"
    assert found["disk"].message.endswith(" GiB free in /")


@pytest.mark.parametrize(
    ("change", "lack"),
    [
        ({"MemoryLimit": False}, "no limit of memory"),
        ({"SwapLimit": False}, "no limit of swap"),
        ({"PidsLimit": False}, "no limit of processes"),
        ({"CpuCfsQuota": False}, "no limit of processor time"),
        ({"SecurityOptions": ["name=apparmor"]}, "no seccomp profile"),
        ({"SecurityOptions": None}, "no seccomp profile"),
        ({"InitBinary": ""}, "no init program (docker-init)"),
        (
            {"Warnings": ["WARNING: API is accessible on http://0.0.0.0:2375 …"]},
            "its API is open to the network",
        ),
    ],
    ids=["memory", "swap", "pids", "cpu", "other options", "no options", "init", "open"],
)
def test_what_hardening_lacks_is_named(tmp_path: Path, change: dict[str, Any], lack: str) -> None:
    finding = told(tmp_path, {**INFO, **change})["hardening"]
    assert (finding.ok, finding.message) == (False, lack)
    assert finding.hint


def test_a_warning_about_networks_is_no_lack(tmp_path: Path) -> None:
    warnings = ["WARNING: bridge-nf-call-iptables is disabled", "WARNING: No blkio throttle support"]
    assert told(tmp_path, {**INFO, "Warnings": warnings})["hardening"].ok


def test_a_rootless_engine_is_told_what_its_limits_need(tmp_path: Path) -> None:
    options = ["name=seccomp,profile=builtin", "name=rootless"]
    found = told(tmp_path, {**INFO, "SecurityOptions": options, "MemoryLimit": False})
    assert found["system"].message.endswith(", rootless")
    assert "delegated" in found["hardening"].hint


def test_podman_is_called_so_and_has_its_own_init(tmp_path: Path) -> None:
    ping = PING.replace(b"Api-Version", b"Libpod-API-Version: 4.3.1\r\nApi-Version")
    found = told(tmp_path, {**INFO, "InitBinary": ""}, ping=ping)
    assert found["engine"].message.startswith("Podman 27.1 at ")
    assert found["hardening"].ok


def test_an_engine_of_windows_containers_is_no_good_one(tmp_path: Path) -> None:
    finding = told(tmp_path, {**INFO, "OSType": "windows"})["engine"]
    assert not finding.ok
    assert finding.hint == "it runs containers of windows; switch it to Linux containers"


def test_a_full_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "LEAST_FREE", 1 << 80)
    finding = told(tmp_path, {**INFO, "DockerRootDir": str(tmp_path)})["disk"]
    assert not finding.ok
    assert finding.hint == "docker system df shows what takes the room"


def test_the_disk_of_a_virtual_machine_is_not_looked_for_here(tmp_path: Path) -> None:
    finding = told(tmp_path, {**INFO, "DockerRootDir": str(tmp_path / "none")})["disk"]
    assert (finding.ok, finding.message) == (True, "not of this machine")


def test_what_is_left_there_is_counted(tmp_path: Path) -> None:
    containers = [{"State": "running"}, {"State": "exited"}]
    images = [
        {"Id": "sha256:1", "RepoTags": ["theory/a:1"], "Size": 5 << 20},
        {"Id": "sha256:2", "RepoTags": ["docker.io/theory/b:1"], "Size": 6 << 20},
        {"Id": "sha256:3", "RepoTags": ["python:3"], "Size": 7 << 20},
        {"Id": "sha256:4", "RepoTags": None, "Size": 7 << 20},
    ]
    found = told(tmp_path, INFO, images=images, containers=containers)["left over"]
    assert found.message == (
        "2 containers of runs, of which 1 are running; 2 images built for processors, 11 MiB"
    )


odd = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.none() | st.text(max_size=5), max_size=2)
)


@given(info=odd | st.dictionaries(st.sampled_from(sorted(INFO)), odd), images=odd, containers=odd)
def test_whatever_an_engine_answers_there_are_findings(
    tmp_path_factory: pytest.TempPathFactory, info: object, images: object, containers: object
) -> None:
    found = told(tmp_path_factory.mktemp("x"), info, images=images, containers=containers)
    assert list(found) == SUBJECTS
    assert all(finding.message for finding in found.values())


def test_a_real_engine_is_described(engine: Engine, base_image: str) -> None:
    assert base_image
    found = {finding.subject: finding for finding in findings()}
    assert list(found) == SUBJECTS
    assert engine.host in found["engine"].message
    assert str(engine.info()["Driver"]) in found["system"].message
    assert found["files"].message.startswith(("mounted: ", "copied: "))

"""Names of images as Docker reads them, and the ids that the entry alone tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from theory.entries.imageid import ImageName, image_name, pinned_id
from theory.errors import RegistryFault
from theory.types import ImageSource, Processor, Ref, Runtime, SecretNeeds

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("python", "docker.io/library/python:latest"),
        ("acme/tool", "docker.io/acme/tool:latest"),
        ("index.docker.io/python:3", "docker.io/library/python:3"),
        ("ghcr.io/acme/tool/deep:1.0", "ghcr.io/acme/tool/deep:1.0"),
        ("localhost/tool:1", "localhost/tool:1"),
        ("localhost:5000/tool", "localhost:5000/tool:latest"),
        ("[::1]:5000/tool", "[::1]:5000/tool:latest"),
        ("127.0.0.1:5000/a__b/c-d.e:T_1", "127.0.0.1:5000/a__b/c-d.e:T_1"),
        (f"ghcr.io/acme/tool@{DIGEST}", f"ghcr.io/acme/tool@{DIGEST}"),
        (f"python:3.11@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
    ],
)
def test_a_name_has_one_full_spelling(name: str, full: str) -> None:
    assert ImageName.parse(name).full == full


@pytest.mark.parametrize(
    "name",
    ["", "Python:3", "a b", "a/", "/a", "a:", "a@sha256:12", "a--", "a:b:c", "../a", "a\n", "http://a/b"],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of an image"):
        ImageName.parse(name)


# ---------------------------------------------------------------- ids


def entry(folder: Path, dockerfile: str = "", *, oci: str | None = None) -> Processor:
    """An entry with this Dockerfile, or with an image of this name."""
    if oci is None:
        (folder / "Dockerfile").write_text(dockerfile)
    return Processor(
        ref=Ref("acme", "tool", 1),
        description="",
        image=ImageSource(oci=oci) if oci is not None else ImageSource(dockerfile="Dockerfile"),
        command=None,
        runtime=Runtime(),
        adapter={},
        secrets=SecretNeeds(),
        determinism="pure",
        reserve_micro_usd=0,
        inputs={},
        outputs={},
        folder=folder,
        cid="b3:" + "00" * 32,
        tree="b3:" + "11" * 32,
    )


def test_an_image_pinned_by_digest_has_that_as_its_id_on_every_platform(tmp_path: Path) -> None:
    pinned = entry(tmp_path, oci=f"ghcr.io/acme/tool:1@{DIGEST}")
    assert pinned_id(pinned, "linux/amd64") == pinned_id(pinned, "linux/arm64") == DIGEST


def test_an_image_with_a_tag_is_pinned_by_nothing(tmp_path: Path) -> None:
    assert pinned_id(entry(tmp_path, oci="ghcr.io/acme/tool:1"), "linux/amd64") == ""


def test_the_id_of_a_build_from_pinned_bases_stays_what_it_is(tmp_path: Path) -> None:
    built = entry(tmp_path, f"FROM python@{DIGEST} AS one\nFROM scratch\nCOPY --from=one /a /a\n")
    assert (
        pinned_id(built, "linux/amd64")
        == "build:b3:26d5c8a159a8aabf33f8a26eeffffbce41aca5becf3f736b51cce75dfc5960e2"
    )
    assert pinned_id(built, "linux/arm64") != pinned_id(built, "linux/amd64")


@pytest.mark.parametrize(
    "dockerfile",
    [f"FROM python@{DIGEST}\nCOPY --from=busybox:1 /a /a\n", "FROM python:3.11\n", "FROM $NONE@sha\n"],
    ids=["one of two", "a tag", "a variable without a value"],
)
def test_one_base_that_is_not_pinned_leaves_a_build_without_an_id(tmp_path: Path, dockerfile: str) -> None:
    assert pinned_id(entry(tmp_path, dockerfile), "linux/amd64") == ""


def test_an_entry_whose_image_has_no_proper_name_is_at_fault(tmp_path: Path) -> None:
    with pytest.raises(RegistryFault, match="acme/tool@1: 'Not A Name' is no name of an image"):
        image_name(entry(tmp_path, oci="Not A Name"))


@pytest.mark.parametrize("data", [None, b"FROM \xff"], ids=["missing", "not UTF-8"])
def test_a_dockerfile_that_cannot_be_read_is_at_fault(tmp_path: Path, data: bytes | None) -> None:
    broken = entry(tmp_path, "FROM scratch")
    (tmp_path / "Dockerfile").unlink()
    if data is not None:
        (tmp_path / "Dockerfile").write_bytes(data)
    with pytest.raises(RegistryFault, match="Dockerfile cannot be read: "):
        pinned_id(broken, "linux/amd64")

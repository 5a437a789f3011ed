"""Names of images and platforms, as Docker reads them."""

from __future__ import annotations

import pytest

from theory_adapter_local.images.reference import Reference, fits, normal_platform

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
    assert Reference.parse(name).full == full


@pytest.mark.parametrize(
    "name",
    ["", "Python:3", "a b", "a/", "/a", "a:", "a@sha256:12", "a--", "a:b:c", "../a", "a\n", "http://a/b"],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of an image"):
        Reference.parse(name)


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm/v7"),
    ],
)
def test_a_platform_has_one_spelling(text: str, platform: str) -> None:
    assert normal_platform(text) == platform


def test_a_platform_may_leave_the_variant_open() -> None:
    assert fits("linux/arm/v7", "linux/arm")
    assert not fits("linux/arm64", "linux/arm")
    assert not fits("linux/arm", "linux/arm/v7")

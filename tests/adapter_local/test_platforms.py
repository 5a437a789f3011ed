"""Names of platforms, as Docker reads them."""

from __future__ import annotations

import pytest

from theory_adapter_local.images.platforms import fits, normal_platform


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

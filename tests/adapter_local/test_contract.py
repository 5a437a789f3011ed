"""The adapter ``local`` keeps the promises that every adapter makes."""

from __future__ import annotations

import pytest

import theory_adapter_local.adapter
from theory.testing import AdapterContract


@pytest.mark.usefixtures("base_image")
class TestLocal(AdapterContract):
    # What the official images of Python set.
    image_environment = frozenset({"PYTHON_VERSION", "PYTHON_SHA256", "GPG_KEY", "LANG"})
    patience_s = 120.0  # the first test builds the image

    @pytest.fixture
    def adapter(self) -> object:
        return theory_adapter_local.adapter

"""The adapter ``process`` keeps the promises that every adapter makes."""

from __future__ import annotations

import pytest

import theory_adapter_process.adapter
from theory.testing import AdapterContract


class TestProcess(AdapterContract):
    image_environment = frozenset({"PYTHONDONTWRITEBYTECODE"})

    @pytest.fixture
    def adapter(self) -> object:
        return theory_adapter_process.adapter

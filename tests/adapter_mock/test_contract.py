"""The mock adapter keeps the promises of every adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from theory.testing import AdapterContract
from theory_adapter_mock import adapter as mock

if TYPE_CHECKING:
    from theory.testing.bench import Behaviour


class TestMock(AdapterContract):
    @pytest.fixture
    def adapter(self) -> object:
        return mock

    def options(self, behaviour: Behaviour) -> object:
        return {
            "success": mock.Options(),
            "exit 3": mock.Options(exit_code=3),
            "timeout": mock.Options(fail="timeout"),
            "until cancelled": mock.Options(latency_s=60),
        }[behaviour]

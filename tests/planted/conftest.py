"""The same volume, simulator and watchers as in tests/e2e."""

from tests.e2e.conftest import pytest_runtest_makereport, simulator, volume, watch

__all__ = ["pytest_runtest_makereport", "simulator", "volume", "watch"]

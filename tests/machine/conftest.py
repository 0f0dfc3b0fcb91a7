"""The volume, the simulator and the watchers of the end-to-end tests."""

from tests.e2e.conftest import pytest_runtest_makereport, simulator, volume, watch

__all__ = ["pytest_runtest_makereport", "simulator", "volume", "watch"]

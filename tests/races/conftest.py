"""The same volume, house, simulator and watchers as in tests/e2e."""

from tests.e2e.conftest import _houses, house, pytest_runtest_makereport, simulator, volume, watch

__all__ = ["_houses", "house", "pytest_runtest_makereport", "simulator", "volume", "watch"]

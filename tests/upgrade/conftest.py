"""The watchers of tests/e2e, on a volume of an older version."""

from tests.e2e.conftest import pytest_runtest_makereport, watch

__all__ = ["pytest_runtest_makereport", "watch"]

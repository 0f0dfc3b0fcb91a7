"""Settings that every test shares."""

import os

from hypothesis import HealthCheck, settings

SOAK = bool(os.environ.get("SOAK"))

settings.register_profile(
    "default",
    deadline=None,
    database=None,
    derandomize=not SOAK,
    max_examples=5000 if SOAK else 100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")

pytest_plugins = ["tests.figures", "tests.servers.rgw"]

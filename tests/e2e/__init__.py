"""From outside: real processes, real files, real signals, a simulated ComfyUI."""

import pytest

pytest.register_assert_rewrite("tests.e2e.promises", "tests.e2e.volume")

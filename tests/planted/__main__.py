"""`python -m tests.planted FAULT watch`: the `handoff` command with that mistake in it. Without arguments: the list."""

import sys

import pytest

from handoff_cli.main import main
from tests.planted.faults import FAULTS, plant

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in FAULTS:
        print(*(f"{name}: {fault.__doc__}" for name, fault in FAULTS.items()), sep="\n")
        sys.exit(2)
    plant(sys.argv.pop(1), pytest.MonkeyPatch())
    sys.exit(main())

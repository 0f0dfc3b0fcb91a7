"""`python -m tests.races.stumbling MODULE:FUNCTION:JOB:EFFECT… watch`: the `handoff` command with a bug that only one job meets.

The function raises, or the whole process dies, when the job's id is found among its arguments.
"""

import importlib
import os
import sys
from typing import Any

from handoff_cli.main import main


def plant(module: str, function: str, job: str, effect: str) -> None:
    owner: Any = importlib.import_module(module)
    *owners, name = function.split(".")
    for step in owners:
        owner = getattr(owner, step)
    real = getattr(owner, name)

    def stumble(*arguments: Any, **named: Any) -> Any:
        if job in repr((arguments, named)):
            if effect == "dies":
                os._exit(1)
            raise ZeroDivisionError("planted")
        return real(*arguments, **named)

    setattr(owner, name, stumble)


if __name__ == "__main__":
    while ":" in sys.argv[1]:
        plant(*sys.argv.pop(1).split(":"))
    sys.exit(main())

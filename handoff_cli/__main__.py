"""`python -m handoff_cli` is `handoff`."""

import sys

from handoff_cli.main import main

sys.exit(main())

"""`python -m comfyui_simulator`."""

import sys

from comfyui_simulator.main import main

sys.exit(main(sys.argv[1:]))

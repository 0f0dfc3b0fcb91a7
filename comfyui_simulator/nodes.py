"""All nodes: importing this module fills the table with what the modules beside it register."""

from comfyui_simulator import model_nodes, picture_nodes, probe_nodes, saving_nodes  # noqa: F401  # for what they register
from comfyui_simulator.node_types import NODES

__all__ = ["NODES"]

"""A server that speaks ComfyUI 0.33's HTTP and websocket protocol without a GPU.

Nodes that need no model really compute; samplers give a placeholder picture stamped SIMULATED. It imports nothing
from the rest of the project, so that no mistake is shared between a client and what it is tested against.
"""

"""Handoff: job files in, verified ComfyUI results out. This package is the contract both programs share."""

__version__ = "0.1.0"

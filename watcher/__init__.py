"""Beside ComfyUI: takes job files in, runs them, verifies and publishes what came out."""

"""Speed and memory, side by side with a bare client, in one run: `python -m bench`."""

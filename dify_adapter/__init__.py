"""Beside Dify: an HTTP API over the shared volume. It holds no state of its own."""

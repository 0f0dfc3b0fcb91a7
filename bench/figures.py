"""What a part of the benchmark hands back: figures, each beside what it is compared with."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`value` and `beside` have the same unit. `compared` is their ratio, or their difference.

    `fsync_ms`: what one fsync cost on this disk around the time of a latency, since latencies are made of them.
    """

    part: str
    what: str
    value: float
    unit: str = "ms"
    beside: float | None = None
    beside_what: str = ""
    compared: float | None = None
    is_difference: bool = False
    target: str = ""
    fsync_ms: float | None = None


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds: of fewer than a hundred values the largest."""
    return sorted(values)[max(0, -(-99 * len(values) // 100) - 1)]

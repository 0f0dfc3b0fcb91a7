"""Command line of the benchmark; bench/README.md says what the figures mean."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import fsyncs, growth, machine, memory, overhead, pickup, throughput
from bench.figures import Figure
from tests.servers import rgw
from tests.servers.debian import NotInstalledError

PARTS = ("pickup", "throughput", "overhead", "memory", "growth")


def main() -> int:
    chosen = _parse()
    if chosen.s3:
        try:
            rgw.install()
        except NotInstalledError as error:
            print(error, file=sys.stderr)
            return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    log = Console(stderr=True)
    about = machine.describe() | {"load_before": machine.load()}
    if machine.is_busy():
        log.print(f"[yellow]Others work on this machine (load {machine.load():.1f}): they spoil the figures.")
    figures: list[Figure] = []
    for part, measure in _measurements(quick=chosen.quick, s3=chosen.s3):
        if part in (chosen.parts or PARTS):
            with log.status(f"{part} …"):
                figures.extend(measure)
    about["load_after"] = machine.load()
    console.print(_draw(figures))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), style="dim")
    if chosen.json:
        document = {"machine": about, "figures": [asdict(figure) for figure in figures]}
        chosen.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed and memory, side by side in one run.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)}; all when absent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the figures there, too")
    parser.add_argument("--s3", action="store_true", help="overhead with S3, too (Debian's radosgw, on loopback)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs: to try the benchmark itself")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return chosen


def _measurements(*, quick: bool, s3: bool) -> list[tuple[str, Iterator[Figure]]]:
    """Nothing runs before it is asked for its figures."""

    def some(jobs: int) -> int:
        return max(10, jobs // 10) if quick else jobs

    return [
        ("pickup", pickup.measure(some(100))),
        ("throughput", throughput.measure(some(1000))),
        ("overhead", chain(overhead.measure(some(120), s3=s3), fsyncs.measure(20))),
        ("memory", memory.measure(some(10_000))),
        ("growth", growth.measure(some(10_000))),
    ]


def _draw(figures: list[Figure]) -> Table:
    table = Table(title="Handoff beside a bare client", title_justify="left")
    table.add_column("part")
    table.add_column("what", ratio=1)
    for name in ("Handoff", "beside", "compared"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("beside what")
    table.add_column("target")
    table.add_column("one fsync", justify="right", no_wrap=True)
    last = ""
    for figure in figures:
        if figure.part != last and last:
            table.add_section()
        table.add_row("" if figure.part == last else figure.part, *_cells(figure))
        last = figure.part
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _cells(figure: Figure) -> list[str]:
    compared = ""
    if figure.compared is not None:
        compared = f"{figure.compared:+.1f} {figure.unit}" if figure.is_difference else f"× {figure.compared:.3g}"
    return [
        figure.what,
        f"{_number(figure.value)} {figure.unit}",
        "" if figure.beside is None else f"{_number(figure.beside)} {figure.unit}",
        compared,
        figure.beside_what,
        figure.target,
        "" if figure.fsync_ms is None else f"{figure.fsync_ms:.2f} ms",
    ]


if __name__ == "__main__":
    sys.exit(main())

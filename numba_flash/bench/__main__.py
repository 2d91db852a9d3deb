"""`python -m numba_flash.bench FOLDER`: time every cell, print a table, write FOLDER/bench.csv."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from numba_flash.bench.attention import Row, attention_rows, matmul_rows

CELLS = [(d, N, causal, "float32") for d in (64, 128) for N in (2048, 4096) for causal in (False, True)]
CELLS += [(64, 2048, False, "float64")]
MATMULS = (4096, 8192)


def measure() -> Iterator[Row]:
    """Every cell, cell by cell."""
    for d, N, causal, dtype in track(CELLS, description="attention"):
        yield from attention_rows(d, N, causal, dtype)
    for n in track(MATMULS, description="matmul"):
        yield from matmul_rows(n)


def table_of(rows: list[Row]) -> Table:
    """The rows for a person."""
    table = Table("what", "d", "N", "causal", "provider", "ms", "TFLOP/s", "relative error")
    for r in rows:
        numbers = f"{r.milliseconds:.2f}", f"{r.tflops:.1f}", f"{r.relative_error:.1e}"
        table.add_row(f"{r.what} {r.dtype}", str(r.d), str(r.N), "yes" if r.causal else "no", r.provider, *numbers)
    return table


def main(folder: str) -> None:
    """Measure and report."""
    rows = list(measure())
    with (Path(folder) / "bench.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    Console(width=120).print(table_of(rows))


if __name__ == "__main__":
    main(sys.argv[1])

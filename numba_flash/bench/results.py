"""What a run leaves for programs and for later: a CSV for each part, which can be read back, and JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from numba_flash.bench.cold import ColdRow
from numba_flash.bench.host import HostRow
from numba_flash.bench.machine import file_name
from numba_flash.bench.measure import Row

LADDER, LENGTHS, HOST, COLD = PARTS = ("ladder", "lengths", "host", "cold")
ROWS: dict[str, type] = {LADDER: Row, LENGTHS: Row, HOST: HostRow, COLD: ColdRow}
TIMES = "times "  # a column with this before a peer's name: its time over the row's


@dataclass(frozen=True)
class Result:
    """The rows of one part, on which machine they were measured, and in how many seconds.

    machine : as `machine.machine` gives it, and the peers that could not be imported
    selection : the options that left something out; empty for a whole run
    """

    part: str
    rows: Sequence[Any]
    machine: Mapping[str, str]
    selection: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def failed(self) -> list[str]:
        """Who of ours has no time."""
        names = (getattr(row, "provider", None) or row.what for row in self.rows if row.failed)
        return list(dict.fromkeys(names))

    def path(self, folder: Path) -> Path:
        """Where it is kept."""
        return folder / f"{file_name(dict(self.machine))}_{self.part}.csv"


def write_csv(folder: Path, result: Result) -> Path:
    """One line a row; beside its own figures each one has those of the machine and the run. Makes the folder."""
    peers = list(dict.fromkeys(peer for row in result.rows for peer in getattr(row, "faster_than", {})))
    names = [f.name for f in fields(ROWS[result.part]) if f.name != "faster_than"]
    about = {**result.machine, "selection": result.selection, "part_seconds": f"{result.seconds:.0f}"}
    path = result.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *[TIMES + peer for peer in peers], *about], restval="")
        writer.writeheader()
        for row in result.rows:
            ratios = {TIMES + peer: ratio for peer, ratio in getattr(row, "faster_than", {}).items()}
            writer.writerow({name: getattr(row, name) for name in names} | ratios | about)
    return path


def read_csv(path: Path) -> Result:
    """What `write_csv` wrote.

    Raises
    ------
    ValueError
        If it is no such file; with its path.
    """
    part = path.stem.rpartition("_")[2]
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    kind = ROWS.get(part)
    types = {f.name: str(f.type) for f in fields(kind)} if kind else {}
    types.pop("faster_than", None)
    if kind is None or not lines or not {*types, "gpu", "selection"} <= set(lines[0]):
        raise ValueError(f"{path} is no result of this version's bench")
    rows = []
    for line in lines:
        values: dict[str, Any] = {name: parsed(line[name], of) for name, of in types.items()}
        if kind is Row:
            ratios = {name.removeprefix(TIMES): text for name, text in line.items() if name.startswith(TIMES) and text}
            values["faster_than"] = {peer: float(text) for peer, text in ratios.items()}
        rows.append(kind(**values))
    names = list(lines[0])
    about = names[names.index("gpu") : names.index("selection")]
    machine = {name: lines[0][name] for name in about}
    return Result(part, rows, machine, lines[0]["selection"], float(lines[0]["part_seconds"]))


def parsed(text: str, of: str) -> Any:
    """A CSV cell as the value of a field with this annotation."""
    if "None" in of and text == "":
        return None
    if of.startswith("bool"):
        return text == "True"
    return int(text) if of.startswith("int") else float(text) if of.startswith("float") else text


def read_folder(folder: Path) -> list[Result]:
    """The results that a folder keeps, in the order of the parts, whoever's GPU they are of."""
    pattern = re.compile(rf"_({'|'.join(PARTS)})\.csv$")
    found = [read_csv(path) for path in sorted(folder.glob("*.csv")) if pattern.search(path.name)]
    return sorted(found, key=lambda result: PARTS.index(result.part))


def write_json(path: Path, results: Sequence[Result]) -> None:
    """The parts of a run, rows as objects."""
    content = {
        result.part: {
            "machine": dict(result.machine),
            "selection": result.selection,
            "seconds": result.seconds,
            "rows": [asdict(row) for row in result.rows],
        }
        for result in results
    }
    path.write_text(json.dumps(content, indent=1) + "\n")

"""`python -m numba_flash cache`: what is known of the compiled kernels on disk, and their removal."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from numba_flash.runtime.cached_files import MIB, Entry, clear, directory, entries, limit
from numba_flash.warm import run_warm


def run_cache(options: Namespace, console: Console | None = None) -> int:
    """Run the command; its exit status."""
    console = console or Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    if options.action == "clear":
        return run_clear(console)
    if options.action == "warm":
        try:
            return run_warm(options.arch, console)
        except (RuntimeError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
    found = entries()
    if options.json:
        print(json.dumps(summary(found), indent=1))
        return 0
    print_summary(summary(found), console)
    if options.verbose:
        console.print(kernels_table(found))
    return 0


def run_clear(console: Console) -> int:
    """Remove all files of the cache; 0, or 1 if one that has the name of a compiled kernel is left."""
    gone, left = clear()
    freed = sum(entry.bytes for entry in gone)
    files = "1 file" if len(gone) == 1 else f"{len(gone)} files"
    console.print(f"removed {files}, {in_mib(freed)}, from {directory().absolute()}", markup=False, soft_wrap=True)
    for entry in left:
        text = f"left: {entry.file} (cannot be read or removed, or holds something else)"
        console.print(text, markup=False, soft_wrap=True)
    return 1 if left else 0


def summary(found: Sequence[Entry]) -> dict[str, Any]:
    """The cache as plain values; what processes are writing now, or left behind, counts apart from the kernels."""
    kernels = [entry for entry in found if not entry.temporary]
    return {
        "directory": str(directory().absolute()),
        "writable": writable(directory()),
        "entries": len(kernels),
        "bytes": sum(entry.bytes for entry in kernels),
        "limit_bytes": limit(),
        "oldest": kernels[0].used if kernels else None,
        "newest": kernels[-1].used if kernels else None,
        "unfinished": len(found) - len(kernels),
    }


def print_summary(facts: dict[str, Any], console: Console) -> None:
    """The cache in words."""
    lines = {
        "directory": facts["directory"] + ("" if facts["writable"] else " (not writable)"),
        "compiled kernels": facts["entries"],
        "size": f"{in_mib(facts['bytes'])} of at most {in_mib(facts['limit_bytes'])}",
    }
    if facts["entries"]:
        lines["last used"] = f"{date(facts['oldest'])} to {date(facts['newest'])}"
    if facts["unfinished"]:
        lines["unfinished files"] = facts["unfinished"]
    for name, value in lines.items():
        console.print(f"{name:18}{value}", markup=False, soft_wrap=True)


def kernels_table(found: Sequence[Entry]) -> Table:
    """One line per kernel's name: dtypes, sizes, options and devices are compiled apart."""
    by_name: dict[str, list[Entry]] = defaultdict(list)
    for entry in (entry for entry in found if not entry.temporary):
        by_name[entry.name].append(entry)
    table = Table("kernel", box=None, pad_edge=False)
    for heading in ("compiled", "size", "last used"):
        table.add_column(heading, justify="right")
    for name, own in sorted(by_name.items()):
        size = in_mib(sum(entry.bytes for entry in own))
        table.add_row(name, str(len(own)), size, date(max(entry.used for entry in own)))
    return table


def writable(folder: Path) -> bool:
    """May files be made in a folder, or may it be made?"""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def in_mib(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / MIB:.1f} MiB"


def date(seconds: float) -> str:
    """A time, for people."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

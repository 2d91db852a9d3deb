"""The files of the cache of compiled kernels: where they are, which may be trusted, and which are in excess."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from numba_flash.runtime.binary import begins_an_archive

MIB = 1024 * 1024
DEFAULT_MIB = 512
LARGEST = 64 * MIB  # no kernel comes near it
STALE = 3600  # seconds after which nobody writes a temporary file any more
ENTRY = r"(?P<name>[A-Za-z0-9_]*)-[0-9a-f]{64}\.zip(?P<temporary>\.\w+\.tmp)?"

# Opening a link is an error, and opening a pipe does not wait.
READING = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK"))


class Entry(NamedTuple):
    """A file of the cache; `temporary` while it is being written, or left behind by a process that was killed.

    used : when it was stored or last loaded, to the day, in seconds since 1970
    """

    file: Path
    name: str
    bytes: int
    used: float
    temporary: bool


def directory() -> Path:
    """The cache's folder: NUMBA_FLASH_CACHE_DIR, or the system's place for a user's caches. It need not exist."""
    if chosen := os.environ.get("NUMBA_FLASH_CACHE_DIR"):
        return Path(os.path.expanduser(chosen))
    from platformdirs import user_cache_path

    with contextlib.suppress(RuntimeError):  # a user without a home
        found = user_cache_path("numba_flash", appauthor=False)
        if found.is_absolute():
            return found
    from tempfile import gettempdir

    return Path(gettempdir(), "numba_flash")


def limit() -> int:
    """The most bytes that the cache may hold: NUMBA_FLASH_CACHE_SIZE in MiB, 512 by default; 0 keeps nothing."""
    chosen = os.environ.get("NUMBA_FLASH_CACHE_SIZE") or DEFAULT_MIB
    try:
        count = int(float(chosen) * MIB)
    except (ValueError, OverflowError):
        count = -1
    if count >= 0:
        return count
    text = f"NUMBA_FLASH_CACHE_SIZE={chosen!r} is no number of MiB: the cache may hold {DEFAULT_MIB} MiB"
    warnings.warn(text, RuntimeWarning, 2)
    return DEFAULT_MIB * MIB


@contextlib.contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """A file to read.

    Raises
    ------
    OSError
        If it cannot be opened, or is a link.
    ValueError
        If it is no regular file, or too large.
    """
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | READING)) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > LARGEST:
            raise ValueError(f"{status.st_size} bytes are too many for a kernel")
        yield stream


def refuse_code_of_others(status: os.stat_result) -> None:
    """Raise a ValueError if, on POSIX, others than the user and root own an opened file or may write it."""
    if hasattr(os, "geteuid"):
        if status.st_uid not in (os.geteuid(), 0):
            raise ValueError(f"it belongs to user {status.st_uid}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"others may write it (mode {stat.S_IMODE(status.st_mode):o})")


def entries() -> list[Entry]:
    """The cache's files, least recently used first; other files of the folder are not the cache's."""
    found = []
    with contextlib.suppress(OSError), os.scandir(directory()) as files:
        for file in files:
            match = re.fullmatch(ENTRY, file.name)
            with contextlib.suppress(OSError):  # another process has removed it
                status = file.stat(follow_symlinks=False)
                if match and stat.S_ISREG(status.st_mode):
                    temporary = match["temporary"] is not None
                    found.append(Entry(Path(file), match["name"], status.st_size, status.st_mtime, temporary))
    return sorted(found, key=lambda entry: (entry.used, entry.file.name))


def evict(limit: int) -> None:
    """Remove least recently used kernels until the rest fit the limit, and temporary files that nobody writes now."""
    found = entries()
    total = sum(entry.bytes for entry in found)
    for entry in found:
        stale = entry.temporary and time.time() - entry.used > STALE
        if stale or (total > limit and not entry.temporary):
            remove(entry)
            total -= entry.bytes


def clear() -> tuple[list[Entry], list[Entry]]:
    """Remove every file of the cache; those that are gone, and those that are not ours after all or would not go."""
    gone: list[Entry] = []
    left: list[Entry] = []
    for entry in entries():
        (gone if remove(entry) else left).append(entry)
    return gone, left


def remove(entry: Entry) -> bool:
    """Remove a file if it is an archive of ours, by its content too; True if it is gone."""
    try:
        with opened(entry.file) as stream:
            if not begins_an_archive(stream.read(64)):
                return False
        entry.file.unlink()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return True

"""Compiled kernels on disk, for every process of a user.

A file holds one kernel and is named after it and its key, a digest of all that its machine code depends on: a changed
kernel, compiler or device is another file, and nothing is ever out of date. Files appear complete or not at all, so
any number of processes and threads may load, store, evict and clear at once.

A kernel that is loaded is code that is run. The folder is made for its user alone, but whoever may write to it cannot
plant code: only regular files are read, no links, and on POSIX only those that belong to the user or to root and that
nobody else may write.

Nothing here raises an error: what cannot be read is compiled again and what cannot be written is not kept, with a
warning. Importing this module imports no compiler and no library of the GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
import warnings
from pathlib import Path

from numba_flash.runtime.binary import Binary, decode, encode
from numba_flash.runtime.cached_files import directory, evict, limit, opened, refuse_code_of_others
from numba_flash.runtime.environment import environment

__all__ = ["Binary", "directory", "environment", "key", "load", "store"]

DAY = 86400  # seconds

unwritable_noted = threading.Lock()  # acquired by the one warning of a process that it cannot write


def key(*parts: str) -> str:
    """The name of a kernel's machine code: a digest of what it was made from and of the environment."""
    return hashlib.sha256(ascii((environment(), parts)).encode()).hexdigest()


def file_of(name: str, key: str) -> Path:
    """Where a kernel is kept. Its name is there for people."""
    return directory() / f"{re.sub(r'[^A-Za-z0-9_]', '_', name)[:100]}-{key}.zip"


def load(name: str, key: str) -> Binary | None:
    """The kernel of this name and key; None where it is not stored, and, with a warning, where it cannot be used."""
    file = file_of(name, key)
    try:
        binary, used = read(file, key)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{file} cannot be used, and its kernel is compiled again: {error}", RuntimeWarning, 2)
        return None
    if abs(time.time() - used) > DAY:  # seldom, for the disk's sake; eviction needs no more
        with contextlib.suppress(OSError):
            os.utime(file)
    return binary


def read(file: Path, key: str) -> tuple[Binary, float]:
    """The kernel in a file that may be trusted, and when that was last touched; OSError or ValueError if it is none."""
    with opened(file) as stream:
        status = os.fstat(stream.fileno())
        refuse_code_of_others(status)
        return decode(stream.read(), key), status.st_mtime


def store(name: str, key: str, binary: Binary) -> None:
    """Keep a kernel, then make room: least recently used kernels go first, and what killed processes left behind."""
    file = file_of(name, key)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(file, encode(binary, key))
    except OSError as error:
        if not usable(file, key) and unwritable_noted.acquire(blocking=False):
            text = f"{file.parent} cannot be written, and compiled kernels are not kept: {error}"
            warnings.warn(f"{text}. NUMBA_FLASH_CACHE_DIR names another folder.", RuntimeWarning, 2)
        return
    evict(limit())


def write(file: Path, content: bytes) -> None:
    """Give a file this content at once: readers see the old one or the new one."""
    from tempfile import mkstemp

    handle, temporary = mkstemp(".tmp", f"{file.name}.", file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        with contextlib.suppress(FileNotFoundError):  # the cache was cleared meanwhile
            os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def usable(file: Path, key: str) -> bool:
    """Is the kernel there all the same? Windows does not replace a file that another process is reading."""
    try:
        read(file, key)
    except (OSError, ValueError):
        return False
    return True

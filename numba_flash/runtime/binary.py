"""One compiled kernel, and the archive that holds it on disk."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields
from zipfile import ZipFile, ZipInfo

FORMAT = 2
FACTS, CODE = "kernel.json", "kernel.cubin"  # the archive's two members, in this order


@dataclass(frozen=True)
class Binary:
    """A kernel's machine code, with what its launch and `info` must know of it.

    cubin : an ELF file
    symbol : the kernel's entry point in it
    registers : of a thread
    shared_bytes : declared by the kernel, of a block; without its launch's dynamic shared memory
    stack_bytes : local memory of a thread
    spilled_bytes, reloaded_bytes : what the instructions that save and restore registers there move
    serialized : how often the assembler says that it made products of warpgroups wait for one another
    """

    cubin: bytes
    symbol: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spilled_bytes: int
    reloaded_bytes: int
    serialized: int = 0


COUNTS = [field.name for field in fields(Binary) if field.name not in ("cubin", "symbol")]


def encode(binary: Binary, key: str) -> bytes:
    """A zip archive, which has a checksum of each member; the same bytes for the same kernel."""
    facts = asdict(binary)
    cubin = facts.pop("cubin")
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr(ZipInfo(FACTS), json.dumps({"format": FORMAT, "key": key, **facts}, indent=1))
        archive.writestr(ZipInfo(CODE), cubin)
    return buffer.getvalue()


def decode(content: bytes, key: str) -> Binary:
    """The kernel in an archive.

    Raises
    ------
    ValueError
        If the archive is damaged, or holds something else than the kernel of this key in this format.
    """
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            facts, cubin = json.loads(archive.read(FACTS)), archive.read(CODE)
        found = facts.pop("format"), facts.pop("key")
    except Exception as error:  # what damaged archives raise shares no narrower class
        raise ValueError(f"no intact archive of a kernel: {error}") from error
    if found != (FORMAT, key):
        raise ValueError(f"format {found[0]!r} of key {found[1]!r}, not {FORMAT} of {key}")
    if set(facts) != {"symbol", *COUNTS} or not isinstance(facts["symbol"], str):
        raise ValueError("not what is known of a kernel")
    if any(type(facts[name]) is not int or facts[name] < 0 for name in COUNTS):
        raise ValueError("counts that are not numbers")
    return Binary(cubin, **facts)


def begins_an_archive(head: bytes) -> bool:
    """Do a file's first 64 bytes look like the archive of a kernel? An empty file may be one that was cut short."""
    return not head or (head.startswith(b"PK\x03\x04") and head[30:].startswith(FACTS.encode()))

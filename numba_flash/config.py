"""Facts about a device, and the tile sizes that kernels are made with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from numba_flash.simulator import SIMULATED

LANES = 32  # of a warp
WARPGROUP, WARPGROUP_ROWS = 128, 64  # threads, and rows of a product that they compute together (sm_90a)
ROW_BYTES, PANEL = 128, 64  # of a row of a box in shared memory, and how many 16-bit numbers it has
MAP_WORDS = 16  # of 8 bytes: a map of a tensor
BARRIER_BYTES = 8  # of an mbarrier
WARPS = WARPGROUP // LANES  # of a warpgroup
TASK_NUMBERS = 8  # of 4 bytes, by which the warp that copies tells others what there is to do

# How a block of a warpgroup that copies and so many that compute shares 64K registers: of a thread of either.
SHARED_REGISTERS = {1: (56, 256), 2: (40, 232), 3: (32, 160)}
SHARED_FOR_GRADIENTS = {1: (56, 256), 2: (24, 240)}  # the same: copying is less work
APART = 2  # how far apart the lanes of a warp that share a row of a `Piece` are: `device.products.make_place`

# How a tile comes from global memory: element by element; four elements a load, through registers; or in asynchronous
# copies, which go past the registers while the thread computes: 16 bytes each, an element where a tile is transposed;
# "parts" are such copies of rows that do not end on 16 bytes.
Loads = Literal["elements", "vectors", "copies", "parts"]

# How results go from fragments to global memory: by way of shared memory, 16 bytes of 16-bit numbers at a time; two
# numbers at a time; or one.
Stores = Literal["chunks", "pairs", "elements"]

# How a piece is added to global memory: element by element, or four at a time (sm_90).
Adds = Literal["scalars", "vectors"]


@dataclass(frozen=True)
class Device:
    """What a kernel must know of the machine it runs on; `l2_bytes`, of its cache, are an A100's by default."""

    name: str
    compute_capability: tuple[int, int]
    shared_bytes: int  # the most shared memory that one block may have
    simulated: bool = False
    l2_bytes: int = 40 * 2**20
    multiprocessors: int = 132  # an H100's by default

    @property
    def arch(self) -> str:
        """As in `sm_80`; 9.0 is `sm_90a`, which has instructions of its own."""
        major, minor = self.compute_capability
        return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


SIMULATOR = Device("simulator", (9, 0), 227 * 1024, simulated=True, multiprocessors=2)

# The most shared memory of a block, by architecture: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability".
SHARED_BYTES = {
    "sm_75": 64 * 1024,
    "sm_80": 163 * 1024,
    "sm_86": 99 * 1024,
    "sm_87": 163 * 1024,
    "sm_89": 99 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
}


def device_of_arch(arch: str) -> Device:
    """A device of an architecture, such as "sm_80" or "sm_90a".

    Raises
    ------
    ValueError
        If none of that name is known.
    """
    name = arch.removesuffix("a")
    if name not in SHARED_BYTES:
        raise ValueError(f"{arch!r} is no architecture that is known here ({', '.join(SHARED_BYTES)})")
    digits = name.removeprefix("sm_")
    return Device(name, (int(digits[:-1]), int(digits[-1])), SHARED_BYTES[name])


@cache
def cuda_device(ordinal: int) -> Device:
    """The CUDA device with this ordinal."""
    from cuda.core import Device as CudaDevice

    device = CudaDevice(ordinal)
    return Device(
        name=device.name,
        compute_capability=tuple(device.compute_capability),
        shared_bytes=device.properties.max_shared_memory_per_block_optin,
        l2_bytes=device.properties.l2_cache_size,
        multiprocessors=device.properties.multiprocessor_count,
    )


def current_device(ordinal: int | None) -> Device:
    """The device that kernels run on: the simulator if NUMBA_ENABLE_CUDASIM=1, else CUDA device `ordinal`."""
    return SIMULATOR if SIMULATED else cuda_device(ordinal or 0)


@dataclass(frozen=True)
class Tiles:
    """The tile sizes of an attention kernel.

    A block owns Br query rows and meets Bc keys at a time; head dimensions are padded to D and DV in shared memory.
    Its threads form RG row groups x CG column groups; `rows` of the tile belong to one thread. At least `blocks`
    blocks should fit a multiprocessor at once, which limits the registers of a thread. `full`: with these sizes all
    registers are taken, so they are not for a kernel that needs more, for score options, a scale that is not positive,
    or element loads.
    `tight`: something is scarce. flash2_forward: shared memory; P takes the place of Kj, so that more blocks fit, and
    the next Kj is fetched later. flash2_mma_forward: registers; a branch keeps the compiler from reading V ahead.
    """

    Br: int
    Bc: int
    D: int
    DV: int
    rows: int
    CG: int
    blocks: int = 1
    full: bool = False
    tight: bool = False

    @property
    def RG(self) -> int:  # noqa: N802
        """Row groups."""
        return self.Br // self.rows

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.RG * self.CG


@dataclass(frozen=True)
class MatmulTiles:
    """A block's BM x BN tile of C, BK deep at a time; a thread owns TM x TN of it."""

    BM: int
    BN: int
    BK: int
    TM: int
    TN: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.BM // self.TM * (self.BN // self.TN)


@dataclass(frozen=True)
class MmaTiles:
    """A block's BM x BN tile of C, BK deep at a time, for tensor cores; a warp owns WM x WN of it.

    As many pairs of tiles of A and B as there are `stages` lie in shared memory; all but one are on their way. BK is a
    multiple of 32. Blocks go through `group` rows of tiles of C together.
    """

    BM: int
    BN: int
    BK: int
    WM: int
    WN: int
    stages: int
    group: int = 8

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return LANES * (self.BM // self.WM) * (self.BN // self.WN)


class OfWarpgroups:
    """A block in which one warpgroup copies, and each of the others computes 64 of its `rows`."""

    @property
    def rows(self) -> int:
        """Of a block."""
        raise NotImplementedError

    @property
    def consumers(self) -> int:
        """Warpgroups that compute."""
        return self.rows // WARPGROUP_ROWS

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARPGROUP * (1 + self.consumers)

    @property
    def registers(self) -> tuple[int, int]:
        """Of a thread that copies, and of one that computes."""
        return SHARED_REGISTERS[self.consumers]


@dataclass(frozen=True)
class WgmmaTiles(OfWarpgroups):
    """A block's BM x BN tile of C, BK deep at a time, for warpgroups.

    So many pairs of tiles of A and B as there are `stages` lie in shared memory. Blocks go through `group` rows of
    tiles of C together.
    """

    BM: int
    BN: int
    stages: int
    BK: int = 64
    group: int = 8

    @property
    def rows(self) -> int:
        """Of the tile."""
        return self.BM


@dataclass(frozen=True)
class WarpgroupTiles(OfWarpgroups):
    """The tile sizes of attention by warpgroups: a block owns Br query rows.

    In shared memory lie so many Qi as `queries`, and of Kj and Vj, Bc keys each, so many pairs as `stages`. Head
    dimensions are padded to D and DV. `full` as in `Tiles`. Of eight exponentials so many as `multiplied` are computed
    by multiply-adds.
    """

    Br: int
    Bc: int
    D: int
    DV: int
    stages: int = 2
    full: bool = False
    multiplied: int = 0
    queries: int = 1

    @property
    def rows(self) -> int:
        """Of the block."""
        return self.Br


@dataclass(frozen=True)
class GradientTiles:
    """The tile sizes of attention's gradients on tensor cores, where a block owns Bc key rows and meets Br queries.

    Its warps form KG groups of keys x QG groups of queries, which share the scores; of dK and dV, QG is groups of
    columns. Head dimensions are padded to D and DV in shared memory, where so many `stages` of Q and dO lie. `blocks`
    and `full` as in `Tiles`.
    """

    Br: int
    Bc: int
    D: int
    DV: int
    KG: int
    QG: int
    stages: int = 2
    blocks: int = 1
    full: bool = False

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.KG * self.QG

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return LANES * self.warps

    @property
    def CG(self) -> int:  # noqa: N802
        """Lanes that share a row of dK and dV: four of each warp."""
        return 4 * self.QG

    @property
    def WM(self) -> int:  # noqa: N802
        """Keys of a warp."""
        return self.Bc // self.KG

    @property
    def WN(self) -> int:  # noqa: N802
        """Queries of a warp."""
        return self.Br // self.QG

    @property
    def adders(self) -> int:
        """Threads that add to dQ."""
        return self.threads

    @property
    def dq_columns(self) -> int:
        """Columns of dQ that a warp owns: all warps share dQ, if they can in pieces of 32 rows."""
        return self.D // min(self.warps * 32 // max(self.Br, 32), self.D // 16)

    @property
    def dq_rows(self) -> int:
        """Rows of dQ that a warp owns."""
        return self.Br * self.D // self.dq_columns // self.warps

    @property
    def dq_step(self) -> int:
        """Columns of dQ that a warp computes at once: while it does, its registers hold dK and dV, too."""
        return min(self.dq_columns, 32)


@dataclass(frozen=True)
class WarpgroupGradientTiles(OfWarpgroups):
    """The tile sizes of attention's gradients by warpgroups: a block owns Bc key rows and meets Br queries at a time.

    For every 64 keys there are QG warpgroups, each of which computes its share of the queries of the scores, and of the
    columns of dK and dV. In shared memory lie so many pairs of Q and dO as `stages`. Head dimensions are padded to D
    and DV. `full` as in `Tiles`. `direct`: dK takes dS from registers, which it needs some more of; not if QG > 1.
    """

    Br: int
    Bc: int
    D: int
    DV: int
    stages: int = 2
    QG: int = 1
    full: bool = False
    direct: bool = False

    @property
    def rows(self) -> int:
        """64 for each warpgroup that computes."""
        return self.Bc * self.QG

    @property
    def registers(self) -> tuple[int, int]:
        """Of a thread that copies, and of one that computes."""
        return SHARED_FOR_GRADIENTS[self.consumers]

    @property
    def KG(self) -> int:  # noqa: N802
        """Groups of 64 keys."""
        return self.Bc // WARPGROUP_ROWS

    @property
    def queries(self) -> int:
        """Of the scores that a warpgroup computes."""
        return self.Br // self.QG

    @property
    def adders(self) -> int:
        """Threads that add to dQ."""
        return WARPGROUP * self.consumers

    @property
    def dq_blocks(self) -> int:
        """Blocks of 64 rows of dQ, each of which a warpgroup owns, or a share of its columns."""
        return self.Br // WARPGROUP_ROWS

    @property
    def dq_columns(self) -> int:
        """Columns of dQ that a warpgroup owns."""
        return self.D * self.dq_blocks // self.consumers

    @property
    def dq_rows(self) -> int:
        """Rows of dQ that a warp owns."""
        return WARPGROUP_ROWS // WARPS

    @property
    def dq_step(self) -> int:
        """Columns of dQ that a warp computes at once."""
        return self.dq_columns


@dataclass(frozen=True)
class Piece:
    """What thread (rg, cg) owns of a tile: TM x TN elements, in runs of U rows and V columns (1 or 4 each).

    Row r of the piece is row U*(rg + RG*(r // U)) + r % U of the tile, so that neighbouring row groups read
    neighbouring rows; column c is column V*(cg + CG*(c // V)) + c % V.
    """

    RG: int
    CG: int
    TM: int
    TN: int
    U: int = 1
    V: int = 1

    @property
    def size(self) -> int:
        """Elements of a piece."""
        return self.TM * self.TN

    @property
    def apart(self) -> int:
        """How far apart the lanes of one row are."""
        return APART

    def reads(self, depth: int) -> int:
        """Shared elements that a thread reads in a product of this depth."""
        return (self.TM + self.TN) * depth


@dataclass(frozen=True)
class Fragments:
    """What a lane owns of a tile that tensor cores make: TM x TN elements of accumulator fragments, 16 x 8 each.

    A warp owns 16 rows for every two of TM, and all columns. Row group rg is the warp's first row + lane // 4, and cg
    is lane % 4: row r of the piece is row rg + 8*r of the tile, column c is column 8*(c // 2) + 2*cg + c % 2.
    """

    RG: int
    TM: int
    TN: int

    @property
    def CG(self) -> int:  # noqa: N802
        """Lanes of a row."""
        return 4

    @property
    def size(self) -> int:
        """Elements of a piece."""
        return self.TM * self.TN

    @property
    def apart(self) -> int:
        """How far apart the lanes of one row are."""
        return 1


@dataclass(frozen=True)
class TransposedFragments:
    """What a lane owns of a tile whose transpose tensor cores make: TM x TN elements, in fragments of 8 rows x 16.

    Column group cg is the warp's first column + lane // 4, and rg is lane % 4: column c of the piece is column
    cg + 8*c of the tile, row r is row 8*(r // 2) + 2*rg + r % 2, counted from the warp's first.
    """

    CG: int
    TM: int
    TN: int

    @property
    def RG(self) -> int:  # noqa: N802
        """Lanes of a column."""
        return 4

    @property
    def size(self) -> int:
        """Elements of a piece."""
        return self.TM * self.TN


AnyPiece = Piece | Fragments | TransposedFragments


def padded(width: int, itemsize: int) -> int:
    """Elements between rows of a shared tile: 16 bytes more than the row, so that rows start in different banks."""
    return width + 16 // itemsize

"""Products of a warpgroup over a whole depth: one instruction for every 16.

Shared operands are panels of boxes: see `device.boxes`.
"""

from __future__ import annotations

from functools import cache

from numba import cuda, int32

from numba_flash.config import LANES, PANEL, ROW_BYTES, WARPGROUP
from numba_flash.device.softmax import ALL_LANES
from numba_flash.ptx import (
    descriptor_layout,
    device,
    make_wgmma,
    make_wgmma_registers,
    matrix_descriptor,
    wgmma_commit,
)

STEP = 16  # the depth of an instruction
UNIT = 16  # bytes that a descriptor counts


@device
def from_lane(x, n):
    """Lane n's x; the compiler knows that all lanes of a warp have the same, and may keep it once for them."""
    return cuda.shfl_sync(ALL_LANES, x, n)


@device
def warpgroup():
    """This thread's warpgroup."""
    return from_lane(int32(cuda.threadIdx.x // WARPGROUP), 0)


@device
def warp():
    """This thread's warp."""
    return from_lane(int32(cuda.threadIdx.x // LANES), 0)


@cache
def make_step(across: bool, panel_bytes: int):
    """Make step(x): how much a descriptor of a matrix grows from one depth, a multiple of 16, to the one x deeper."""

    @device
    def step_across(x):
        return x * ROW_BYTES // UNIT

    @device
    def step_along(x):
        return (x // PANEL * panel_bytes + x % PANEL * 2) // UNIT

    return step_across if across else step_along


@cache
def make_issue(
    dtype: str,
    columns: int,
    depth: int,
    a_bytes: int,
    b_bytes: int,
    a_across: bool = False,
    b_across: bool = False,
    fresh: bool = False,
):
    """Make issue(acc, a, b): acc (64 x columns) += A @ B, a group of products, A and B at shared addresses.

    a_bytes, b_bytes : of a panel
    a_across, b_across : as in `ptx.make_wgmma`
    fresh : acc = A @ B
    """
    wgmma = make_wgmma(columns, dtype, a_across, b_across)
    step_a, step_b = make_step(a_across, a_bytes), make_step(b_across, b_bytes)
    A_LAYOUT, B_LAYOUT = descriptor_layout(a_bytes), descriptor_layout(b_bytes)

    @device
    def issue(acc, a, b):
        A, B = matrix_descriptor(a, A_LAYOUT), matrix_descriptor(b, B_LAYOUT)
        for x in range(0, depth, STEP):
            wgmma(acc, A + step_a(x), B + step_b(x), x > 0 or not fresh)
        wgmma_commit()

    return issue


@cache
def make_issue_registers(dtype: str, columns: int, depth: int, b_bytes: int):
    """Make issue_registers(acc, p, b): acc += P @ B, P in fragments of 16 x 16 in registers, B across."""
    wgmma = make_wgmma_registers(columns, dtype, True)
    step = make_step(True, b_bytes)
    B_LAYOUT = descriptor_layout(b_bytes)

    @device
    def issue_registers(acc, p, b):
        B = matrix_descriptor(b, B_LAYOUT)
        for x in range(0, depth, STEP):
            wgmma(acc, p, x // STEP, B + step(x))
        wgmma_commit()

    return issue_registers

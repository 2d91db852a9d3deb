"""The ladder: one row per rung, in the order to read them, and how a call finds its rung."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numba_flash.arrays import gpu_count
from numba_flash.config import Device, current_device
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.problem import FLOATS, AttentionProblem, Reasons, visible_pairs
from numba_flash.simulator import SIMULATED
from numba_flash.softmax_problem import SoftmaxProblem

FORWARD, BACKWARD, MATMUL, SOFTMAX = "flash_attention", "flash_attention_backward", "matmul", "softmax"


def forward_flops(p: AttentionProblem) -> int:
    """Two products over the visible pairs: S = QK^T and O = PV."""
    return 2 * visible_pairs(p) * (p.d + p.dv)


def backward_flops(p: AttentionProblem) -> int:
    """Five products over the visible pairs: S, dP, dV, dQ, dK."""
    return 2 * visible_pairs(p) * (3 * p.d + 2 * p.dv)


def matmul_flops(p: MatmulProblem) -> int:
    """A multiplication and an addition for each of M*N*K terms."""
    return 2 * p.B * p.M * p.N * p.K


def softmax_flops(p: SoftmaxProblem) -> int:
    """A maximum, a difference, an exponential, a sum and a quotient for each element."""
    return 5 * p.B * p.M * p.N


@dataclass(frozen=True)
class Rung:
    """One implementation of one operation.

    `family` is the name that serves several operations; `archs` are the architectures that its kernels compile for,
    none for a rung of the CPU, and `dtypes` what it takes.
    """

    name: str
    module: str
    operation: str
    family: str
    idea: str
    paper: str
    archs: tuple[str, ...]
    flops: Callable[[Any], int]
    dtypes: tuple[str, ...] = FLOATS

    @property
    def usual_dtype(self) -> str:
        """What it is looked at with: float32, or where it takes none, bfloat16."""
        return "float32" if "float32" in self.dtypes else "bfloat16"

    @property
    def on_gpu(self) -> bool:
        """Does it launch kernels, on a GPU or in the simulator?"""
        return bool(self.archs)

    def load(self) -> Any:
        """The rung's module, imported on use."""
        return importlib.import_module(self.module)

    def bytes(self, problem: Any, device: Device) -> int:
        """What a rung of the GPU reads from and writes to global memory, whatever a cache spares it."""
        traffic = self.load().traffic(problem, device)
        return traffic.global_read + traffic.global_written

    def why_not(self, problem: Any, device: Device | None) -> list[str]:
        """Why this rung cannot solve the problem on `device` (None: no GPU); empty if it can."""
        if not self.on_gpu:
            return ["the operands lie on a GPU"] if problem.device is not None else []
        if device is None:
            return ["no GPU that CuPy can use"]
        if device.simulated and problem.device is not None:
            return ["the operands lie on a GPU, but NUMBA_ENABLE_CUDASIM=1 simulates one in host memory"]
        unfit = [] if problem.dtype in self.dtypes else [f"{problem.dtype} (needs {' or '.join(self.dtypes)})"]
        return unfit + self.load().why_not(problem, device)


SIMT = ("sm_75", "sm_80", "sm_90")
MMA = ("sm_80", "sm_90")
HOPPER = ("sm_90",)
HALVES = ("float16", "bfloat16")

LADDER = (
    Rung("softmax_safe", "numba_flash.rungs.softmax_safe", SOFTMAX, "softmax_safe",
         "three passes: max, sum, write", "Milakov & Gimelshein 2018, arXiv:1805.02867", SIMT, softmax_flops),
    Rung("softmax_online", "numba_flash.rungs.softmax_online", SOFTMAX, "softmax_online",
         "two passes: the sum follows the maximum", "Milakov & Gimelshein 2018, arXiv:1805.02867", SIMT, softmax_flops),
    Rung("attention_naive", "numba_flash.rungs.attention_naive", FORWARD, "attention_naive",
         "nothing is saved: S, P and O in global memory", "Dao 2022, arXiv:2205.14135, Alg. 0", SIMT, forward_flops),
    Rung("attention_two_pass", "numba_flash.rungs.attention_two_pass", FORWARD, "attention_two_pass",
         "no S in memory: scores are computed twice", "Milakov 2018, arXiv:1805.02867; Ye 2023", SIMT, forward_flops),
    Rung("attention_one_pass", "numba_flash.rungs.attention_one_pass", FORWARD, "attention_one_pass",
         "o' is right for the keys met so far: one pass", "Ye 2023", SIMT, forward_flops),
    Rung("matmul_naive", "numba_flash.rungs.matmul_naive", MATMUL, "matmul_naive",
         "a thread for every element", "Kirk & Hwu, PMPP ch. 3", SIMT, matmul_flops),
    Rung("matmul_tiled", "numba_flash.rungs.matmul_tiled", MATMUL, "matmul_tiled",
         "shared tiles and syncthreads", "Kirk & Hwu, PMPP ch. 5", SIMT, matmul_flops),
    Rung("matmul_registers", "numba_flash.rungs.matmul_registers", MATMUL, "matmul_registers",
         "register tiles: a thread owns 16 x 8 elements", "Volkov & Demmel 2008", SIMT, matmul_flops),
    Rung("matmul_mma", "numba_flash.rungs.matmul_mma", MATMUL, "matmul_mma",
         "tensor cores; tiles arrive while others are multiplied", "PTX ISA, mma.sync", MMA, matmul_flops, HALVES),
    Rung("matmul_wgmma", "numba_flash.rungs.matmul_wgmma", MATMUL, "matmul_wgmma",
         "one warp copies boxes, warpgroups only multiply", "PTX ISA, wgmma; CUTLASS", HOPPER, matmul_flops, HALVES),
    Rung("flash1_forward", "numba_flash.rungs.flash1_forward", FORWARD, "flash1",
         "tiles of Q, K, V in shared memory", "Dao 2022, arXiv:2205.14135", SIMT, forward_flops),
    Rung("flash1_backward", "numba_flash.rungs.flash1_backward", BACKWARD, "flash1",
         "P is recomputed from LSE, tile by tile", "Dao 2022, arXiv:2205.14135", SIMT, backward_flops),
    Rung("flash2_forward", "numba_flash.rungs.flash2_forward", FORWARD, "flash2",
         "the query loop is the grid; one LSE", "Dao 2023, arXiv:2307.08691", SIMT, forward_flops),
    Rung("flash2_backward", "numba_flash.rungs.flash2_backward", BACKWARD, "flash2",
         "P from LSE; delta; a block owns key rows, dQ is summed", "Dao 2023, arXiv:2307.08691", SIMT, backward_flops),
    Rung("flash2_mma_forward", "numba_flash.rungs.flash2_mma_forward", FORWARD, "flash2_mma",
         "tensor cores; P stays in registers, as an operand", "Dao 2023, arXiv:2307.08691", MMA, forward_flops, HALVES),
    Rung("flash2_mma_backward", "numba_flash.rungs.flash2_mma_backward", BACKWARD, "flash2_mma",
         "tensor cores; S^T, so that P and dS are operands", "Dao 2023, arXiv:2307.08691", MMA, backward_flops, HALVES),
    Rung("flash3_forward", "numba_flash.rungs.flash3_forward", FORWARD, "flash3",
         "one warpgroup multiplies, the other takes exponentials", "Shah 2024, arXiv:2407.08608", HOPPER,
         forward_flops, HALVES),
    Rung("flash3_backward", "numba_flash.rungs.flash3_backward", BACKWARD, "flash3",
         "five products by warpgroups, while a warp copies", "Shah 2024, arXiv:2407.08608", HOPPER,
         backward_flops, HALVES),
    Rung("cpu_softmax", "numba_flash.cpu.cpu_softmax", SOFTMAX, "cpu",
         "NumPy's formula", "", (), softmax_flops),
    Rung("cpu_matmul", "numba_flash.cpu.cpu_matmul", MATMUL, "cpu",
         "NumPy's product", "", (), matmul_flops),
    Rung("cpu_forward", "numba_flash.cpu.cpu_forward", FORWARD, "cpu",
         "flash2_forward with numba.njit on all cores", "Dao 2023, arXiv:2307.08691", (), forward_flops),
    Rung("cpu_backward", "numba_flash.cpu.cpu_backward", BACKWARD, "cpu",
         "flash2_backward with numba.njit on all cores", "Dao 2023, arXiv:2307.08691", (), backward_flops),
)  # fmt: skip

# kernel="auto" takes the first of these that can run.
FASTEST_FIRST = (
    "softmax_online", "matmul_wgmma", "matmul_mma", "matmul_registers", "flash3_forward", "flash2_mma_forward",
    "flash2_forward", "flash3_backward", "flash2_mma_backward", "flash2_backward", "cpu_softmax", "cpu_matmul",
    "cpu_forward", "cpu_backward",
)  # fmt: skip


def device_for(problem: Any) -> Device | None:
    """The device that kernels for a problem would run on; None where there is none."""
    if SIMULATED:
        return current_device(None)
    if problem.device is None and gpu_count() == 0:
        return None
    return current_device(problem.device)


def fastest_first(operation: str) -> list[Rung]:
    """The rungs of an operation that "auto" tries, in its order."""
    return [rung for name in FASTEST_FIRST for rung in LADDER if rung.name == name and rung.operation == operation]


def named(operation: str, kernel: str) -> list[Rung]:
    """The rungs of an operation that a `kernel=` name, family or "auto" stands for, fastest first."""
    rungs = [rung for rung in LADDER if rung.operation == operation]
    if kernel == "auto":
        return [rung for rung in fastest_first(operation) if not (SIMULATED and rung.on_gpu)]
    return [rung for rung in rungs if kernel in (rung.name, rung.family)]


def check_kernel(reasons: Reasons, operation: str, kernel: Any) -> None:
    """Note a `kernel=` that names no rung of an operation."""
    if kernel != "auto" and not named(operation, kernel):
        known = dict.fromkeys(n for r in LADDER if r.operation == operation for n in (r.family, r.name))
        reasons.add(f"no {operation} kernel {kernel!r} (there are 'auto', {', '.join(map(repr, known))})")


def choose(operation: str, kernel: str, problems: Sequence[Any]) -> Rung:
    """The rung for a call with a `kernel=` that `check_kernel` let pass.

    Raises
    ------
    ValueError
        if the named rung, or with "auto" every rung, cannot run; it lists all reasons
    """
    refusals = []
    for rung in named(operation, kernel):
        why = dict.fromkeys(reason for p in problems for reason in rung.why_not(p, device_for(p)))
        if not why:
            return rung
        refusals.append(f"{rung.name!r} cannot run: {'; '.join(why)}.")
    advice = "" if kernel == "auto" else " Use kernel='auto'."
    raise ValueError(f"{operation}: kernel {' Kernel '.join(refusals)}{advice}")

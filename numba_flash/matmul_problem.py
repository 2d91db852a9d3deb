"""One matrix product, validated, with every complaint about the operands in one error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numba_flash.arrays import Array, fold_leading
from numba_flash.problem import FLOATS, Reasons, check_devices, fits_boxes, on_16_bytes, real_of


@dataclass(frozen=True)
class MatmulProblem:
    """C (B, M, N) = A (B, M, K) @ B (B, K, N): sizes and dtypes.

    `vector`: all rows can be read 16 bytes at a time. `contiguous`: which axes of A and B lie together in memory, so
    that boxes of them can be copied; None where neither of its last two does.
    """

    B: int
    M: int
    N: int
    K: int
    dtype: str
    out_dtype: str
    vector: bool = True
    device: int | None = None
    contiguous: tuple[str | None, str | None] = ("K", "N")

    @property
    def real(self) -> str:
        """The dtype of arithmetic."""
        return real_of(self.dtype)


@dataclass(frozen=True)
class MatmulRequest:
    """A validated matmul: problems with their operands, and the result's shape before and after squeezing."""

    problems: list[tuple[MatmulProblem, Array, Array]]
    a: Array  # the result's library and device
    product_shape: tuple[int, ...]
    shape: tuple[int, ...]
    out_dtype: str


def matmul_request(reasons: Reasons, a: Any, b: Any, out_dtype: Any) -> MatmulRequest:
    """Check a call of `matmul` and fold its operands to three axes; one error with every reason."""
    A, B = reasons.read("a", a), reasons.read("b", b)
    name = dtype_name(reasons, out_dtype)
    if A is None or B is None:
        reasons.raise_if_any()
    assert A is not None and B is not None
    if A.dtype not in FLOATS:
        reasons.add(f"a is {A.dtype} (needs one of {', '.join(FLOATS)})", TypeError)
    if A.dtype != B.dtype:
        reasons.add(f"a is {A.dtype}, b is {B.dtype} (need one dtype)", TypeError)
    check_devices(reasons, {"a": A, "b": B})
    if not A.shape or not B.shape:
        reasons.add("a and b need at least one axis each")
        reasons.raise_if_any()
    if A.shape[-1] != B.shape[-2:][0]:
        reasons.add(f"a has shape {A.shape}, b {B.shape}: inner sizes {A.shape[-1]} and {B.shape[-2:][0]} differ")
    squeeze_rows, squeeze_columns = len(A.shape) == 1, len(B.shape) == 1
    A = A[None] if squeeze_rows else A
    B = B[:, None] if squeeze_columns else B
    lead = broadcast_lead(reasons, A.shape[:-2], B.shape[:-2])
    reasons.raise_if_any()
    A, B = A.broadcast((*lead, *A.shape[-2:])), B.broadcast((*lead, *B.shape[-2:]))
    if not lead:
        A, B = A[None], B[None]
    (M, K), N = A.shape[-2:], B.shape[-1]
    problems = []
    for x, y in fold_leading([A, B], keep=2):
        assert x is not None and y is not None
        vector = all(on_16_bytes(z) for z in (x, y)) and N % 4 == 0
        axes = contiguous_axis(x, "MK"), contiguous_axis(y, "KN")
        problem = MatmulProblem(x.shape[0], M, N, K, A.dtype, name or A.dtype, vector, A.device, axes)
        problems.append((problem, x, y))
    shape = (*lead, *([] if squeeze_rows else [M]), *([] if squeeze_columns else [N]))
    return MatmulRequest(problems, A, (*lead, M, N), shape, name or A.dtype)


def contiguous_axis(x: Array, names: str) -> str | None:
    """The name of the one of the last two axes along which boxes can be copied, the last one if both.

    All matrices may be the same one.
    """
    x = x[0] if x.shape[0] > 1 and x.strides[0] == 0 else x
    return names[1] if fits_boxes(x) else names[0] if fits_boxes(x.transposed()) else None


def dtype_name(reasons: Reasons, dtype: Any) -> str | None:
    """The name of a float dtype given as a name, a NumPy dtype or type, or a torch dtype."""
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", getattr(dtype, "__name__", str(dtype)))
    name = name.removeprefix("torch.")
    if name not in FLOATS:
        reasons.add(f"out_dtype={dtype!r} (needs one of {', '.join(FLOATS)})", TypeError)
    return name


def broadcast_lead(reasons: Reasons, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    """The common leading axes of two operands by NumPy's rule."""
    longest = max(len(x), len(y))
    pairs = zip((1,) * (longest - len(x)) + x, (1,) * (longest - len(y)) + y, strict=True)
    lead = []
    for m, n in pairs:
        if m != n and 1 not in (m, n):
            reasons.add(f"leading axes {x} and {y} do not broadcast")
            return ()
        lead.append(n if m == 1 else m)
    return tuple(lead)

"""Where a property can be run: the CPU path, the simulator and a GPU, all given NumPy arrays and giving them back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy
from numpy.lib.array_utils import byte_bounds

from numba_flash import flash_attention, flash_attention_backward, matmul, merge, softmax
from numba_flash.arrays import CUPY, NUMPY
from numba_flash.config import WARPGROUP_ROWS
from numba_flash.reference import Array
from numba_flash.testing.case import Case
from numba_flash.testing.matmul import MatmulCase, matmul_cases
from numba_flash.testing.softmax import SoftmaxCase, softmax_cases
from numba_flash.testing.strategies import OPTIONS, SCORE_OPTIONS, attention_cases

ALIGNMENT = 16


def unchanged(x: Any) -> Any:
    """The array itself."""
    return x


def to_cupy(x: Array) -> Any:
    """A CuPy array with the values, strides and alignment of x, and with what lies between its elements."""
    import cupy

    low, high = byte_bounds(x) if x.size else (0, 0)
    shift = low % ALIGNMENT
    memory = cupy.empty(shift + high - low, np.uint8)
    bytes_of_x = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
    memory[shift:] = cupy.asarray(bytes_of_x)
    return cupy.ndarray(x.shape, x.dtype, memory.data + shift + (x.ctypes.data - low if x.size else 0), x.strides)


def from_cupy(x: Any) -> Array:
    """A copy in host memory."""
    import cupy

    return cupy.asnumpy(x)


@dataclass(frozen=True, eq=False, repr=False)
class Backend:
    """One way to run the public operations.

    Attributes
    ----------
    name : str
    kernel : str
        The `kernel=` of attention.
    backward : str
        The `kernel=` of its gradient, where it is another one.
    options : names of `strategies.OPTIONS`
        Which ones the kernel takes.
    products, tensor_products : names
        The kernels of matmul, and those that take 16-bit numbers alone.
    softmaxes : names
        The kernels of softmax.
    cases_per_example : int
        How many cases to try where a slow backend tries one.
    sizes, product_sizes, row_sizes : keyword arguments of `attention_cases`, `matmul_cases` and `softmax_cases`
        Which problems suit it.
    to_device, to_numpy : functions
        From a NumPy array to the operand of a call, and from its result back.
    library : the library that such an operand is of
    """

    name: str
    kernel: str
    products: tuple[str, ...]
    softmaxes: tuple[str, ...]
    cases_per_example: int
    sizes: Mapping[str, Any]
    product_sizes: Mapping[str, Any]
    row_sizes: Mapping[str, Any]
    backward: str = ""
    tensor_products: tuple[str, ...] = ()
    options: Set[str] = OPTIONS
    to_device: Callable[[Array], Any] = unchanged
    to_numpy: Callable[[Any], Array] = unchanged
    library: Any = NUMPY

    def __repr__(self) -> str:
        return self.name.upper()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what hypothesis prints

    def cases(self, **restrictions: Any) -> SearchStrategy[Case]:
        """Cases of sizes that suit this backend; arguments of `attention_cases` restrict them."""
        options = self.options & set(restrictions.pop("options", OPTIONS))
        return attention_cases(**{**self.sizes, "options": options, **restrictions})

    def before_flash2(self, kernel: str, backward: str) -> Backend:
        """The same with an older rung of attention, and the rung or family of its gradient."""
        return replace(self, kernel=kernel, backward=backward, options=OPTIONS - SCORE_OPTIONS)

    def on_tensor_cores(self, kernel: str, backward: str) -> Backend:
        """The same with a rung of attention for 16-bit numbers, and the rung or family of its gradient."""
        rows, scores = max(self.sizes["max_rows"], 40), max(self.sizes["max_scores"], 48**2)  # several of its blocks
        least = WARPGROUP_ROWS if backward.startswith("flash3") else 16  # keys of a block
        tiles = tuple(max(least, side) for side in self.sizes["tiles"])
        more = {"dtypes": ("float16", "bfloat16"), "tiles": tiles, "max_rows": rows, "max_scores": scores}
        return replace(self, kernel=kernel, backward=backward, sizes={**self.sizes, **more})

    def products_of(self, dtype: Any) -> tuple[str, ...]:
        """The kernels of matmul that take a dtype."""
        return self.products + (self.tensor_products if np.dtype(dtype).itemsize == 2 else ())

    def matmul_cases(self, **restrictions: Any) -> SearchStrategy[MatmulCase]:
        """The same for matrix products."""
        return matmul_cases(**{**self.product_sizes, **restrictions})

    def softmax_cases(self, **restrictions: Any) -> SearchStrategy[SoftmaxCase]:
        """The same for softmax."""
        return softmax_cases(**{**self.row_sizes, **restrictions})

    def attention(self, q: Array, k: Array, v: Array, **options: Any) -> tuple[Array, Array]:
        """o and lse; arguments as in `flash_attention`."""
        operands, options = self.all_to_device(q, k, v), self.options_to_device(options)
        o, lse = flash_attention(*operands, **options, return_lse=True, kernel=self.kernel)
        return self.to_numpy(o), self.to_numpy(lse)

    def gradients(self, *operands: Array | None, **options: Any) -> tuple[Array, ...]:
        """dq, dk and dv; arguments as in `results`."""
        return self.results(*operands, **options)[2:]  # type: ignore[arg-type]

    def results(
        self,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        dlse: Array | None = None,
        *,
        deterministic: bool = False,
        **options: Any,
    ) -> tuple[Array, ...]:
        """o, lse, dq, dk and dv of a forward and a backward pass; arguments as in `flash_attention_backward`."""
        do, q, k, v = self.all_to_device(do, q, k, v)
        options = self.options_to_device(options)
        o, lse = flash_attention(q, k, v, **options, return_lse=True, kernel=self.kernel)
        dlse = None if dlse is None else self.to_device(dlse)
        how: dict[str, Any] = {"deterministic": deterministic, "kernel": self.backward or self.kernel}
        gradients = flash_attention_backward(do, q, k, v, o, lse, **options, dlse=dlse, **how)
        return tuple(self.to_numpy(x) for x in (o, lse, *gradients))

    def merge(self, *parts: Array) -> tuple[Array, ...]:
        """o and lse of o1, lse1, o2, lse2."""
        return tuple(self.to_numpy(x) for x in merge(*self.all_to_device(*parts)))

    def matmul(self, a: Array, b: Array, **options: Any) -> Array:
        """The product; arguments as in `numba_flash.matmul`."""
        return self.to_numpy(matmul(*self.all_to_device(a, b), **options))

    def softmax(self, x: Array, **options: Any) -> Array:
        """Softmax along the last axis; arguments as in `numba_flash.softmax`."""
        return self.to_numpy(softmax(self.to_device(x), **options))

    def all_to_device(self, *arrays: Array) -> list[Any]:
        """Operands of a call."""
        return [self.to_device(x) for x in arrays]

    def options_to_device(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The same keyword arguments, NumPy arrays among them moved."""
        return {key: self.to_device(x) if isinstance(x, np.ndarray) else x for key, x in options.items()}


CPU = Backend(
    name="cpu",
    kernel="cpu",
    products=("cpu",),
    softmaxes=("cpu",),
    cases_per_example=3,
    sizes={"tiles": (96, 96), "max_rows": 200, "max_depth": 70, "max_scores": 2**16},
    product_sizes={"tile": 32, "max_size": 70},
    row_sizes={"tile": 128, "max_size": 1021},
)
SIMULATOR = Backend(
    name="simulator",
    kernel="flash2",
    products=("matmul_naive", "matmul_tiled", "matmul_registers"),
    tensor_products=("matmul_mma",),
    softmaxes=("softmax_safe", "softmax_online"),
    cases_per_example=1,
    sizes={"tiles": (8, 8), "max_rows": 19, "max_depth": 20, "max_scores": 640},
    product_sizes={"tile": 8, "max_size": 19},
    row_sizes={"tile": 8, "max_size": 19},
)
GPU = Backend(
    name="gpu",
    kernel="flash2",
    products=("matmul_naive", "matmul_tiled", "matmul_registers"),
    tensor_products=("matmul_mma",),
    softmaxes=("softmax_safe", "softmax_online"),
    cases_per_example=3,
    sizes={"tiles": (128, 32), "max_rows": 300, "max_depth": 128, "max_scores": 2**20, "few_kernels": True},
    product_sizes={"tile": 128, "max_size": 300},
    row_sizes={"tile": 256, "max_size": 1021},
    to_device=to_cupy,
    to_numpy=from_cupy,
    library=CUPY,
)

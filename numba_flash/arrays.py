"""Arrays of any library in, the same kind out: NumPy, CuPy, PyTorch, the CUDA array interface and DLPack.

Inside the package every operand is an `Array`: a view of the caller's memory, or of none while a call is planned
(`numba_flash.outline`), with its library behind it. Nothing is copied here unless the memory cannot be addressed in
whole elements (a misaligned or byte-swapped NumPy array).
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NUMPY_DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64", "bool")} | {"bfloat16": BFLOAT16}
NUMPY_KINDS = (np.ndarray, np.generic)
ITEMSIZE = {name: dtype.itemsize for name, dtype in NUMPY_DTYPES.items()}

ALIGNED = 16  # bytes of the widest load: kernels care where an address lies between two multiples

# All that a plan depends on of an array: its library, shape, strides, dtype (both as the library has them), address
# modulo ALIGNED and CUDA device.
Description = tuple[Any, tuple[int, ...], tuple[int, ...], Any, int, int | None]

Described = tuple[Any, int, Description]  # an array of a library of ours, its address, and its description

# The addresses of three arrays, and all else that a plan depends on. It is read without a loop, which would take twice
# as long.
Glance = tuple[list[int], tuple[Any, ...]]


@cache
def dtype_name(dtype: Any) -> str:
    """A NumPy dtype's name, which NumPy itself composes anew at every look."""
    return dtype.name


class NumpyLibrary:
    """Host memory."""

    name = "numpy"

    def is_owner(self, x: Any) -> bool:
        return isinstance(x, NUMPY_KINDS)

    def prepare(self, x: Any) -> Any:
        """`x` itself, or a copy where its elements cannot be addressed natively."""
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError("a masked array, whose mask would be lost: use its .filled() and the option mask=")
        x = np.asarray(x)
        whole = x.flags.aligned and x.dtype.isnative and all(s % x.itemsize == 0 for s in x.strides)
        return x if whole else np.array(x, dtype=x.dtype.newbyteorder("="), order="C")

    def describe(self, x: Any) -> Described:
        address = self.address(x)
        return x, address, (self, x.shape, x.strides, x.dtype, address % ALIGNED, None)

    def element_strides(self, strides: Sequence[int], dtype: Any) -> tuple[int, ...]:
        """The strides of a description in elements."""
        return tuple(s // dtype.itemsize for s in strides)

    def dtype_name(self, dtype: Any) -> str:
        return dtype_name(dtype)

    def dtype(self, x: Any) -> str:
        return self.dtype_name(x.dtype)

    def strides(self, x: Any) -> tuple[int, ...]:
        return self.element_strides(x.strides, x.dtype)

    def address(self, x: Any) -> int:
        return x.__array_interface__["data"][0]

    def device(self, x: Any) -> int | None:
        return None

    def empty(self, shape: Sequence[int], dtype: str, device: int | None) -> Any:
        """Uninitialised and contiguous."""
        return np.empty(shape, NUMPY_DTYPES[dtype])

    def as_strided(self, x: Any, shape: Sequence[int], strides: Sequence[int]) -> Any:
        bytes_apart = [s * x.itemsize for s in strides]
        return np.lib.stride_tricks.as_strided(x, shape, bytes_apart, writeable=x.flags.writeable)

    def view(self, x: Any, offset: int, shape: Sequence[int], strides: Sequence[int]) -> Any:
        """`x` from `offset` bytes behind its first element on, which may be negative; strides in elements."""
        if offset == 0:
            return x if (x.shape, self.strides(x)) == (shape, strides) else self.as_strided(x, shape, strides)
        place = SimpleNamespace(__array_interface__={**x.__array_interface__, "shape": (1,), "strides": None}, x=x)
        address, read_only = x.__array_interface__["data"]
        place.__array_interface__["data"] = address + offset, read_only
        return self.as_strided(np.asarray(place).view(x.dtype), shape, strides)


class CupyLibrary(NumpyLibrary):
    """Device memory of CuPy; `kind` is the type of its arrays, once one was met."""

    name = "cupy"
    kind: type | tuple[()] = ()

    @property
    def cupy(self) -> Any:
        return sys.modules.get("cupy") or import_module("cupy")

    def is_owner(self, x: Any) -> bool:
        if "cupy" not in sys.modules or not isinstance(x, sys.modules["cupy"].ndarray):
            return False
        self.kind = sys.modules["cupy"].ndarray
        return True

    def prepare(self, x: Any) -> Any:
        return x

    def address(self, x: Any) -> int:
        return x.data.ptr

    def device(self, x: Any) -> int | None:
        return x.device.id

    def describe(self, x: Any) -> Described:
        memory = x.data
        address = memory.ptr
        return x, address, (self, x.shape, x.strides, x.dtype, address % ALIGNED, memory.device_id)

    def glance(self, x: Any, y: Any, z: Any) -> Glance:
        x_data, y_data, z_data = x.data, y.data, z.data
        a, b, c = addresses = [x_data.ptr, y_data.ptr, z_data.ptr]
        return addresses, (
            x.shape, x.strides, x.dtype, a % ALIGNED, x_data.device_id,
            y.shape, y.strides, y.dtype, b % ALIGNED, y_data.device_id,
            z.shape, z.strides, z.dtype, c % ALIGNED, z_data.device_id,
        )  # fmt: skip

    def empty(self, shape: Sequence[int], dtype: str, device: int | None) -> Any:
        """As NumPy's, on `device`, which is the current one: CuPy allocates on no other."""
        return self.cupy.empty(shape, NUMPY_DTYPES[dtype])

    def as_strided(self, x: Any, shape: Sequence[int], strides: Sequence[int]) -> Any:
        return self.cupy.lib.stride_tricks.as_strided(x, shape, [s * x.itemsize for s in strides])

    def on_stream(self, stream: int, device: int | None) -> Any:
        """Make `stream` the current one of the current device; it waits for what the one before was given so far."""
        with warnings.catch_warnings():
            # Deprecated, but Stream.from_external destroys the stream that it wraps when it is collected.
            warnings.simplefilter("ignore", DeprecationWarning)
            new = self.cupy.cuda.ExternalStream(stream, device)
        current = self.cupy.cuda.get_current_stream()
        if current.ptr != stream:
            new.wait_event(current.record())
        return new


class TorchLibrary:
    """Tensors on a CUDA device; `kind` as CuPy's."""

    name = "torch"
    kind: type | tuple[()] = ()

    @property
    def torch(self) -> Any:
        return sys.modules.get("torch") or import_module("torch")

    def is_owner(self, x: Any) -> bool:
        if "torch" not in sys.modules or not isinstance(x, sys.modules["torch"].Tensor):
            return False
        self.kind = sys.modules["torch"].Tensor
        return True

    def prepare(self, x: Any) -> Any:
        if x.requires_grad and self.torch.is_grad_enabled():
            raise TypeError("the tensor requires grad: numba_flash.torch carries gradients; or pass tensor.detach()")
        return (x.detach() if x.requires_grad else x).resolve_conj().resolve_neg()

    def describe(self, x: Any) -> Described:
        address = x.data_ptr()
        return x, address, (self, x.shape, x.stride(), x.dtype, address % ALIGNED, x.get_device())

    def glance(self, x: Any, y: Any, z: Any) -> Glance:
        if not x.is_cuda:  # it may have no address at all
            return [], ()
        a, b, c = addresses = [x.data_ptr(), y.data_ptr(), z.data_ptr()]
        gradient = (x.requires_grad or y.requires_grad or z.requires_grad) and self.torch.is_grad_enabled()
        return addresses, (
            x.shape, x.stride(), x.dtype, a % ALIGNED, x.get_device(), x.is_neg(),
            y.shape, y.stride(), y.dtype, b % ALIGNED, y.get_device(), y.is_neg(),
            z.shape, z.stride(), z.dtype, c % ALIGNED, z.get_device(), z.is_neg(), gradient,
        )  # fmt: skip

    def is_ready(self, x: Any) -> bool:
        """Does a tensor lie on a CUDA device, and do its elements mean what they say, without a gradient to carry?"""
        return x.is_cuda and not (x.is_neg() or x.requires_grad and self.torch.is_grad_enabled())

    def element_strides(self, strides: Sequence[int], dtype: Any) -> tuple[int, ...]:
        return tuple(strides)

    def dtype_name(self, dtype: Any) -> str:
        return str(dtype).removeprefix("torch.")

    def dtype(self, x: Any) -> str:
        return self.dtype_name(x.dtype)

    def strides(self, x: Any) -> tuple[int, ...]:
        return tuple(x.stride())

    def address(self, x: Any) -> int:
        return x.data_ptr()

    def device(self, x: Any) -> int | None:
        return x.device.index

    def empty(self, shape: Sequence[int], dtype: str, device: int | None) -> Any:
        torch = self.torch
        return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=torch.device("cuda", device))

    def as_strided(self, x: Any, shape: Sequence[int], strides: Sequence[int]) -> Any:
        return x.as_strided(tuple(shape), tuple(strides), x.storage_offset())

    def on_stream(self, stream: int, device: int | None) -> Any:
        current = self.torch.cuda.current_stream()
        new = self.torch.cuda.ExternalStream(stream, device)
        if current.cuda_stream != stream:
            new.wait_stream(current)
        return self.torch.cuda.stream(new)


NUMPY, CUPY, TORCH = NumpyLibrary(), CupyLibrary(), TorchLibrary()
Library = NumpyLibrary | TorchLibrary


@dataclass(frozen=True, eq=False)
class Array:
    """A view of somebody's memory: shape, strides in elements, dtype name, address, and the CUDA device (None: host).

    `data` is the view as `library` knows it and keeps the memory alive.
    """

    data: Any
    library: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int | None

    @property
    def address(self) -> int:
        """Where element [0, 0, ...] lies."""
        return self.library.address(self.data)

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    def strided(self, shape: Sequence[int], strides: Sequence[int]) -> Array:
        """The same memory with another shape and other strides (in elements)."""
        shape, strides = tuple(shape), tuple(strides)
        if (shape, strides) == (self.shape, self.strides):
            return self
        data = self.library.as_strided(self.data, shape, strides)
        return Array(data, self.library, shape, strides, self.dtype, self.device)

    def broadcast(self, shape: Sequence[int]) -> Array:
        """This array repeated to `shape` by strides of 0; raises ValueError where the axes do not fit."""
        missing = len(shape) - len(self.shape)
        if missing < 0 or any(n not in (1, want) for n, want in zip(self.shape, shape[missing:], strict=True)):
            raise ValueError(f"{self.shape} does not broadcast to {tuple(shape)}")
        kept = zip(self.shape, shape[missing:], self.strides, strict=True)
        strides = [0] * missing + [s if n == want else 0 for n, want, s in kept]
        return self.strided(shape, strides)

    def transposed(self) -> Array:
        """The same memory with its last two axes exchanged."""
        (*lead, m, n), (*steps, down, right) = self.shape, self.strides
        return self.strided((*lead, n, m), (*steps, right, down))

    def fill(self, value: float) -> None:
        """Set every element."""
        self.data[...] = value

    def reshape(self, shape: Sequence[int]) -> Array:
        """A contiguous array with another shape."""
        return wrap(self.data.reshape(tuple(shape)), self.library)

    def __getitem__(self, index: Any) -> Array:
        return wrap(self.data[index], self.library)


def wrap(data: Any, library: Any) -> Array:
    """The `Array` over a NumPy array, a CuPy array or a CUDA tensor of `library`."""
    return Array(
        data=data,
        library=library,
        shape=tuple(data.shape),
        strides=library.strides(data),
        dtype=library.dtype(data),
        device=library.device(data),
    )


def read(x: Any) -> Array:
    """Any supported array as an `Array` over the same memory.

    Raises
    ------
    TypeError
        if `x` is no array, requires gradients, or lies on a GPU while neither CuPy nor its own library can read it
    """
    if NUMPY.is_owner(x):
        return wrap(NUMPY.prepare(x), NUMPY)
    if CUPY.is_owner(x):
        return wrap(x, CUPY)
    if TORCH.is_owner(x):
        x = TORCH.prepare(x)
        return wrap(x, TORCH) if x.is_cuda else wrap(NUMPY.prepare(tensor_to_numpy(x)), NUMPY)
    if hasattr(x, "__cuda_array_interface__") or on_cuda_by_dlpack(x):
        if importlib.util.find_spec("cupy") is None:
            raise TypeError(
                f"{type(x).__name__} lies on a GPU and needs CuPy to be read: pip install numba_flash[cu13]"
            )
        return wrap(CUPY.cupy.asarray(x) if hasattr(x, "__cuda_array_interface__") else CUPY.cupy.from_dlpack(x), CUPY)
    if hasattr(x, "__array_interface__") or hasattr(x, "__array__"):
        return wrap(NUMPY.prepare(exported(x, np.asarray)), NUMPY)
    if hasattr(x, "__dlpack__"):
        return wrap(NUMPY.prepare(exported(x, np.from_dlpack)), NUMPY)
    raise TypeError(no_array(x))


@dataclass(frozen=True)
class Unreadable:
    """In a description's place: why an operand is no array."""

    reason: str


def describe(operands: Sequence[Any]) -> tuple[list[Any], list[int], tuple[Any, ...]]:
    """The arrays to work on, which are the operands where their library is one of ours, their addresses, and the rest.

    What a plan depends on is a `Description` of each, None for None, or why it is `Unreadable`.
    """
    arrays, addresses, descriptions = [], [], []
    for x in operands:
        array, address, description = CUPY.describe(x) if isinstance(x, CUPY.kind) else describe_any(x)
        arrays.append(array)
        addresses.append(address)
        descriptions.append(description)
    return arrays, addresses, tuple(descriptions)


def describe_any(x: Any) -> tuple[Any, int, Description | Unreadable | None]:
    """One of them."""
    if x is None:
        return None, 0, None
    if isinstance(x, TORCH.kind) and TORCH.is_ready(x):
        return TORCH.describe(x)
    try:
        array = read(x)
    except TypeError as error:
        return x, 0, Unreadable(str(error))
    return array.library.describe(array.data)


def no_array(x: Any) -> str:
    """What is wrong with an operand of any other kind."""
    return f"{type(x).__name__} is no array (NumPy, CuPy, PyTorch, CUDA array interface or DLPack)"


def exported(x: Any, to_numpy: Callable[[Any], np.ndarray]) -> np.ndarray:
    """The NumPy array that an object of another library exports."""
    try:
        return to_numpy(x)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{type(x).__name__} exports no array that NumPy can read ({error})") from error


def on_cuda_by_dlpack(x: Any) -> bool:
    """Does `x` export DLPack memory of a CUDA device (device type 2)?"""
    return hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) == 2


def tensor_to_numpy(x: Any) -> np.ndarray:
    """A CPU tensor's memory as a NumPy array; bfloat16, which torch cannot export, travels as its bits."""
    if str(x.dtype) == "torch.bfloat16":
        return x.view(TORCH.torch.int16).numpy().view(BFLOAT16)
    return x.numpy()


def give_back(results: Sequence[Any], like: Any) -> Sequence[Any]:
    """Results, arrays of a library of ours, as the kind of array that `like`, the caller's first operand, is."""
    return results if type(results[0]) is type(like) else [converted(x, like) for x in results]


def converted(result: Any, like: Any) -> Any:
    """One of them."""
    if TORCH.is_owner(like) and not TORCH.is_owner(result):
        return numpy_to_tensor(result)
    if is_jax(like):
        jax = sys.modules["jax"]
        return jax.numpy.asarray(result) if NUMPY.is_owner(result) else jax.dlpack.from_dlpack(result)
    return result


def numpy_to_tensor(x: np.ndarray) -> Any:
    """The opposite of `tensor_to_numpy`."""
    if x.dtype == BFLOAT16:
        return TORCH.torch.from_numpy(x.view(np.int16)).view(TORCH.torch.bfloat16)
    return TORCH.torch.from_numpy(x)


def is_jax(x: Any) -> bool:
    """Is `x` an array of JAX, which has been imported if it is?"""
    return "jax" in sys.modules and isinstance(x, sys.modules["jax"].Array)


@cache
def gpu_count() -> int:
    """How many CUDA devices CuPy can use; 0 without CuPy, a driver or a GPU."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    try:
        return CUPY.cupy.cuda.runtime.getDeviceCount()
    except CUPY.cupy.cuda.runtime.CUDARuntimeError:
        return 0


def to_gpu(x: Any) -> Any:
    """A CuPy copy, on the current device, of a NumPy array; None stays None."""
    return None if x is None else CUPY.cupy.asarray(x)


def to_host(x: Any) -> Any:
    """A CuPy array's copy in host memory, made once the current stream is done."""
    return CUPY.cupy.asnumpy(x)


def empty(like: Array, shape: Sequence[int], dtype: str) -> Array:
    """An uninitialised, contiguous array of the library and on the device of `like`, which is the current one."""
    return wrap(like.library.empty(shape, dtype, like.device), like.library)


def stream_handle(stream: Any) -> int:
    """The CUDA stream handle in an int or a CuPy, torch, numba or cuda.core stream."""
    if isinstance(stream, int):
        return stream
    for attribute in ("ptr", "cuda_stream"):  # CuPy, torch
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    if hasattr(stream, "__cuda_stream__"):  # cuda.core
        return int(stream.__cuda_stream__()[1])
    handle = getattr(stream, "handle", None)  # numba
    if handle is None:
        raise TypeError(f"stream: {type(stream).__name__} is no CUDA stream (int, CuPy, torch, numba or cuda.core)")
    return int(getattr(handle, "value", handle) or 0)


def fold_leading(arrays: Sequence[Array | None], keep: int) -> list[tuple[Array | None, ...]]:
    """Turn the common leading axes of `arrays` into one batch axis before the last `keep` axes, without copying.

    Neighbouring leading axes become one where every array's strides allow it; what cannot be folded is split into
    several groups of arrays. Returns the groups; every array in them has keep + 1 axes.
    """
    present = [x for x in arrays if x is not None]
    lead = present[0].shape[: len(present[0].shape) - keep]
    if 0 in lead:
        return []
    axes = merged_axes(lead, [x.strides for x in present])
    sizes = [int(np.prod([lead[axis] for axis in group])) for group in axes]

    def fold(x: Array) -> Array:
        kept = len(x.shape) - keep
        outer = [x.strides[group[-1]] for group in axes]
        return x.strided((*sizes, *x.shape[kept:]), (*outer, *x.strides[kept:]))

    folded = [None if x is None else fold(x) for x in arrays]
    if len(sizes) == 1:
        return [tuple(folded)]
    return [tuple(None if x is None else x[index] for x in folded) for index in np.ndindex(*sizes[:-1])]


def merged_axes(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[list[int]]:
    """Group neighbouring axes that act as one axis in every one of `strides`; at least one group, if need be of axis 0.

    Axes of length 1 are left out: their strides mean nothing.
    """
    groups: list[list[int]] = []
    for axis in (a for a in range(len(shape)) if shape[a] != 1):
        if groups and all(s[groups[-1][-1]] == shape[axis] * s[axis] for s in strides):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups or [[0]]

"""Where kernels find their data: typed views of global and shared memory, and loads and stores four elements wide."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.np.numpy_support import as_dtype

from numba_flash import simulator
from numba_flash.ptx.codegen import (
    dynamic_shared,
    element_pointer,
    emit_asm,
    emitted,
    global_pointer,
    literal_shape,
    make_array,
    narrow_pointer,
)

# The length that numba gives a view: it adds it to a negative index, so 0 leaves every index as it is.
UNKNOWN_LENGTH = 0


def _global_view(pointer: Any, at: Any, dtype: Any) -> Any:
    view = types.Array(dtype.dtype, 1, "C")

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = context.cast(builder, args[0], sig.args[0], types.uint64)
        offset = context.cast(builder, args[1], sig.args[1], types.uint64)
        itemsize = context.get_constant(types.uint64, dtype.dtype.bitwidth // 8)
        address = builder.add(address, builder.mul(offset, itemsize))
        return make_array(context, builder, view, global_pointer(builder, address), (UNKNOWN_LENGTH,))

    return view(pointer, at, dtype), emit


@emitted(_global_view)
def global_view(pointer: Any, at: Any, dtype: Any) -> Any:
    """A one-dimensional array of `dtype` that starts `at` elements behind a device pointer.

    Its length is not known, so nothing checks an index; in the simulator a pointer is the caller's array, and every
    access is checked against it.
    """
    if pointer is None:  # a null pointer: an option that is off
        return None
    dtype = as_dtype(dtype)
    return (pointer + int(at) * dtype.itemsize).view(dtype)


def _shared_tile(offset: Any, shape: Any, dtype: Any) -> Any:
    numbers = literal_shape(shape)
    if numbers is None or not isinstance(offset, types.IntegerLiteral):
        return None
    tile = types.Array(dtype.dtype, len(numbers), "C")

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return make_array(context, builder, tile, dynamic_shared(builder, offset.literal_value), numbers)

    return tile(offset, shape, dtype), emit


@emitted(_shared_tile)
def shared_tile(offset: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """The block's dynamic shared memory from byte `offset` on, as an array of constant `shape`.

    Unlike `cuda.shared.array`, tiles may together exceed 48 KB, and the card that draws them says where each lies.
    """
    return simulator.shared_window(offset, shape, dtype)


def _vector_type(context: Any, dtype: Any, n: int) -> Any:
    from llvmlite import ir

    return ir.VectorType(context.get_data_type(dtype), n)


def _vector_pointer(
    context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any, n: int
) -> Any:
    pointer = element_pointer(context, builder, array_type, array, index_type, index)
    return builder.bitcast(pointer, _vector_type(context, array_type.dtype, n).as_pointer())


def _alignment(context: Any, dtype: Any, n: int) -> int:
    return min(16, n * context.get_abi_sizeof(context.get_data_type(dtype)))


def _load4(array: Any, index: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        from llvmlite import ir

        pointer = _vector_pointer(context, builder, array, args[0], index, args[1], 4)
        vector = builder.load(pointer, align=_alignment(context, array.dtype, 4))
        lanes = [builder.extract_element(vector, ir.Constant(ir.IntType(32), n)) for n in range(4)]
        return context.make_tuple(builder, sig.return_type, lanes)

    return types.UniTuple(array.dtype, 4)(array, index), emit


@emitted(_load4)
def load4(array: Any, index: Any) -> Any:
    """Four neighbouring elements from array[index] on: `ld.v4` (16 bytes of float32, two such of float64).

    `index` is an integer or a tuple; the address is a multiple of 16 bytes (8 for 16-bit elements).
    """
    return simulator.load_vector(array, index, 4)


def _store(array: Any, index: Any, values: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        from llvmlite import ir
        from numba.cuda import cgutils

        n = len(values)
        vector = ir.Constant(_vector_type(context, array.dtype, n), ir.Undefined)
        for place, (lane, kind) in enumerate(zip(cgutils.unpack_tuple(builder, args[2], n), values.types, strict=True)):
            lane = context.cast(builder, lane, kind, array.dtype)
            vector = builder.insert_element(vector, lane, ir.Constant(ir.IntType(32), place))
        pointer = _vector_pointer(context, builder, array, args[0], index, args[1], n)
        builder.store(vector, pointer, align=_alignment(context, array.dtype, n))
        return context.get_dummy_value()

    return types.void(array, index, values), emit


@emitted(_store)
def store4(array: Any, index: Any, values: Any) -> None:
    """Write four neighbouring elements from array[index] on: `st.v4`; alignment as for `load4`."""
    simulator.store_vector(array, index, values)


@emitted(_store)
def store2(array: Any, index: Any, values: Any) -> None:
    """Write two neighbouring elements from array[index] on: `st.v2`; the address is a multiple of their size."""
    simulator.store_vector(array, index, values)


def _store_if(view: Any, at: Any, value: Any, exists: Any) -> Any:
    bits = view.dtype.bitwidth
    text = f"{{ .reg .pred exists; setp.ne.b32 exists, $2, 0; @exists st.global.b{bits} [$0], $1; }}"

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = narrow_pointer(builder, element_pointer(context, builder, view, args[0], at, args[1]), 1)
        flag = context.cast(builder, args[3], exists, types.uint32)
        emit_asm(context, builder, text, [(types.uint64, address), (view.dtype, args[2]), (types.uint32, flag)])
        return context.get_dummy_value()

    return types.void(view, at, view.dtype, exists), emit


@emitted(_store_if)
def store_if(view: Any, at: Any, value: Any, exists: Any) -> None:
    """Write an element of global memory if it exists, without a branch: `@p st`."""
    if exists:
        view[at] = value


def _add(view: Any, at: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = narrow_pointer(builder, element_pointer(context, builder, view, args[0], at, args[1]), 1)
        text = f"red.global.add.f{view.dtype.bitwidth} [$0], $1;"
        emit_asm(context, builder, text, [(types.uint64, address), (view.dtype, args[2])])
        return context.get_dummy_value()

    return types.void(view, at, view.dtype), emit


@emitted(_add)
def add(view: Any, at: Any, value: Any) -> None:
    """Add to an element of global memory, float32 or float64, that other threads may add to at the same time."""
    view[at] = view[at] + value


def _fetch_add(view: Any, at: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = narrow_pointer(builder, element_pointer(context, builder, view, args[0], at, args[1]), 1)
        operands = [(types.uint64, address), (types.int32, context.cast(builder, args[2], value, types.int32))]
        return emit_asm(context, builder, "atom.global.add.s32 $0, [$1], $2;", operands, [types.int32])

    return types.int32(view, at, value), emit


@emitted(_fetch_add)
def fetch_add(view: Any, at: Any, value: Any) -> Any:
    """Add to an int32 of global memory that other threads may add to, and return what was there before."""
    old = view[at]
    view[at] = old + value
    return old


def _add4(view: Any, at: Any, values: Any) -> Any:
    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        from numba.cuda import cgutils

        address = narrow_pointer(builder, element_pointer(context, builder, view, args[0], at, args[1]), 1)
        lanes = [(types.float32, lane) for lane in cgutils.unpack_tuple(builder, args[2], 4)]
        emit_asm(context, builder, "red.global.add.v4.f32 [$0], {$1, $2, $3, $4};", [(types.uint64, address), *lanes])
        return context.get_dummy_value()

    return types.void(view, at, values), emit


@emitted(_add4)
def add4(view: Any, at: Any, values: Any) -> None:
    """`add` four float32 to neighbouring elements, each on its own; sm_90 and later, the address a multiple of 16."""
    old = simulator.load_vector(view, at, 4)
    simulator.store_vector(view, at, [x + value for x, value in zip(old, values, strict=True)])

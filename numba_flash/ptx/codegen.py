"""The code generator: turns a described instruction into a function that kernels can call.

This is the only module that knows numba's and LLVM's interfaces. An instruction is a Python function whose body says
what the hardware does; a decorator from here says how to emit it. Under NUMBA_ENABLE_CUDASIM=1 the body itself runs,
otherwise numba compiles the emission.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from numba import types

from numba_flash.simulator import SIMULATED

Function = TypeVar("Function", bound=Callable[..., Any])

CONSTRAINT = {
    types.uint16: "h", types.int32: "r", types.uint32: "r", types.int64: "l", types.uint64: "l",
    types.float32: "f", types.float64: "d",
}  # fmt: skip


def device(function: Function) -> Function:
    """A helper that kernels inline; in the simulator it stays the plain Python function."""
    if SIMULATED:
        return function
    from numba import cuda

    return cuda.jit(device=True, forceinline=True)(function)


def instruction(
    text: str, reads: Sequence[Any] = (), writes: Sequence[Any] = (), *, memory: bool = False, convergent: bool = False
) -> Callable[[Function], Function]:
    """Emit one inline PTX statement; the decorated function is its simulator twin.

    Parameters
    ----------
    text : the statement, `$0`, `$1`... numbering the written operands first, then the read ones
    reads, writes : numba types of the operands; arguments are cast to `reads`
    memory : it touches memory, so neither the compiler nor another memory operation may move across it
    convergent : all lanes must reach it together, so the compiler may not make it depend on more conditions
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        operands = [
            (want, context.cast(builder, a, have, want)) for a, have, want in zip(args, sig.args, reads, strict=True)
        ]
        out = emit_asm(context, builder, text, operands, writes, memory=memory, convergent=convergent)
        if not writes:
            return context.get_dummy_value()
        if len(writes) == 1:
            return out
        return context.make_tuple(builder, sig.return_type, [builder.extract_value(out, n) for n in range(len(writes))])

    def decorate(twin: Function) -> Function:
        written = types.void if not writes else writes[0] if len(writes) == 1 else types.Tuple(tuple(writes))
        return emitted(lambda *args: (written(*args), emit) if len(args) == len(reads) else None)(twin)

    return decorate


def emit_asm(
    context: Any,
    builder: Any,
    text: str,
    operands: Sequence[tuple[Any, Any]],
    writes: Sequence[Any] = (),
    *,
    memory: bool = True,
    convergent: bool = False,
) -> Any:
    """Emit inline PTX over (numba type, LLVM value) operands; arguments as in `instruction`."""
    from llvmlite import ir

    results = [context.get_value_type(t) for t in writes]
    result = ir.VoidType() if not results else results[0] if len(results) == 1 else ir.LiteralStructType(results)
    reads = [t for t, _ in operands]
    constraints = ["=" + CONSTRAINT[t] for t in writes] + [CONSTRAINT[t] for t in reads] + ["~{memory}"] * memory
    signature = ir.FunctionType(result, [context.get_value_type(t) for t in reads])
    asm = ir.InlineAsm(signature, text, ",".join(constraints), side_effect=memory or not writes)
    return builder.call(asm, [value for _, value in operands], attrs=("convergent",) if convergent else ())


def emit_tied(
    context: Any, builder: Any, text: str, dtype: Any, registers: Sequence[Any], operands: Sequence[tuple[Any, Any]]
) -> list[Any]:
    """Emit inline PTX that changes registers of one type in place; returns their new values.

    They are `$0`, `$1`..., and count twice, as written and as read: the operands come behind.
    """
    from llvmlite import ir

    count, kind = len(registers), context.get_value_type(dtype)
    letter = CONSTRAINT[dtype]
    constraints = [f"={letter}"] * count + [str(n) for n in range(count)] + [CONSTRAINT[t] for t, _ in operands]
    reads = [kind] * count + [context.get_value_type(t) for t, _ in operands]
    signature = ir.FunctionType(ir.LiteralStructType([kind] * count), reads)
    asm = ir.InlineAsm(signature, text, ",".join(constraints), side_effect=True)
    new = builder.call(asm, [*registers, *(value for _, value in operands)], attrs=("convergent",))
    return [builder.extract_value(new, n) for n in range(count)]


def with_literal(text: str, *, convergent: bool = False) -> Callable[..., Any]:
    """For `emitted`: a statement that takes one integer, a literal, in place of `NUMBER`."""

    def typing(number: Any) -> Any:
        if not isinstance(number, types.IntegerLiteral):
            return None

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            emit_asm(context, builder, text.replace("NUMBER", str(number.literal_value)), [], convergent=convergent)
            return context.get_dummy_value()

        return types.void(number), emit

    return typing


def emitted(typing: Callable[..., Any]) -> Callable[[Function], Function]:
    """Emit LLVM code: `typing(*argument types)` gives (signature, code generator) or None; the function is the twin.

    The twin stays at hand as `__wrapped__`.
    """

    def decorate(twin: Function) -> Function:
        if SIMULATED:
            return twin
        from numba.cuda.extending import intrinsic

        def typing_with_context(context: Any, *args: Any) -> Any:
            return typing(*args)

        parameters = inspect.signature(twin).parameters.values()
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_ONLY)
        named = [p.replace(kind=inspect.Parameter.POSITIONAL_ONLY) for p in parameters]
        typing_with_context.__signature__ = inspect.Signature([context, *named])  # type: ignore[attr-defined]
        typing_with_context.__name__, typing_with_context.__doc__ = twin.__name__, twin.__doc__
        function = intrinsic(typing_with_context)
        function.__wrapped__ = twin
        return function

    return decorate


def literal_shape(shape: Any) -> tuple[int, ...] | None:
    """The numbers of a tuple of integer literals, or None where some are not literals."""
    if not all(isinstance(n, types.IntegerLiteral) for n in shape):
        return None
    return tuple(n.literal_value for n in shape)


def make_array(context: Any, builder: Any, array_type: Any, pointer: Any, shape: Sequence[int]) -> Any:
    """A numba array value over memory at `pointer`, contiguous, with constant shape and strides."""
    itemsize = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    strides = [itemsize]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    array = context.make_array(array_type)(context, builder)
    context.populate_array(
        array,
        data=builder.bitcast(pointer, array.data.type),
        shape=[context.get_constant(types.intp, n) for n in shape],
        strides=[context.get_constant(types.intp, n) for n in strides],
        itemsize=context.get_constant(types.intp, itemsize),
        meminfo=None,
    )
    return array._getvalue()


def dynamic_shared(builder: Any, offset: Any) -> Any:
    """A generic pointer `offset` bytes into the block's dynamic shared memory."""
    from llvmlite import ir
    from numba.cuda import cgutils

    module, name = builder.module, "numba_flash_shared"
    if name not in module.globals:
        symbol = cgutils.add_global_variable(module, ir.ArrayType(ir.IntType(8), 0), name, 3)
        symbol.linkage, symbol.align = "external", 1024
    base = builder.addrspacecast(module.globals[name], ir.PointerType(ir.IntType(8)))
    return builder.gep(base, [ir.Constant(ir.IntType(64), offset)], source_etype=ir.IntType(8))


def global_pointer(builder: Any, address: Any) -> Any:
    """A generic pointer that the compiler knows to be global memory."""
    from llvmlite import ir

    pointer = builder.inttoptr(address, ir.PointerType(ir.IntType(8), 1))
    return builder.addrspacecast(pointer, ir.PointerType(ir.IntType(8)))


def narrow_pointer(builder: Any, pointer: Any, space: int) -> Any:
    """A generic pointer as an address in global (1, 64 bits) or shared (3, 32 bits) memory."""
    from llvmlite import ir

    narrow = builder.addrspacecast(pointer, ir.PointerType(ir.IntType(8), space))
    return builder.ptrtoint(narrow, ir.IntType(32 if space == 3 else 64))


def element_pointer(context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any) -> Any:
    """The address of array[index], index an integer or a tuple of them, with no wrap-around of negative ones."""
    from numba.cuda import cgutils

    parts = [index] if isinstance(index_type, types.Integer) else cgutils.unpack_tuple(builder, index)
    kinds = [index_type] if isinstance(index_type, types.Integer) else list(index_type.types)
    wide = [context.cast(builder, part, kind, types.intp) for part, kind in zip(parts, kinds, strict=True)]
    view = context.make_array(array_type)(context, builder, value=array)
    return cgutils.get_item_pointer(context, builder, array_type, view, wide, wraparound=False)


def load_registers(context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any, n: int) -> Any:
    """Group `index` of n elements of a local array, which the compiler keeps in registers."""
    return [builder.load(p) for p in register_pointers(context, builder, array_type, array, index_type, index, n)]


def store_registers(
    context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any, values: Sequence[Any]
) -> None:
    """Replace a group of as many elements as there are values."""
    pointers = register_pointers(context, builder, array_type, array, index_type, index, len(values))
    for pointer, value in zip(pointers, values, strict=True):
        builder.store(value, pointer)


def register_pointers(
    context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any, n: int
) -> list[Any]:
    """The addresses of elements n*index to n*index + n - 1 of a one-dimensional array."""
    first = builder.mul(context.cast(builder, index, index_type, types.intp), context.get_constant(types.intp, n))
    places = [builder.add(first, context.get_constant(types.intp, k)) for k in range(n)]
    return [element_pointer(context, builder, array_type, array, types.intp, place) for place in places]


def unpack(builder: Any, struct: Any, n: int) -> list[Any]:
    """The n results of an inline statement."""
    return [builder.extract_value(struct, k) for k in range(n)] if n > 1 else [struct]

"""The public operations: validate the call, choose a rung, launch it on the caller's stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from numba_flash import reference
from numba_flash.arrays import Array, empty, give_back, gpu_count, stream_handle, to_gpu, to_host
from numba_flash.config import current_device
from numba_flash.ladder import BACKWARD, FORWARD, MATMUL, SOFTMAX, Rung, check_kernel, choose
from numba_flash.matmul_problem import matmul_request
from numba_flash.problem import AttentionRequest, Reasons, attention_request, merge_request
from numba_flash.runtime import Launch, launch
from numba_flash.simulator import SIMULATED
from numba_flash.softmax_problem import softmax_request

# The arguments that are arrays, besides q, k and v.
ARRAYS = ("alibi_slopes", "bias", "mask", "do", "o", "lse", "dlse")


def flash_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    q_offset: int | None = None,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    bias: Any = None,
    mask: Any = None,
    score_mod: Any = None,
    mask_mod: Any = None,
    return_lse: bool = False,
    kernel: str = "auto",
    stream: Any = None,
) -> Any:
    r"""Exact softmax attention without the score matrix in memory.

    .. math:: O_i = \sum_j \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}} V_j, \qquad
       s_{ij} = \mathrm{cap}(scale\; Q_i \cdot K_j) - slope\,|i + q\_offset - j| + bias_{ij}

    over the keys j that query i may see, with cap(s) = softcap*tanh(s/softcap).

    Parameters
    ----------
    q : array (..., Hq, Nq, d)
        Queries: float16, bfloat16, float32 or float64, in a NumPy array, a CuPy array, a torch tensor or anything
        with a CUDA array interface or DLPack. Any strides; 16-bit inputs accumulate in float32.
    k, v : arrays (..., Hk, Nk, d) and (..., Hk, Nk, dv)
        Keys and values of q's dtype. Hq is a multiple of Hk: query head h reads KV head h // (Hq // Hk).
    causal : bool
        Query i sees keys j <= i + q_offset only.
    q_offset : int, optional
        Position of query 0 among the keys; by default Nk - Nq, so that the last query sees the last key.
    window : (left, right), optional
        Query i sees keys from i + q_offset - left to i + q_offset + right only; None on a side: no limit there.
    scale : float, optional
        Any finite number; 1/sqrt(d) by default.
    softcap : float, optional
        Above 0.
    alibi_slopes : array that broadcasts to (..., Hq), optional
        Any float dtype.
    bias : array that broadcasts to (..., Hq, Nq, Nk), optional
        Any float dtype; added to the scores, in nats.
    mask : bool array that broadcasts to (..., Hq, Nq, Nk), optional
        True: the query may see the key.
    return_lse : bool
        Also return the logarithm of each row's sum of e^s.
    kernel : str
        "auto", or a rung's name or family ("flash2", "cpu"; see `python -m numba_flash info`). A named kernel that
        cannot run is an error.
    stream : optional
        A CUDA stream (CuPy, torch, numba, cuda.core or its handle) to launch on, after the work that the current
        stream was given so far; by default the current stream of q's library.

    Returns
    -------
    o : array (..., Hq, Nq, dv) of q's kind and dtype
        Zeros for a query that sees no key.
    lse : array (..., Hq, Nq), float32 (float64 for float64), in nats
        Only with return_lse; -inf for a query that sees no key.

    Raises
    ------
    TypeError, ValueError
        If operands or options do not fit one another or no kernel can run; the message lists every reason. Nothing
        has been launched or written then.

    References
    ----------
    Dao, "FlashAttention-2", 2023, arXiv:2307.08691.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 4))  # 2 heads, 5 positions, d = 4
    >>> o, lse = flash_attention(q, k, v, causal=True, return_lse=True)
    >>> o.shape, lse.shape
    ((2, 5, 4), (2, 5))
    >>> bool(np.allclose(o[:, 0], v[:, 0]))  # the first query sees the first key alone
    True
    """
    options = {
        "causal": causal, "q_offset": q_offset, "window": window, "scale": scale, "softcap": softcap,
        "alibi_slopes": alibi_slopes, "bias": bias, "mask": mask, "score_mod": score_mod, "mask_mod": mask_mod,
    }  # fmt: skip
    request = attention_request(check_call(FORWARD, kernel, stream), q, k, v, **options)
    rung = choose(FORWARD, kernel, [problem for problem, _ in request.problems])
    if runs_on_copies(rung, request.q):
        copies = flash_attention(
            to_gpu(q), to_gpu(k), to_gpu(v), **copied(options), return_lse=True, kernel=rung.name, stream=stream
        )
        o, lse = (to_host(x) for x in copies)
    else:
        with launch_stream(request.q, stream) as handle:
            o, lse = forward(request, rung, handle)
    return (give_back(o, q), give_back(lse, q)) if return_lse else give_back(o, q)


def flash_attention_backward(
    do: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    *,
    causal: bool = False,
    q_offset: int | None = None,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    bias: Any = None,
    mask: Any = None,
    score_mod: Any = None,
    mask_mod: Any = None,
    dlse: Any = None,
    deterministic: bool = False,
    kernel: str = "auto",
    stream: Any = None,
) -> tuple[Any, Any, Any]:
    r"""The gradients of attention, from its results and the gradient of its output.

    .. math:: dV = P^T dO, \quad dS = P \circ (dO\,V^T - rowsum(dO \circ O) + dLSE), \quad
       dQ = scale\; dS\, K, \quad dK = scale\; dS^T Q

    Parameters
    ----------
    do : array (..., Hq, Nq, dv)
        Gradient of o, in q's dtype.
    q, k, v, causal, q_offset, window, scale, softcap, alibi_slopes, bias, mask, kernel, stream
        As in the call of `flash_attention` that gave o and lse.
    o, lse : arrays
        That call's results.
    dlse : array (..., Hq, Nq), optional
        Gradient of lse, in its dtype.
    deterministic : bool
        Insist on the same bits every time. Otherwise the fastest kernel may add up dq in any order; the CPU path gives
        the same bits anyway.

    Returns
    -------
    dq, dk, dv : arrays of q's kind, shapes and dtype
        Heads of k and v that several query heads share get the sum. Zeros where nothing was seen.

    Raises
    ------
    TypeError, ValueError
        As in `flash_attention`.

    References
    ----------
    Dao, "FlashAttention-2", 2023, arXiv:2307.08691, Algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 4))
    >>> o, lse = flash_attention(q, k, v, return_lse=True)
    >>> dq, dk, dv = flash_attention_backward(np.ones_like(o), q, k, v, o, lse)
    >>> bool(np.allclose(dv.sum(axis=1), 5))  # each row of P sums to 1
    True
    """
    options = {
        "causal": causal, "q_offset": q_offset, "window": window, "scale": scale, "softcap": softcap,
        "alibi_slopes": alibi_slopes, "bias": bias, "mask": mask, "score_mod": score_mod, "mask_mod": mask_mod,
    }  # fmt: skip
    results = {"do": do, "o": o, "lse": lse, "dlse": dlse}
    request = attention_request(
        check_call(BACKWARD, kernel, stream), q, k, v, **options, backward=results, deterministic=deterministic
    )
    rung = choose(BACKWARD, kernel, [problem for problem, _ in request.problems])
    if runs_on_copies(rung, request.q):
        copies = flash_attention_backward(
            q=to_gpu(q), k=to_gpu(k), v=to_gpu(v), **copied(results), **copied(options),
            deterministic=deterministic, kernel=rung.name, stream=stream,
        )  # fmt: skip
        dq, dk, dv = (to_host(x) for x in copies)
    else:
        with launch_stream(request.q, stream) as handle:
            dq, dk, dv = backward(request, rung, handle)
    return give_back(dq, q), give_back(dk, q), give_back(dv, q)


def flash_attention_vjp(
    q: Any, k: Any, v: Any, *, deterministic: bool = False, kernel: str = "auto", stream: Any = None, **options: Any
) -> tuple[Any, Callable[..., tuple[Any, Any, Any]]]:
    """Attention and the function that pulls gradients back through it.

    Parameters
    ----------
    q, k, v, stream, **options
        As in `flash_attention` (causal, q_offset, window, scale, softcap, alibi_slopes, bias, mask).
    deterministic : bool
        As in `flash_attention_backward`.
    kernel : str
        "auto" or a family of rungs, such as "flash2" or "cpu".

    Returns
    -------
    o : array (..., Hq, Nq, dv)
    pullback : callable
        ``pullback(do, dlse=None) -> (dq, dk, dv)``. It may be called several times.

    Raises
    ------
    TypeError, ValueError
        As in `flash_attention`; from the pullback, as in `flash_attention_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 4))
    >>> o, pullback = flash_attention_vjp(q, k, v, causal=True)
    >>> dq, dk, dv = pullback(np.ones_like(o))
    >>> dq.shape, dk.shape, dv.shape
    ((2, 5, 4), (2, 5, 4), (2, 5, 4))
    """
    reasons = Reasons("flash_attention_vjp")
    for operation in (FORWARD, BACKWARD):
        check_kernel(reasons, operation, kernel)
    reasons.raise_if_any()
    o, lse = flash_attention(q, k, v, **options, return_lse=True, kernel=kernel, stream=stream)

    def pullback(do: Any, dlse: Any = None) -> tuple[Any, Any, Any]:
        return flash_attention_backward(
            do, q, k, v, o, lse, **options, dlse=dlse, deterministic=deterministic, kernel=kernel, stream=stream
        )

    return o, pullback


def merge(o1: Any, lse1: Any, o2: Any, lse2: Any, *, stream: Any = None) -> tuple[Any, Any]:
    r"""Attention over all keys from the attention over two disjoint sets of them.

    .. math:: LSE = \log(e^{LSE_1} + e^{LSE_2}), \qquad O = e^{LSE_1 - LSE} O_1 + e^{LSE_2 - LSE} O_2

    Partial results with this operation are a commutative monoid; its identity is o = 0, lse = -inf, so any number of
    parts may be merged in any order.

    Parameters
    ----------
    o1, o2 : arrays (..., N, dv) of one dtype
    lse1, lse2 : arrays (..., N), float32 (float64 for float64), in nats
    stream : optional
        As in `flash_attention`.

    Returns
    -------
    o, lse : arrays of o1's kind, shapes and dtypes

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices do not fit; the message lists every reason.

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 6, 4))
    >>> left = flash_attention(q, k[:, :2], v[:, :2], return_lse=True)
    >>> right = flash_attention(q, k[:, 2:], v[:, 2:], return_lse=True)
    >>> bool(np.allclose(merge(*left, *right)[0], flash_attention(q, k, v)))
    True
    """
    request = merge_request(check_call("merge", "auto", stream), o1, lse1, o2, lse2)
    first = request.o1
    with launch_stream(first, stream) as handle:
        o, lse = empty(first, request.o_shape, first.dtype), empty(first, request.lse_shape, request.real)
        o_parts, lse_parts = (split(x, [group[n].shape for group in request.groups]) for n, x in enumerate((o, lse)))
        for group, o_part, lse_part in zip(request.groups, o_parts, lse_parts, strict=True):
            if first.device is None:
                o_part.data[...], lse_part.data[...] = reference.merge(*(x.data for x in group))
            else:
                from numba_flash.kernels.passes.merge import launches  # numba.cuda, half a second to import

                start(launches(*group, o_part, lse_part), first, handle)
    return give_back(o, o1), give_back(lse, o1)


def softmax(x: Any, *, kernel: str = "auto", stream: Any = None) -> Any:
    r"""Softmax along the last axis.

    .. math:: y_i = \frac{e^{x_i - m}}{\sum_j e^{x_j - m}}, \qquad m = \max_j x_j

    Parameters
    ----------
    x : array (..., N)
        float16, bfloat16, float32 or float64, in nats; any strides. 16-bit inputs compute in float32.
    kernel : str
        "auto", "softmax_safe", "softmax_online" or "cpu" (NumPy's formula).
    stream : optional
        As in `flash_attention`.

    Returns
    -------
    array (..., N) of x's kind and dtype
        A row of -inf gives zeros, as attention to no key does; a row with a NaN or +inf is NaN.

    Raises
    ------
    TypeError, ValueError
        If x is no array of floats, has no axis or the kernel cannot run; the message lists every reason.

    References
    ----------
    Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([[1e4, 1e4, -np.inf, 1e4 - 1e3], [-np.inf] * 4]))
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0. , 0. ]])
    """
    request = softmax_request(check_call(SOFTMAX, kernel, stream), x)
    rung = choose(SOFTMAX, kernel, [problem for problem, _ in request.problems])
    if runs_on_copies(rung, request.x):
        return give_back(to_host(softmax(to_gpu(x), kernel=rung.name, stream=stream)), x)
    with launch_stream(request.x, stream) as handle:
        y = empty(request.x, request.x.shape, request.x.dtype)
        parts = split(y, [(p.B, p.M, p.N) for p, _ in request.problems])
        for (problem, operand), part in zip(request.problems, parts, strict=True):
            run(rung, problem, operand, [part], handle)
    return give_back(y, x)


def matmul(a: Any, b: Any, *, out_dtype: Any = None, kernel: str = "auto", stream: Any = None) -> Any:
    """Matrix product with numpy.matmul's rules for axes.

    Parameters
    ----------
    a : array (..., M, K) or (K,)
    b : array (..., K, N) or (K,)
        Of one dtype: float16, bfloat16, float32 or float64; leading axes broadcast; any strides. 16-bit inputs
        accumulate in float32.
    out_dtype : dtype or its name, optional
        Of the result; the inputs' by default.
    kernel : str
        "auto", "matmul_naive", "matmul_tiled", "matmul_registers" or "cpu" (NumPy's product).
    stream : optional
        As in `flash_attention`.

    Returns
    -------
    array (..., M, N) of a's kind, without the axes that a one-dimensional operand lacks

    Raises
    ------
    TypeError, ValueError
        If operands do not fit or the kernel cannot run; the message lists every reason.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    >>> matmul(a, b).shape
    (2, 3, 5)
    """
    request = matmul_request(check_call(MATMUL, kernel, stream), a, b, out_dtype)
    rung = choose(MATMUL, kernel, [problem for problem, _, _ in request.problems])
    if runs_on_copies(rung, request.a):
        copy = matmul(to_gpu(a), to_gpu(b), out_dtype=out_dtype, kernel=rung.name, stream=stream)
        return give_back(to_host(copy), a)
    with launch_stream(request.a, stream) as handle:
        c = empty(request.a, request.product_shape, request.out_dtype)
        parts = split(c, [(p.B, p.M, p.N) for p, _, _ in request.problems])
        for (problem, *operands), part in zip(request.problems, parts, strict=True):
            run(rung, problem, operands, [part], handle)
    return give_back(c.reshape(request.shape), a)


def check_call(operation: str, kernel: Any, stream: Any) -> Reasons:
    """What is wrong with a call, as far as its kernel and stream tell."""
    reasons = Reasons(operation)
    check_kernel(reasons, operation, kernel)
    try:
        stream_handle(0 if stream is None else stream)
    except TypeError as error:
        reasons.add(str(error), TypeError)
    return reasons


def copied(operands: dict[str, Any]) -> dict[str, Any]:
    """The same keyword arguments with every array copied to the GPU."""
    return {key: to_gpu(x) if key in ARRAYS else x for key, x in operands.items()}


def runs_on_copies(rung: Rung, first: Array) -> bool:
    """Do the operands lie in host memory, and the chosen rung runs on a real GPU?"""
    return rung.on_gpu and not SIMULATED and first.device is None and gpu_count() > 0


@contextlib.contextmanager
def launch_stream(first: Array, stream: Any) -> Iterator[int]:
    """The handle of the stream to launch on, with outputs allocated for it."""
    if stream is None:
        yield first.library.current_stream(first.device)
        return
    handle = stream_handle(stream)
    with first.library.on_stream(handle, first.device):
        yield handle


def start(launches: Sequence[Launch], first: Array, handle: int) -> None:
    """Launch one after another on the stream and device of the first operand."""
    for what in launches:
        launch(what, handle, first.device)


def run(rung: Rung, problem: Any, operands: Any, outputs: Sequence[Array], handle: int) -> None:
    """Solve one problem with a rung; the outputs are contiguous."""
    if rung.on_gpu:
        launches = rung.load().launches(problem, current_device(problem.device), operands, *outputs)
        start(launches, outputs[0], handle)
    else:
        rung.load().run(problem, operands, *outputs)


def split(x: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """A contiguous result as parts, one for each group of operands; all shapes are the same."""
    if not shapes:
        return []
    parts = x.reshape((len(shapes), *shapes[0]))
    return [parts[n] for n in range(len(shapes))]


def forward(request: AttentionRequest, rung: Rung, handle: int) -> tuple[Array, Array]:
    """o and lse of a validated call."""
    q, shapes = request.q, request.shapes
    o, lse = empty(q, shapes["o"], q.dtype), empty(q, shapes["lse"], request.real)
    if request.nothing_seen:
        o.fill(0)
        lse.fill(-np.inf)
        return o, lse
    o_parts = split(o, [(p.B, p.Hq, p.Nq, p.dv) for p, _ in request.problems])
    lse_parts = split(lse, [(p.B, p.Hq, p.Nq) for p, _ in request.problems])
    parts = zip(request.problems, o_parts, lse_parts, strict=True)
    for (problem, operands), o_part, lse_part in parts:
        run(rung, problem, operands, [o_part, lse_part], handle)
    return o, lse


def backward(request: AttentionRequest, rung: Rung, handle: int) -> tuple[Array, Array, Array]:
    """dq, dk and dv of a validated call."""
    dq, dk, dv = (empty(request.q, request.shapes[key], request.q.dtype) for key in ("q", "k", "v"))
    if request.nothing_seen:
        for x in (dq, dk, dv):
            x.fill(0)
        return dq, dk, dv
    dq_parts = split(dq, [x.q.shape for _, x in request.problems])
    dk_parts = split(dk, [x.k.shape for _, x in request.problems])
    dv_parts = split(dv, [x.v.shape for _, x in request.problems])
    parts = zip(request.problems, dq_parts, dk_parts, dv_parts, strict=True)
    for (problem, operands), *outputs in parts:
        run(rung, problem, operands, outputs, handle)
    return dq, dk, dv

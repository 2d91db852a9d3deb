"""The public operations: each finds the plan of its call, and runs it on the caller's stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba_flash.arrays import give_back, stream_handle
from numba_flash.ladder import BACKWARD, FORWARD, check_kernel
from numba_flash.mods import read_mod
from numba_flash.plan import answer
from numba_flash.planners import plan_attention, plan_backward, plan_matmul, plan_merge, plan_softmax
from numba_flash.problem import Reasons
from numba_flash.shortcut import short_answer


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
       s_{ij} = \mathrm{cap}(\mathrm{mod}(scale\; Q_i \cdot K_j)) - slope\,|i + q\_offset - j| + bias_{ij}

    over the keys j that query i may see, with mod the score_mod, if given, and cap(s) = softcap*tanh(s/softcap).

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
    score_mod : function (score, b, h, i, j) -> score, optional
        Of real numbers and ints: `b` counts the leading axes flattened into one, `h` query heads, `i` rows and `j`
        columns of the score matrix. It is compiled into the kernel, with the numbers and functions it closes over: see
        `numba_flash.mods` for what it may contain. In the simulator a debugger steps through it.
    mask_mod : function (b, h, i, j) -> bool, optional
        The same for what a query may see, beside all other rules.
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
    plain = alibi_slopes is bias is mask is window is scale is softcap is score_mod is mask_mod is stream is None
    settings: tuple[Any, ...] = (kernel, "" if plain else complaint(stream), return_lse, causal, q_offset)
    results: Sequence[Any]
    if plain:
        results = short_answer(plan_attention, settings, (q, k, v))
    else:
        operands = (q, k, v) if alibi_slopes is bias is mask is None else (q, k, v, alibi_slopes, bias, mask)
        mods = read_mod("score_mod", score_mod), read_mod("mask_mod", mask_mod)
        settings += (window, scale, softcap, *mods)
        results = give_back(answer(plan_attention, settings, operands, stream), q)
    return tuple(results) if return_lse else results[0]


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
    q, k, v, causal, q_offset, window, scale, softcap, alibi_slopes, bias, mask, score_mod, mask_mod, kernel, stream
        As in the call of `flash_attention` that gave o and lse. The derivative of score_mod is found from its source.
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
    operands: tuple[Any, ...] = (q, k, v, do, o, lse)
    extra = () if dlse is alibi_slopes is bias is mask is None else (dlse, alibi_slopes, bias, mask)
    plain = not extra and window is scale is softcap is score_mod is mask_mod is stream is None
    settings: tuple[Any, ...] = (kernel, "" if plain else complaint(stream), deterministic, causal, q_offset)
    if plain:
        dq, dk, dv = short_answer(plan_backward, settings, operands)
    else:
        mods = read_mod("score_mod", score_mod, differentiated=True), read_mod("mask_mod", mask_mod)
        settings += (window, scale, softcap, *mods)
        dq, dk, dv = give_back(answer(plan_backward, settings, operands + extra, stream), q)
    return dq, dk, dv


def flash_attention_vjp(
    q: Any, k: Any, v: Any, *, deterministic: bool = False, kernel: str = "auto", stream: Any = None, **options: Any
) -> tuple[Any, Callable[..., tuple[Any, Any, Any]]]:
    """Attention and the function that pulls gradients back through it.

    Parameters
    ----------
    q, k, v, stream, **options
        As in `flash_attention` (causal, q_offset, window, scale, softcap, alibi_slopes, bias, mask, score_mod,
        mask_mod).
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
    o, lse = give_back(answer(plan_merge, (complaint(stream),), (o1, lse1, o2, lse2), stream), o1)
    return o, lse


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
    (y,) = give_back(answer(plan_softmax, (kernel, complaint(stream)), (x,), stream), x)
    return y


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
        "auto", "matmul_naive", "matmul_tiled", "matmul_registers", "matmul_mma" (float16 and bfloat16 on the tensor
        cores of sm_80 and later) or "cpu" (NumPy's product).
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
    (c,) = give_back(answer(plan_matmul, (kernel, complaint(stream), out_dtype), (a, b), stream), a)
    return c


def complaint(stream: Any) -> str:
    """What is wrong with a `stream=`; nothing if it is one."""
    if stream is None:
        return ""
    try:
        stream_handle(stream)
    except TypeError as error:
        return str(error)
    return ""

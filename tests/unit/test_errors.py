"""Every call that cannot be served raises one error that lists every reason, before anything is launched or written."""

import numpy as np
import pytest

from numba_flash import flash_attention, flash_attention_backward, flash_attention_vjp, ladder, matmul, merge
from numba_flash.config import Device
from numba_flash.ladder import BACKWARD, FORWARD, LADDER, MATMUL, choose
from numba_flash.problem import AttentionProblem

FLOATS = "one of float16, bfloat16, float32, float64"
NO_ARRAY = "is no array (NumPy, CuPy, PyTorch, CUDA array interface or DLPack)"
NO_STREAM = "is no CUDA stream (int, CuPy, torch, numba or cuda.core)"
PAIR = "(needs a pair (left, right), each an int or None for no limit)"


def no_kernel(operation, name):
    """The reason against a kernel= that names nothing."""
    known = dict.fromkeys(n for rung in LADDER if rung.operation == operation for n in (rung.family, rung.name))
    return f"no {operation} kernel {name!r} (there are 'auto', {', '.join(map(repr, known))})"


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


ATTENTION = {"q": zeros(2, 4, 5, 8), "k": zeros(2, 2, 7, 8), "v": zeros(2, 2, 7, 6)}
GRADIENT = {**ATTENTION, "do": zeros(2, 4, 5, 6), "o": zeros(2, 4, 5, 6), "lse": zeros(2, 4, 5)}
FLAT = {"q": zeros(5, 8), "k": zeros(7, 8), "v": zeros(7, 6), "do": zeros(5, 6), "o": zeros(5, 6), "lse": zeros(5)}
PARTS = {"o1": zeros(2, 3), "lse1": zeros(2), "o2": zeros(2, 3), "lse2": zeros(2)}
PRODUCT = {"a": zeros(2, 3), "b": zeros(3, 4)}


def refused(function, arguments, changes, error, reasons):
    """Call with changed arguments: exactly these reasons in one error of exactly this type, and no argument written."""
    arguments = {**arguments, **changes}
    before = {name: x.copy() for name, x in arguments.items() if isinstance(x, np.ndarray)}
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**arguments)
    assert str(caught.value) == f"{function.__name__}: {'; '.join(reasons)}."
    assert caught.type is error
    assert all(np.array_equal(arguments[name], x, equal_nan=x.dtype.kind == "f") for name, x in before.items())


def options(*cases):
    """Parameters (option, value, reason), named by both."""
    return pytest.mark.parametrize(
        ("option", "value", "reason"), [pytest.param(*case, id=f"{case[0]}={str(case[1])[:12]}") for case in cases]
    )


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"q": zeros(8)}, ["q, k, v have 1, 4, 4 axes (need (N, d), (H, N, d) or (..., H, N, d) each)"]),
        ({"q": zeros(5, 8)}, ["q, k, v have 2, 4, 4 axes (need (N, d), (H, N, d) or (..., H, N, d) each)"]),
        ({"k": zeros(3, 2, 7, 8)}, ["leading axes differ: q (2, 4, 5, 8), k (3, 2, 7, 8), v (2, 2, 7, 6)"]),
        ({"k": zeros(2, 4, 7, 8)}, ["k has 4 heads, v has 2"]),
        (
            {"q": zeros(2, 5, 5, 8)},
            ["5 query heads do not divide into 2 KV heads (Hq must be a multiple of Hk)"],
        ),
        (
            {"k": zeros(2, 0, 7, 8), "v": zeros(2, 0, 7, 6)},
            ["4 query heads do not divide into 0 KV heads (Hq must be a multiple of Hk)"],
        ),
        ({"v": zeros(2, 2, 6, 6)}, ["k has 7 keys, v has 6"]),
        ({"k": zeros(2, 2, 7, 9)}, ["q has head dimension 8, k has 9"]),
        (
            {"q": zeros(2, 4, 5, 0), "k": zeros(2, 2, 7, 0)},
            ["head dimensions 0, 0, 6 of q, k, v must be at least 1"],
        ),
        (
            {"k": zeros(1, 3, 6, 9)},
            [
                "leading axes differ: q (2, 4, 5, 8), k (1, 3, 6, 9), v (2, 2, 7, 6)",
                "k has 3 heads, v has 2",
                "k has 6 keys, v has 7",
                "q has head dimension 8, k has 9",
            ],
        ),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_shapes(changes, reasons):
    refused(flash_attention, ATTENTION, changes, ValueError, reasons)


@options(
    ("q", zeros(2, 4, 5, 8, dtype=int), f"q is int64 (needs {FLOATS})"),
    ("q", zeros(2, 4, 5, 8, dtype=complex), f"q is complex128 (needs {FLOATS})"),
    ("k", zeros(2, 2, 7, 8, dtype=np.float64), "k is float64 (needs float32, as q is)"),
    ("v", zeros(2, 2, 7, 6, dtype=np.float16), "v is float16 (needs float32, as q is)"),
    ("mask", zeros(5, 7, dtype=int), "mask is int64 (needs bool; True lets a query see a key)"),
    ("bias", zeros(5, 7, dtype=bool), f"bias is bool (needs {FLOATS})"),
    ("alibi_slopes", zeros(4, dtype=int), f"alibi_slopes is int64 (needs {FLOATS})"),
    ("q", [[1.0, 2.0]], f"q: list {NO_ARRAY}"),
    ("v", None, "v is None"),
    ("alibi_slopes", 0.5, f"alibi_slopes: float {NO_ARRAY}"),
    ("mask", [True], f"mask: list {NO_ARRAY}"),
    ("causal", 1, "causal=1 (needs True or False)"),
    ("causal", None, "causal=None (needs True or False)"),
    ("q_offset", 1.0, "q_offset=1.0 (needs an int or None)"),
    ("q_offset", True, "q_offset=True (needs an int or None)"),
    ("window", 3, f"window=3 {PAIR}"),
    ("window", (1,), f"window=(1,) {PAIR}"),
    ("window", (0.5, None), f"window=(0.5, None) {PAIR}"),
    ("scale", "1", "scale='1' (needs a finite float32, or None)"),
    ("scale", True, "scale=True (needs a finite float32, or None)"),
    ("softcap", 1j, "softcap=1j (needs a finite float32 above 0, or None)"),
    ("stream", "default", f"stream: str {NO_STREAM}"),
)  # fmt: skip
def test_types(option, value, reason):
    refused(flash_attention, ATTENTION, {option: value}, TypeError, [reason])


@options(
    ("window", (-1, 2), "window=(-1, 2) (each side needs an int >= 0, or None for no limit)"),
    ("window", [None, -3], "window=[None, -3] (each side needs an int >= 0, or None for no limit)"),
    ("scale", float("nan"), "scale=nan (needs a finite float32, or None)"),
    ("scale", -float("inf"), "scale=-inf (needs a finite float32, or None)"),
    ("scale", 1e39, "scale=1e+39 (needs a finite float32, or None)"),
    ("scale", 10**400, f"scale={10**400} (needs a finite float32, or None)"),
    ("softcap", 0, "softcap=0 (needs a finite float32 above 0, or None)"),
    ("softcap", -2.0, "softcap=-2.0 (needs a finite float32 above 0, or None)"),
    ("softcap", float("nan"), "softcap=nan (needs a finite float32 above 0, or None)"),
    ("softcap", 1e-60, "softcap=1e-60 (needs a finite float32 above 0, or None)"),
    ("bias", zeros(3, 7), "bias has shape (3, 7) (needs to broadcast to (2, 4, 5, 7))"),
    ("bias", zeros(1, 2, 4, 5, 7), "bias has shape (1, 2, 4, 5, 7) (needs to broadcast to (2, 4, 5, 7))"),
    ("mask", zeros(5, 6, dtype=bool), "mask has shape (5, 6) (needs to broadcast to (2, 4, 5, 7))"),
    ("alibi_slopes", zeros(3), "alibi_slopes has shape (3,) (needs to broadcast to (2, 4))"),
    ("score_mod", abs, f"score_mod={abs!r} (needs a Python function of (score, b, h, i, j))"),
    ("mask_mod", abs, f"mask_mod={abs!r} (needs a Python function of (b, h, i, j))"),
    ("kernel", "flash9", no_kernel(FORWARD, "flash9")),
    ("kernel", "flash2_backward", no_kernel(FORWARD, "flash2_backward")),
    ("kernel", None, no_kernel(FORWARD, None)),
)  # fmt: skip
def test_values(option, value, reason):
    refused(flash_attention, ATTENTION, {option: value}, ValueError, [reason])


def test_a_scale_beyond_float32_is_fine_for_float64():
    operands = {name: x.astype(np.float64) for name, x in ATTENTION.items()}
    refused(
        flash_attention,
        operands,
        {"scale": 1e39, "softcap": 1e-60, "causal": 0},
        TypeError,
        ["causal=0 (needs True or False)"],
    )


def test_far_offsets_leave_alibi_inexact():
    changes = {"alibi_slopes": zeros(4), "q_offset": 2**60}
    reason = f"q_offset={2**60} is beyond 2**53, where ALiBi's distances are no longer exact"
    refused(flash_attention, ATTENTION, changes, ValueError, [reason])


def test_one_error_lists_all_reasons():
    changes = {
        "q": zeros(2, 4, 5, 8, dtype=int), "k": zeros(2, 3, 7, 9), "bias": "bias", "mask": zeros(7, dtype=int),
        "causal": "yes", "q_offset": 0.5, "window": (1, 2, 3), "scale": float("nan"), "softcap": 0, "score_mod": abs,
        "kernel": "fastest", "stream": 1.5,
    }  # fmt: skip
    reasons = [
        no_kernel(FORWARD, "fastest"),
        f"stream: float {NO_STREAM}",
        f"bias: str {NO_ARRAY}",
        "causal='yes' (needs True or False)",
        "q_offset=0.5 (needs an int or None)",
        f"window=(1, 2, 3) {PAIR}",
        "scale=nan (needs a finite float32, or None)",
        "softcap=0 (needs a finite float32 above 0, or None)",
        f"score_mod={abs!r} (needs a Python function of (score, b, h, i, j))",
        f"q is int64 (needs {FLOATS})",
        "mask is int64 (needs bool; True lets a query see a key)",
        "k has 3 heads, v has 2",
        "q has head dimension 8, k has 9",
    ]
    refused(flash_attention, ATTENTION, changes, TypeError, reasons)


def test_operands_that_are_missing():
    changes = {"q": None, "k": 3, "scale": float("inf")}
    reasons = [f"k: int {NO_ARRAY}", "q is None", "scale=inf (needs a finite float64, or None)"]
    refused(flash_attention, ATTENTION, changes, TypeError, reasons)


@pytest.mark.parametrize(
    ("changes", "error", "reasons"),
    [
        ({"do": zeros(2, 4, 5, 7)}, ValueError, ["do has shape (2, 4, 5, 7) (needs (2, 4, 5, 6))"]),
        ({"o": zeros(2, 4, 1, 6)}, ValueError, ["o has shape (2, 4, 1, 6) (needs (2, 4, 5, 6))"]),
        ({"lse": zeros(2, 4, 5, 1)}, ValueError, ["lse has shape (2, 4, 5, 1) (needs (2, 4, 5))"]),
        ({"dlse": zeros(5)}, ValueError, ["dlse has shape (5,) (needs (2, 4, 5))"]),
        (
            {"do": zeros(2, 4, 5, 6, dtype=np.float64), "lse": zeros(2, 4, 5, dtype=np.float16)},
            TypeError,
            ["do is float64 (needs float32, as q is)", "lse is float16 (needs float32 for float32 operands)"],
        ),
        ({"o": None, "lse": None}, TypeError, ["o is None", "lse is None"]),
        ({"dlse": 1.0}, TypeError, [f"dlse: float {NO_ARRAY}"]),
        (
            {"kernel": "flash2_forward"},
            ValueError,
            [no_kernel(BACKWARD, "flash2_forward")],
        ),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_backward(changes, error, reasons):
    refused(flash_attention_backward, GRADIENT, changes, error, reasons)


def test_shapes_of_operands_without_heads():
    changes = {"o": zeros(5, 8), "lse": zeros(7)}
    reasons = ["o has shape (5, 8) (needs (5, 6))", "lse has shape (7,) (needs (5,))"]
    refused(flash_attention_backward, FLAT, changes, ValueError, reasons)


def test_the_lse_of_float64_is_float64():
    operands = {name: x.astype(np.float64) for name, x in GRADIENT.items()} | {"lse": zeros(2, 4, 5)}
    refused(flash_attention_backward, operands, {}, TypeError, ["lse is float32 (needs float64 for float64 operands)"])


def test_vjp_takes_a_family():
    reason = no_kernel(BACKWARD, "flash2_forward")
    refused(flash_attention_vjp, ATTENTION, {"kernel": "flash2_forward"}, ValueError, [reason])


def test_vjp_refuses_what_attention_refuses():
    with pytest.raises(ValueError, match=r"flash_attention: softcap=0 "):
        flash_attention_vjp(**ATTENTION, softcap=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'dropout'"):
        flash_attention_vjp(**ATTENTION, dropout=0.1)


@pytest.mark.parametrize(
    ("changes", "error", "reasons"),
    [
        ({"o1": zeros(2, 3, dtype=int)}, TypeError, [f"o1 is int64 (needs {FLOATS})"]),
        (
            {"lse1": zeros(2, dtype=np.float64), "o2": zeros(2, 3, dtype=np.float16)},
            TypeError,
            [
                "lse1 is float64 (needs float32 where o1 is float32)",
                "o2 is float16 (needs float32 where o1 is float32)",
            ],
        ),
        (
            {"o2": zeros(2, 4), "lse2": zeros(3)},
            ValueError,
            ["o2 has shape (2, 4) (needs (2, 3))", "lse2 has shape (3,) (needs (2,))"],
        ),
        (
            {"o1": zeros(3), "o2": zeros(3), "lse1": zeros(), "lse2": zeros()},
            ValueError,
            ["o1 has shape (3,) (needs (..., N, dv))"],
        ),
        ({"lse1": [0.0], "stream": "s"}, TypeError, [f"stream: str {NO_STREAM}", f"lse1: list {NO_ARRAY}"]),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_merge(changes, error, reasons):
    refused(merge, PARTS, changes, error, reasons)


@pytest.mark.parametrize(
    ("changes", "error", "reasons"),
    [
        ({"a": zeros(2, 4)}, ValueError, ["a has shape (2, 4), b (3, 4): inner sizes 4 and 3 differ"]),
        ({"b": zeros(2)}, ValueError, ["a has shape (2, 3), b (2,): inner sizes 3 and 2 differ"]),
        ({"a": zeros()}, ValueError, ["a and b need at least one axis each"]),
        ({"a": zeros(5, 2, 3), "b": zeros(4, 3, 4)}, ValueError, ["leading axes (5,) and (4,) do not broadcast"]),
        ({"a": zeros(2, 3, dtype=np.float16)}, TypeError, ["a is float16, b is float32 (need one dtype)"]),
        ({"a": zeros(2, 3, dtype=int), "b": zeros(3, 4, dtype=int)}, TypeError, [f"a is int64 (needs {FLOATS})"]),
        ({"b": (1, 2, 3)}, TypeError, [f"b: tuple {NO_ARRAY}"]),
        ({"out_dtype": "f4"}, TypeError, [f"out_dtype='f4' (needs {FLOATS})"]),
        ({"kernel": "flash2"}, ValueError, [no_kernel(MATMUL, "flash2")]),
        (
            {"a": zeros(5, 2, 9, dtype=int), "b": zeros(4, 3, 4), "out_dtype": "int8", "kernel": "x", "stream": "y"},
            TypeError,
            [
                no_kernel(MATMUL, "x"),
                f"stream: str {NO_STREAM}",
                f"out_dtype='int8' (needs {FLOATS})",
                f"a is int64 (needs {FLOATS})",
                "a is int64, b is float32 (need one dtype)",
                "a has shape (5, 2, 9), b (4, 3, 4): inner sizes 9 and 3 differ",
                "leading axes (5,) and (4,) do not broadcast",
            ],
        ),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_matmul(changes, error, reasons):
    refused(matmul, PRODUCT, changes, error, reasons)


class TestKernelsThatCannotRun:
    """What a named kernel says when it cannot serve a valid request."""

    A100 = Device("A100", (8, 0), 163 * 1024)

    @pytest.fixture
    def on_a100(self, monkeypatch):
        monkeypatch.setattr(ladder, "device_for", lambda problem: self.A100)

    @staticmethod
    def problem(**sizes):
        return AttentionProblem(
            **{"B": 1, "Hq": 1, "Hk": 1, "Nq": 5, "Nk": 7, "d": 8, "dv": 8, **sizes},
            dtype="float32",
            scale=1.0,
            first=-5,
            last=7,
        )

    def message(self, kernel, *problems):
        with pytest.raises(ValueError) as caught:
            choose(FORWARD, kernel, problems)
        return str(caught.value)

    @pytest.mark.parametrize("kernel", ["flash2", "flash2_forward"])
    def test_a_named_kernel_gives_all_its_reasons(self, on_a100, kernel):
        assert self.message(kernel, self.problem(d=320, dv=257)) == (
            "flash_attention: kernel 'flash2_forward' cannot run: d=320 > 256; dv=257 > 256. Use kernel='auto'."
        )

    def test_reasons_of_several_groups_of_operands_are_not_repeated(self, on_a100):
        assert self.message("flash2", self.problem(d=320), self.problem(d=320), self.problem(d=300)) == (
            "flash_attention: kernel 'flash2_forward' cannot run: d=320 > 256; d=300 > 256. Use kernel='auto'."
        )

    def test_the_cpu_does_not_read_a_gpu(self, on_a100):
        assert self.message("cpu", self.problem(device=0)) == (
            "flash_attention: kernel 'cpu_forward' cannot run: the operands lie on a GPU. Use kernel='auto'."
        )

    def test_auto_gives_every_kernels_reasons(self, on_a100, monkeypatch):
        monkeypatch.setattr(ladder, "SIMULATED", False)
        message = self.message("auto", self.problem(device=0, d=320))
        assert message.startswith("flash_attention: kernel '")
        assert "'flash2_forward' cannot run: d=320 > 256. Kernel '" in message
        assert message.endswith(" Kernel 'cpu_forward' cannot run: the operands lie on a GPU.")

    def test_without_a_gpu(self, monkeypatch):
        monkeypatch.setattr(ladder, "device_for", lambda problem: None)
        assert self.message("flash2", self.problem()) == (
            "flash_attention: kernel 'flash2_forward' cannot run: no GPU that CuPy can use. Use kernel='auto'."
        )

    def test_auto_prefers_the_gpu_and_takes_what_can_run(self, on_a100, monkeypatch):
        monkeypatch.setattr(ladder, "SIMULATED", False)
        assert choose(FORWARD, "auto", [self.problem()]).name == "flash2_forward"
        assert choose(FORWARD, "auto", [self.problem(d=320)]).name == "cpu_forward"

    def test_every_rung_answers_by_its_name_and_by_its_family(self, on_a100):
        for rung in LADDER:
            assert rung in ladder.named(rung.operation, rung.name)
            assert ladder.named(rung.operation, rung.family) == [rung]


class TestTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch is not installed")

    def test_a_tensor_that_requires_grad_is_not_detached(self, torch):
        q, k, v = (torch.from_numpy(ATTENTION[name]) for name in "qkv")
        with pytest.raises(TypeError) as caught:
            flash_attention(q.clone().requires_grad_(), k, v.clone().requires_grad_())
        reason = "the tensor requires grad: numba_flash.torch carries gradients; or pass tensor.detach()"
        assert str(caught.value) == f"flash_attention: q: {reason}; v: {reason}."

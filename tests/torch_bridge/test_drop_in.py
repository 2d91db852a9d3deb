"""The functions that stand in for torch's and flash-attn's: their originals' arguments, meaning and numbers."""

import inspect
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

import numba_flash
from numba_flash.testing.tolerance import assert_close
from numba_flash.torch import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    scaled_dot_product_attention,
)

from .helpers import array, assert_equal, gradients, normal

THEIRS = torch.nn.functional.scaled_dot_product_attention
MASK = torch.arange(35).reshape(5, 7) % 3 != 0
MASK[1] = False  # a query that sees nothing


def close(ours, theirs):
    """Two float64 results agree up to rounding."""
    for x, y in zip(ours, theirs, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype == torch.float64
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-12)


SDPA = {
    "plain": ((2, 3, 5, 8), (2, 3, 7, 8), {}),
    "is_causal, more keys": ((2, 3, 5, 8), (2, 3, 7, 8), {"is_causal": True}),
    "is_causal, more queries": ((2, 3, 7, 8), (2, 3, 5, 8), {"is_causal": True}),
    "bool mask": ((2, 3, 5, 8), (2, 3, 7, 8), {"attn_mask": MASK}),
    "float mask": ((2, 3, 5, 8), (2, 3, 7, 8), {"attn_mask": torch.linspace(-2, 2, 35).reshape(5, 7).double()}),
    "mask of -inf": (
        (2, 3, 5, 8),
        (2, 3, 7, 8),
        {"attn_mask": torch.zeros(5, 7).masked_fill(~MASK, -torch.inf).double()},
    ),
    "mask per batch": ((2, 3, 5, 8), (2, 3, 7, 8), {"attn_mask": torch.arange(14).reshape(2, 1, 1, 7) % 5 != 0}),
    "scale": ((2, 3, 5, 8), (2, 3, 7, 8), {"scale": -0.3}),
    "GQA": ((2, 6, 5, 8), (2, 2, 7, 8), {"enable_gqa": True}),
    "GQA, causal": ((2, 6, 5, 8), (2, 3, 5, 8), {"enable_gqa": True, "is_causal": True}),
    "GQA, one batch of keys": ((2, 6, 5, 8), (1, 2, 7, 8), {"enable_gqa": True}),
    "one KV head": ((2, 3, 5, 8), (2, 1, 7, 8), {}),
    "one query for all": ((1, 1, 5, 8), (2, 3, 7, 8), {"attn_mask": MASK}),
    "keys without a batch": ((2, 3, 5, 8), (3, 7, 8), {}),
    "three axes": ((3, 5, 8), (3, 7, 8), {}),
    "two axes": ((5, 8), (7, 8), {"attn_mask": MASK}),
    "five axes": ((2, 2, 3, 5, 8), (2, 2, 3, 7, 8), {"is_causal": True}),
    "no keys": ((2, 3, 5, 8), (2, 3, 0, 8), {}),
}


class TestScaledDotProductAttention:
    def test_signature(self):
        """As torch's documentation has it: scale and enable_gqa by keyword only."""
        expected = (
            "(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False)"
        )
        assert undocumented(scaled_dot_product_attention) == expected

    @pytest.mark.parametrize(("q_shape", "k_shape", "options"), SDPA.values(), ids=SDPA)
    def test_torch_agrees(self, device, q_shape, k_shape, options):
        qkv = normal(q_shape, k_shape, (*k_shape[:-1], 3), device=device)
        options = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in options.items()}
        ours, theirs = scaled_dot_product_attention(*qkv, **options), THEIRS(*qkv, **options)
        close([ours], [theirs])
        close(gradients(ours, qkv), gradients(theirs, qkv))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
    def test_dtypes(self, device, dtype):
        """At most twice as far from float64 as torch."""
        qkv = normal((2, 3, 50, 16), (2, 3, 70, 16), (2, 3, 70, 16), dtype=dtype, device=device)
        wide = [x.detach().double().requires_grad_() for x in qkv]
        results = []
        for attend, operands in ((scaled_dot_product_attention, qkv), (THEIRS, wide), (THEIRS, qkv)):
            o = attend(*operands, is_causal=True)
            results.append([o, *gradients(o, operands)])
        for ours, exact, theirs in zip(*results, strict=True):
            assert ours.dtype == dtype
            numpy_dtype = numba_flash.arrays.read(ours.detach().cpu()).data.dtype
            assert_close(array(ours).astype(numpy_dtype), array(exact), array(theirs), numpy_dtype, "o, dq, dk or dv")

    @pytest.mark.parametrize("bias", [causal_lower_right, causal_upper_left], ids=lambda bias: bias.__name__)
    def test_causal_biases_of_torch(self, device, bias):
        qkv = normal((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8), device=device)
        seen = torch.ones(5, 7, dtype=torch.bool, device=device).tril(2 if bias is causal_lower_right else 0)
        close([scaled_dot_product_attention(*qkv, attn_mask=bias(5, 7))], [THEIRS(*qkv, attn_mask=seen)])

    def test_a_learned_mask_without_gradients(self):
        qkv = normal((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8))
        learned = torch.nn.Parameter(torch.linspace(-1, 1, 35).reshape(5, 7).double())
        with torch.no_grad():
            close([scaled_dot_product_attention(*qkv, attn_mask=learned)], [THEIRS(*qkv, attn_mask=learned)])
        with pytest.raises(ValueError, match="^scaled_dot_product_attention: attn_mask requires grad"):
            scaled_dot_product_attention(*qkv, attn_mask=learned)

    def test_operands_that_are_no_tensors(self):
        (q,) = normal((2, 4, 5, 8))
        with pytest.raises(
            TypeError, match=r"^scaled_dot_product_attention: key is ndarray \(needs a torch\.Tensor\)\.$"
        ):
            scaled_dot_product_attention(q, array(q), q)
        with pytest.raises(TypeError, match="^scaled_dot_product_attention: attn_mask is ndarray"):
            scaled_dot_product_attention(q, q, q, attn_mask=array(q))

    def test_errors(self):
        q, k = normal((2, 4, 5, 8), (2, 2, 5, 8))
        with pytest.raises(ValueError, match=r"^scaled_dot_product_attention: attn_mask and is_causal exclude"):
            scaled_dot_product_attention(q, q, q, attn_mask=MASK, is_causal=True)
        with pytest.raises(
            ValueError, match=r"leading axes do not broadcast .*enable_gqa=True.*: query \(2, 4, 5, 8\), key"
        ):
            scaled_dot_product_attention(q, k, k)
        with pytest.raises(ValueError, match="5 query heads do not divide into 2 KV heads"):
            scaled_dot_product_attention(q[:, :1].expand(2, 5, 5, 8), k, k, enable_gqa=True)
        with pytest.raises(TypeError, match=r"mask is int64 \(needs one of|bias is int64 \(needs one of"):
            scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(5, 5, dtype=torch.int64))


def undocumented(function):
    """A signature without annotations."""
    signature = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def formula(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None):
    """out and softmax_lse as flash-attn documents them, from whole score matrices."""
    (B, Nq, H, d), Nk = q.shape, k.shape[1]
    k, v = (x.repeat_interleave(H // x.shape[2], dim=2) for x in (k, v))
    s = torch.einsum("bihd,bjhd->bhij", q, k) * (d**-0.5 if softmax_scale is None else softmax_scale)
    if softcap > 0:
        s = softcap * (s / softcap).tanh()
    i, j = torch.arange(Nq, device=q.device)[:, None], torch.arange(Nk, device=q.device)
    distance = i + Nk - Nq - j
    if alibi_slopes is not None:
        s = s - alibi_slopes.to(s).expand(B, H)[..., None, None] * distance.abs()
    left, right = window_size
    hidden = (distance > left) * (left >= 0) | (-distance > right) * (right >= 0) | (distance < 0) * causal
    s = s.masked_fill(hidden, -torch.inf)
    p = torch.softmax(s, dim=-1).masked_fill(hidden.all(dim=-1, keepdim=True), 0)
    return torch.einsum("bhij,bjhd->bihd", p, v), s.logsumexp(dim=-1)


FLASH_ATTN = {
    "plain": {},
    "causal": {"causal": True},
    "left window": {"window_size": (2, -1)},
    "no key to the left": {"window_size": (0, 2)},
    "right window": {"window_size": (-1, 0)},
    "window": {"window_size": (1, 1), "causal": True},
    "scale and softcap": {"softmax_scale": 0.4, "softcap": 1.5},
    "ALiBi": {"alibi_slopes": torch.tensor([0.1, 0.2, 0.3, 0.4])},
    "ALiBi per batch": {"alibi_slopes": torch.arange(8).reshape(2, 4) / 8, "causal": True},
}


class TestFlashAttn:
    @pytest.mark.parametrize("function", [flash_attn_func, flash_attn_kvpacked_func, flash_attn_qkvpacked_func])
    def test_signature(self, function):
        """That of flash-attn 2.8."""
        operands = {flash_attn_func: "q, k, v", flash_attn_kvpacked_func: "q, kv", flash_attn_qkvpacked_func: "qkv"}
        options = (
            "dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, "
            "deterministic=False, return_attn_probs=False"
        )
        assert undocumented(function) == f"({operands[function]}, {options})"

    @pytest.mark.parametrize("Nq", [3, 6, 9])
    @pytest.mark.parametrize("options", FLASH_ATTN.values(), ids=FLASH_ATTN)
    def test_the_formula_agrees(self, device, options, Nq):
        qkv = normal((2, Nq, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8), device=device)
        options = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in options.items()}
        out, lse, nothing = flash_attn_func(*qkv, **options, return_attn_probs=True)
        exact, exact_lse = formula(*qkv, **options)
        close([out, lse], [exact, exact_lse])
        assert nothing is None and out.is_contiguous()
        if Nq <= 6:  # the formula's gradient of a row that sees nothing is NaN
            close(gradients(out, qkv), gradients(exact, qkv))

    def test_the_same_without_gradients(self, device):
        qkv = normal((2, 5, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8), device=device)
        expected = flash_attn_func(*qkv)
        with torch.no_grad():
            out = flash_attn_func(*qkv)
        assert_equal([out], [expected])
        assert out.is_contiguous() and out.view(2, 5, 32).shape == (2, 5, 32)

    @pytest.mark.parametrize("count", [2, 3])
    def test_packed_operands_are_read_in_place(self, device, count):
        q, packed = normal((2, 5, 3, 8), (2, 5, count, 3, 8), device=device)
        parts = [x.detach().requires_grad_() for x in (*[q] * (count == 2), *packed.unbind(2))]
        with mock.patch.object(numba_flash, "flash_attention", wraps=numba_flash.flash_attention) as spy:
            if count == 2:
                out, leaves = flash_attn_kvpacked_func(q, packed, deterministic=True), (q, packed)
            else:
                out, leaves = flash_attn_qkvpacked_func(packed, deterministic=True), (packed,)
        last_two = spy.call_args.args[1:]
        assert [x.data_ptr() for x in last_two] == [packed[:, :, n].data_ptr() for n in (count - 2, count - 1)]
        expected = flash_attn_func(*parts, deterministic=True)
        assert_equal([out], [expected])
        *first, of_packed = gradients(out, leaves)
        separate = gradients(expected, parts)
        assert_equal([*first, *of_packed.unbind(2)], separate)

    def test_options_of_the_packed_functions(self):
        (packed,) = normal((2, 5, 3, 4, 8))
        options = (0.0, 0.3, True, (2, -1), 1.5, torch.tensor([0.1, 0.2, 0.3, 0.4]), True, True)
        expected = flash_attn_func(*packed.unbind(2), *options)[:2]
        assert_equal(flash_attn_qkvpacked_func(packed, *options)[:2], expected)
        q, kv = packed[:, :, 0], packed[:, :, 1:]
        assert_equal(flash_attn_kvpacked_func(q, kv, *options)[:2], expected)

    def test_operands_that_are_no_tensors(self):
        (q,) = normal((2, 5, 4, 8))
        for function, operands in (
            (flash_attn_func, {"q": array(q), "k": q, "v": q}),
            (flash_attn_kvpacked_func, {"q": array(q), "kv": q[:, :, None].expand(-1, -1, 2, -1, -1)}),
            (flash_attn_kvpacked_func, {"q": q, "kv": array(q)}),
            (flash_attn_qkvpacked_func, {"qkv": array(q)}),
            (flash_attn_func, {"q": q, "k": q, "v": q, "alibi_slopes": np.zeros(4)}),
        ):
            wrong = next(operand for operand, x in operands.items() if isinstance(x, np.ndarray))
            with pytest.raises(TypeError, match=rf": {wrong} is ndarray \(needs a torch\.Tensor"):
                function(**operands)

    def test_layouts_of_other_functions_are_refused(self):
        (x,) = normal((5, 4, 8))
        with pytest.raises(ValueError, match=r"^flash_attn_func: q has shape \(5, 4, 8\) \(needs \(B, N, H, d\)\)\.$"):
            flash_attn_func(x, x, x)
        with pytest.raises(
            ValueError, match=r"^flash_attn_kvpacked_func: kv has shape \(1, 5, 4, 8\) \(needs \(B, N, 2"
        ):
            flash_attn_kvpacked_func(x[None], x[None])
        with pytest.raises(
            ValueError, match=r"^flash_attn_qkvpacked_func: qkv has shape \(1, 2, 5, 4, 8\) \(needs \(B, N, 3"
        ):
            flash_attn_qkvpacked_func(x.expand(1, 2, 5, 4, 8))

    @pytest.mark.gpu
    def test_flash_attn_itself_agrees(self):
        flash_attn = pytest.importorskip("flash_attn", reason="flash-attn is not installed")
        half = normal((2, 90, 4, 64), (2, 120, 2, 64), (2, 120, 2, 64), dtype=torch.float16, device="cuda")
        options = {"causal": True, "window_size": (40, -1), "softcap": 5.0}
        exact, exact_lse = formula(*(x.double() for x in half), **options)
        theirs = flash_attn.flash_attn_func(*half, **options, return_attn_probs=True)
        ours = flash_attn_func(*half, **options, return_attn_probs=True)
        for x, y, ref, dtype in zip(ours[:2], theirs[:2], (exact, exact_lse), (np.float16, np.float32), strict=True):
            assert_close(array(x).astype(dtype), array(ref), array(y), dtype, "out or lse")


DROP_INS = {
    "scaled_dot_product_attention": lambda q, **options: scaled_dot_product_attention(q, q, q, **options),
    "flash_attn_func": lambda q, **options: flash_attn_func(q, q, q, **options),
    "flash_attn_kvpacked_func": lambda q, **options: flash_attn_kvpacked_func(
        q, q[:, :, None].expand(-1, -1, 2, -1, -1), **options
    ),
    "flash_attn_qkvpacked_func": lambda q, **options: flash_attn_qkvpacked_func(
        q[:, :, None].expand(-1, -1, 3, -1, -1), **options
    ),
}


@pytest.mark.parametrize("call", DROP_INS.values(), ids=DROP_INS)
class TestAll:
    def test_tensors_without_numbers(self, call):
        q = torch.empty(2, 5, 3, 8, device="meta")
        with torch.autocast("cpu", torch.bfloat16):
            assert (call(q).shape, call(q).dtype) == ((2, 5, 3, 8), torch.float32)

    def test_dropout_is_refused(self, call):
        (q,) = normal((2, 5, 3, 8))
        with pytest.raises(ValueError, match=r"dropout_p=0.1 \(needs 0\.0\): .* drops no weights\. Set the model's"):
            call(q, dropout_p=0.1)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_autocast(self, device, call, dtype):
        """As in torch: all inputs but float64 become the dtype of autocast; gradients have the inputs' dtype."""
        for wide, result in ((torch.float32, dtype), (dtype, dtype), (torch.float64, torch.float64)):
            (q,) = normal((2, 5, 3, 8), dtype=wide, device=device)
            with torch.autocast(device, dtype):
                o, theirs = call(q), THEIRS(q, q, q)
            assert o.dtype == theirs.dtype == result
            assert_equal([o], [call(q.to(result))])
            assert gradients(o, [q])[0].dtype == wide
            assert call(q).dtype == wide

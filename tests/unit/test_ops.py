"""The contract of the public operations: shapes, kinds and dtypes in and out, edge cases, and the doctests."""

import doctest

import numpy as np
import pytest

from numba_flash import flash_attention, flash_attention_backward, flash_attention_vjp, matmul, merge, ops, reference
from numba_flash.problem import real_of
from numba_flash.testing.naive import naive_attention, naive_gradients, naive_matmul
from numba_flash.testing.tolerance import assert_close

from .helpers import DTYPES, Convertible, Exporter, assert_same, normal

NOTHING = [((), {"Nk": 0}), ((2,), {"Nq": 0}), ((0,), {}), ((2, 0, 3), {}), ((2,), {"Nq": 0, "Nk": 0})]


def operands(*lead, dtype="float32", seed=0, Hq=2, Hk=1, Nq=5, Nk=9, d=6, dv=3):
    """q, k, v."""
    shapes = (Hq, Nq, d), (Hk, Nk, d), (Hk, Nk, dv)
    return [normal(seed + n, *lead, *shape).astype(DTYPES[dtype]) for n, shape in enumerate(shapes)]


def gradient_of(o, seed=9):
    """A gradient of o, of its shape and dtype."""
    return normal(seed, *o.shape).astype(o.dtype)


def check_forward(o, lse, q, k, v, **options):
    """O and LSE are within the tolerance rule, and have the dtypes that they should have."""
    dtype = q.dtype.name
    references, naives = reference.attention(q, k, v, **options), naive_attention(q, k, v, **options)
    for n, (what, kind) in enumerate([("o", dtype), ("lse", real_of(dtype))]):
        assert_close((o, lse)[n], references[n], naives[n], kind, what)


def check_gradients(gradients, do, q, k, v, dlse=None, **options):
    """dQ, dK and dV are within the tolerance rule, and have q's dtype."""
    references = reference.attention_vjp(do, q, k, v, dlse, **options)
    naives = naive_gradients(do, q, k, v, dlse, **options)
    for what, out, ref, naive in zip(["dq", "dk", "dv"], gradients, references, naives, strict=True):
        assert_close(out, ref, naive, q.dtype.name, what)


@pytest.fixture
def kernel(backend):
    """The family of every backend."""
    return backend.kernel


class TestAttention:
    @pytest.mark.parametrize("lead", [(), (2,), (2, 1, 2)], ids=str)
    def test_any_number_of_leading_axes(self, kernel, lead):
        q, k, v = operands(*lead)
        o, lse = flash_attention(q, k, v, causal=True, return_lse=True, kernel=kernel)
        check_forward(o, lse, q, k, v, causal=True)

    def test_no_axis_of_heads(self, kernel):
        q, k, v = (x[0] for x in operands(Hq=1))
        o, lse = flash_attention(q, k, v, return_lse=True, kernel=kernel)
        assert (o.shape, lse.shape) == ((5, 3), (5,))
        check_forward(o[None], lse[None], q[None], k[None], v[None])

    def test_leading_axes_that_no_single_stride_describes(self, kernel):
        q, k, v = (x.swapaxes(0, 1) for x in operands(2, 3))
        o, lse = flash_attention(q, k, v, return_lse=True, kernel=kernel)
        assert o.flags.c_contiguous
        check_forward(o, lse, q, k, v)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes(self, kernel, dtype):
        q, k, v = operands(dtype=dtype)
        o, lse = flash_attention(q, k, v, return_lse=True, kernel=kernel)
        check_forward(o, lse, q, k, v)

    def test_one_result_or_two(self, kernel):
        q, k, v = operands()
        o = flash_attention(q, k, v, kernel=kernel)
        again, _ = flash_attention(q, k, v, return_lse=True, kernel=kernel)
        assert isinstance(o, np.ndarray) and np.array_equal(o, again)

    @pytest.mark.parametrize("scale", [0, -2.0, np.float32(0.5)], ids=str)
    def test_scales(self, kernel, scale):
        q, k, v = operands()
        o, lse = flash_attention(q, k, v, scale=scale, return_lse=True, kernel=kernel)
        check_forward(o, lse, q, k, v, scale=scale)

    def test_every_option_at_once(self, kernel):
        q, k, v = operands(2)
        options = {
            "causal": True, "q_offset": 3, "window": (4, 0), "scale": 0.7, "softcap": 2.0,
            "alibi_slopes": normal(5, 2, dtype=np.float32), "bias": normal(6, 2, 1, 5, 9, dtype=np.float16),
            "mask": normal(7, 5, 9) > -1,
        }  # fmt: skip
        o, lse = flash_attention(q, k, v, **options, return_lse=True, kernel=kernel)
        check_forward(o, lse, q, k, v, **options)

    def test_rows_that_see_no_key(self, kernel):
        q, k, v = operands()
        o, lse = flash_attention(q, k, v, causal=True, q_offset=-3, return_lse=True, kernel=kernel)
        assert not o[:, :3].any() and np.isneginf(lse[:, :3]).all()
        check_forward(o, lse, q, k, v, causal=True, q_offset=-3)

    @pytest.mark.parametrize(("lead", "sizes"), NOTHING, ids=str)
    def test_nothing_to_attend_to(self, kernel, lead, sizes):
        q, k, v = operands(*lead, **sizes)
        o, lse = flash_attention(q, k, v, return_lse=True, kernel=kernel)
        assert (o.shape, o.dtype) == ((*q.shape[:-1], 3), np.float32) and not o.any()
        assert (lse.shape, lse.dtype) == (q.shape[:-1], np.float32) and np.isneginf(lse).all()

    def test_inputs_stay_as_they_are(self, kernel):
        inputs = operands()
        copies = [x.copy() for x in inputs]
        for x in inputs:
            x.flags.writeable = False
        flash_attention(*inputs, kernel=kernel)
        assert all(np.array_equal(x, copy) for x, copy in zip(inputs, copies, strict=True))

    def test_layouts_change_no_bit(self, kernel):
        q, k, v = operands(2)
        expected = flash_attention(q, k, v, kernel=kernel)
        layouts = {
            "transposed": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
            "column-major": np.asfortranarray,
            "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
            "reversed": lambda x: np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :],
            "byte-swapped": lambda x: x.astype(">f4"),
        }
        for name, layout in layouts.items():
            o = flash_attention(layout(q), layout(k), layout(v), kernel=kernel)
            assert np.array_equal(o, expected), name

    @pytest.mark.parametrize("kind", [Exporter, Convertible])
    def test_other_libraries_give_numpy_arrays(self, kernel, kind):
        q, k, v = operands()
        mask = normal(0, 5, 9) > 0
        o, lse = flash_attention(kind(q), kind(k), kind(v), mask=Convertible(mask), return_lse=True, kernel=kernel)
        check_forward(o, lse, q, k, v, mask=mask)

    def test_a_rung_by_its_own_name(self, kernel):
        q, k, v = operands()
        o = flash_attention(q, k, v, kernel=f"{kernel}_forward")
        assert np.array_equal(o, flash_attention(q, k, v, kernel=kernel))


class TestGradients:
    @pytest.mark.parametrize("lead", [(), (2, 2)], ids=str)
    @pytest.mark.parametrize("with_dlse", [False, True], ids=["", "dlse"])
    def test_pullback(self, kernel, lead, with_dlse):
        q, k, v = operands(*lead)
        o, pullback = flash_attention_vjp(q, k, v, causal=True, kernel=kernel)
        do, dlse = gradient_of(o), normal(8, *o.shape[:-1], dtype=np.float32) if with_dlse else None
        first, second = pullback(do, dlse), pullback(do, dlse)
        check_gradients(first, do, q, k, v, dlse, causal=True)
        assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))

    def test_no_axis_of_heads(self, kernel):
        q, k, v = (x[0] for x in operands(Hq=1))
        o, pullback = flash_attention_vjp(q, k, v, kernel=kernel)
        do = gradient_of(o)
        gradients = pullback(do)
        assert [x.shape for x in gradients] == [q.shape, k.shape, v.shape]
        check_gradients([x[None] for x in gradients], do[None], q[None], k[None], v[None])

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes_and_axes_that_do_not_fold(self, kernel, dtype):
        q, k, v = (x.swapaxes(0, 1) for x in operands(2, 2, dtype=dtype))
        o, lse = flash_attention(q, k, v, return_lse=True, kernel=kernel)
        do = gradient_of(o)
        check_gradients(flash_attention_backward(do, q, k, v, o, lse, kernel=kernel), do, q, k, v)

    def test_deterministic(self, kernel):
        q, k, v = operands(Nq=9)
        results = []
        for _ in range(2):
            o, pullback = flash_attention_vjp(q, k, v, deterministic=True, kernel=kernel)
            results.append(pullback(gradient_of(o)))
        assert all(np.array_equal(x, y) for x, y in zip(*results, strict=True))

    def test_rows_that_see_no_key(self, kernel):
        q, k, v = operands()
        options = {"causal": True, "q_offset": -3}
        o, pullback = flash_attention_vjp(q, k, v, **options, kernel=kernel)
        do = gradient_of(o)
        gradients = pullback(do)
        assert not gradients[0][:, :3].any()
        check_gradients(gradients, do, q, k, v, **options)

    @pytest.mark.parametrize(("lead", "sizes"), NOTHING, ids=str)
    def test_nothing_to_attend_to(self, kernel, lead, sizes):
        q, k, v = operands(*lead, **sizes)
        o, pullback = flash_attention_vjp(q, k, v, kernel=kernel)
        gradients = pullback(np.ones_like(o))
        assert [x.shape for x in gradients] == [q.shape, k.shape, v.shape]
        assert not any(x.any() for x in gradients)


class TestMerge:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
    def test_shapes_and_dtypes(self, dtype, lead):
        o1, o2 = (normal(n, *lead, 4, 3).astype(DTYPES[dtype]) for n in (0, 1))
        lse1, lse2 = (normal(n, *lead, 4).astype(DTYPES[real_of(dtype)]) for n in (2, 3))
        o, lse = merge(o1, lse1, o2, lse2)
        assert (o.shape, o.dtype, lse.shape, lse.dtype) == (o1.shape, o1.dtype, lse1.shape, lse1.dtype)
        o_ref, lse_ref = reference.merge(o1, lse1, o2, lse2)
        assert np.array_equal(o, o_ref.astype(o.dtype)) and np.array_equal(lse, lse_ref.astype(lse.dtype))

    def test_axes_that_do_not_fold(self):
        parts = normal(0, 3, 2, 4, 3).swapaxes(0, 1), normal(1, 2, 3, 4), normal(2, 2, 3, 4, 3), normal(3, 2, 3, 4)
        for actual, expected in zip(merge(*parts), reference.merge(*parts), strict=True):
            assert_same(actual, expected)

    @pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0), (0, 3)], ids=str)
    def test_no_elements(self, shape):
        o, lse = merge(np.zeros(shape), np.zeros(shape[:-1]), np.zeros(shape), np.zeros(shape[:-1]))
        assert o.shape == shape and lse.shape == shape[:-1]

    def test_attention_over_two_sets_of_keys(self, kernel):
        q, k, v = operands(dtype="float64")
        whole = flash_attention(q, k, v, return_lse=True, kernel=kernel)
        parts = [
            flash_attention(q, k[:, keys], v[:, keys], return_lse=True, kernel=kernel)
            for keys in (slice(0, 4), slice(4, 9))
        ]
        for actual, expected in zip(merge(*parts[0], *parts[1]), whole, strict=True):
            assert_same(actual, expected)


class TestMatmul:
    @pytest.fixture
    def product(self, backend):
        """The product by every kernel of a backend, which agree with NumPy's in float64."""

        def multiply(a, b, **options):
            expected = np.matmul(a, b)
            results = [matmul(a, b, **options, kernel=name) for name in backend.products_of(a.dtype)]
            for c in results:
                assert_same(c, expected)
            return results[0]

        return multiply

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ((5,), (5,)), ((5,), (5, 3)), ((4, 5), (5,)), ((4, 5), (5, 3)), ((2, 4, 5), (5, 3)), ((4, 5), (2, 5, 3)),
            ((2, 1, 4, 5), (3, 5, 3)), ((5,), (2, 5, 3)), ((2, 3, 4, 5), (5,)), ((1, 9, 17), (2, 17, 33)),
        ],
        ids=str,
    )  # fmt: skip
    def test_shapes_are_those_of_numpy(self, product, a, b):
        assert isinstance(product(normal(0, *a), normal(1, *b)), np.ndarray | np.float64)

    @pytest.mark.parametrize(
        ("a", "b"), [((0, 5), (5, 3)), ((4, 0), (0, 3)), ((4, 5), (5, 0)), ((0, 4, 5), (5, 3)), ((0,), (0,))], ids=str
    )
    def test_no_elements(self, product, a, b):
        product(normal(0, *a), normal(1, *b))

    def test_strides(self, product):
        a, b = normal(0, 10, 9), normal(1, 7, 9)
        product(a[::2, ::-1], b.T)
        product(np.asfortranarray(a), np.asfortranarray(b.T))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("out_dtype", [None, "float32", "bfloat16", np.float64], ids=str)
    def test_dtypes(self, backend, dtype, out_dtype):
        a, b = normal(0, 4, 40).astype(DTYPES[dtype]), normal(1, 40, 8).astype(DTYPES[dtype])
        kind = dtype if out_dtype is None else np.dtype(DTYPES.get(out_dtype, out_dtype)).name
        ref = a.astype(np.float64) @ b.astype(np.float64)
        naive = naive_matmul(a, b, DTYPES[kind])
        for name in backend.products_of(a.dtype):
            assert_close(matmul(a, b, out_dtype=out_dtype, kernel=name), ref, naive, kind, name)


class TestTorch:
    """Tensors in, tensors out."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch is not installed")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_attention(self, torch, kernel, dtype):
        arrays = operands(dtype=dtype)
        q, k, v = (torch.from_numpy(x.astype(np.float64)).to(getattr(torch, dtype)) for x in arrays)
        mask = torch.ones(5, 9, dtype=torch.bool).tril()
        o, pullback = flash_attention_vjp(q, k, v, mask=mask, kernel=kernel)
        do = torch.ones_like(o)
        gradients = pullback(do)
        assert {x.dtype for x in (o, *gradients)} == {q.dtype}
        as_numpy = [x.to(torch.float64).numpy().astype(DTYPES[dtype]) for x in (do, o, *gradients)]
        check_gradients(as_numpy[2:], as_numpy[0], *arrays, mask=mask.numpy())
        _, lse = flash_attention(q, k, v, mask=mask, return_lse=True, kernel=kernel)
        assert lse.dtype == getattr(torch, real_of(dtype))
        check_forward(as_numpy[1], lse.numpy(), *arrays, mask=mask.numpy())

    def test_merge_and_matmul(self, torch, backend):
        o, lse = torch.randn(4, 3), torch.randn(4)
        assert all(isinstance(x, torch.Tensor) for x in merge(o, lse, o, lse))
        for name in backend.products:
            c = matmul(o, o.T, out_dtype=torch.float64, kernel=name)
            assert isinstance(c, torch.Tensor) and c.dtype == torch.float64


@pytest.mark.gpu
class TestCupy:
    """Arrays of a GPU: the same kind out, on the caller's stream."""

    @pytest.fixture(autouse=True)
    def cupy(self):
        return pytest.importorskip("cupy", reason="CuPy is not installed")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_attention(self, cupy, dtype):
        arrays = operands(2, dtype=dtype)
        q, k, v = map(cupy.asarray, arrays)
        o, pullback = flash_attention_vjp(q, k, v, causal=True)
        do = cupy.asarray(gradient_of(cupy.asnumpy(o)))
        gradients = pullback(do)
        assert all(isinstance(x, cupy.ndarray) for x in (o, *gradients))
        check_gradients([cupy.asnumpy(x) for x in gradients], cupy.asnumpy(do), *arrays, causal=True)

    def test_numpy_arrays_visit_the_gpu(self):
        q, k, v = operands()
        bias, slopes = normal(3, 5, 9), normal(4, 2)
        options = {"scale": np.float32(0.5), "q_offset": np.int64(1), "bias": bias, "alibi_slopes": slopes}
        o, lse = flash_attention(q, k, v, **options, return_lse=True)
        check_forward(o, lse, q, k, v, **options)

    def test_a_stream_waits_for_its_inputs(self, cupy):
        stream = cupy.cuda.Stream(non_blocking=True)
        a = cupy.ones((2048, 2048), cupy.float32)
        for _ in range(20):
            a = a @ a / 2048
        c = matmul(a, a, stream=stream)
        stream.synchronize()
        assert (c == 2048).all()

    @pytest.mark.parametrize("kernel", ["matmul_naive", "matmul_tiled", "matmul_registers"])
    def test_matmul_and_merge(self, cupy, kernel):
        a = cupy.asarray(normal(0, 2, 40, 30))
        assert_same(cupy.asnumpy(matmul(a, a.swapaxes(1, 2), kernel=kernel)), cupy.asnumpy(a @ a.swapaxes(1, 2)))
        parts = normal(1, 3, 4, 5), normal(2, 3, 4), normal(3, 3, 4, 5), normal(4, 3, 4)
        for actual, expected in zip(merge(*map(cupy.asarray, parts)), reference.merge(*parts), strict=True):
            assert isinstance(actual, cupy.ndarray)
            assert_same(cupy.asnumpy(actual), expected)

    def test_exporters_of_gpu_memory(self, cupy):
        q, k, v = operands()
        o = flash_attention(*(Exporter(cupy.asarray(x)) for x in (q, k, v)))
        assert isinstance(o, cupy.ndarray)
        assert np.array_equal(cupy.asnumpy(o), flash_attention(q, k, v))


def test_doctests():
    result = doctest.testmod(ops)
    assert result.attempted > 10 and result.failed == 0

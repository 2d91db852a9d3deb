"""Arrays of any library become views of the same memory, and leading axes fold without copies."""

import ctypes
import importlib.util
import itertools
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from numba_flash import arrays, flash_attention
from numba_flash.arrays import fold_leading, give_back, merged_axes, read, stream_handle

from .helpers import DTYPES, Convertible, Exporter, normal

WITH_BOOL = {**DTYPES, "bool": np.bool_}


def same_memory(array, x):
    """Does an Array cover exactly the memory of the NumPy array x, element for element?"""
    assert np.array_equal(array.data, x)
    return array.address == x.ctypes.data and array.strides == tuple(s // x.itemsize for s in x.strides)


class TestRead:
    @pytest.mark.parametrize("dtype", WITH_BOOL)
    def test_numpy_in_place(self, dtype):
        x = normal(0, 3, 4, 5).astype(WITH_BOOL[dtype])
        array = read(x)
        assert (array.shape, array.dtype, array.device) == ((3, 4, 5), dtype, None)
        assert array.itemsize == x.itemsize
        assert array.data is x

    @pytest.mark.parametrize(
        "view",
        [np.s_[::2], np.s_[:, ::-1], np.s_[..., 1::3], np.s_[1:1], np.s_[:, None], np.s_[:, 2]],
        ids=["strided", "reversed", "columns", "empty", "new axis", "fewer axes"],
    )
    def test_views_in_place(self, view):
        x = normal(0, 6, 4, 8)[view]
        assert same_memory(read(x), x)

    def test_read_only_in_place(self):
        x = np.broadcast_to(normal(0, 4), (3, 4))
        array = read(x)
        assert array.data is x and array.strides == (0, 1)
        assert not array.strided((2, 4), (0, 1)).data.flags.writeable

    def test_byte_swapped_is_copied(self):
        x = normal(0, 3, 4)
        array = read(x.astype(">f8"))
        assert array.dtype == "float64" and array.data.dtype.isnative
        assert np.array_equal(array.data, x)

    def test_misaligned_is_copied(self):
        x = normal(0, 12)
        memory = np.zeros(12 * 8 + 1, np.uint8)
        memory[1:] = x.view(np.uint8)
        misaligned = memory[1:].view(np.float64)
        assert not misaligned.flags.aligned
        array = read(misaligned)
        assert array.data.flags.aligned and np.array_equal(array.data, x)

    def test_strides_of_parts_of_elements_are_copied(self):
        x = np.zeros(4, [("a", np.float32), ("b", np.uint16)])["a"]
        assert x.strides == (6,)
        assert read(x).strides == (1,)

    def test_scalars_have_no_axes(self):
        assert read(np.float32(3)).shape == ()

    def test_dlpack(self):
        x = normal(0, 2, 3)
        assert same_memory(read(Exporter(x)), x)

    def test_dlpack_that_numpy_cannot_read(self):
        with pytest.raises(TypeError, match="Exporter exports no array that NumPy can read"):
            read(Exporter(np.zeros(2, ml_dtypes.bfloat16)))
        without_device = SimpleNamespace(__dlpack__=lambda **keywords: None)
        with pytest.raises(TypeError, match="SimpleNamespace exports no array"):
            read(without_device)

    def test_array_method(self):
        x = normal(0, 2, 3)
        assert same_memory(read(Convertible(x)), x)

    @pytest.mark.parametrize("x", [[[1.0]], (1.0, 2.0), 1.0, "array", {}], ids=lambda x: type(x).__name__)
    def test_what_is_no_array(self, x):
        with pytest.raises(TypeError, match=f"{type(x).__name__} is no array"):
            read(x)

    def test_masked_arrays_do_not_lose_their_mask(self):
        with pytest.raises(TypeError, match="mask would be lost"):
            read(np.ma.masked_array(np.zeros(3), [True, False, False]))

    @pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
    def test_gpu_memory_without_cupy(self):
        for x in (
            SimpleNamespace(__cuda_array_interface__={}),
            SimpleNamespace(__dlpack__=None, __dlpack_device__=lambda: (2, 0)),
        ):
            with pytest.raises(TypeError, match="lies on a GPU and needs CuPy"):
                read(x)
        assert arrays.gpu_count() == 0


class TestTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch is not installed")

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "bool"])
    def test_cpu_tensors_in_place(self, torch, dtype):
        tensor = torch.arange(24).reshape(4, 6).to(getattr(torch, dtype))
        for x in (tensor, tensor[::2, 1:], tensor.T, tensor.expand(3, 4, 6)):
            array = read(x)
            assert (array.dtype, array.shape, array.strides) == (dtype, tuple(x.shape), tuple(x.stride()))
            assert array.address == x.data_ptr() and array.device is None
            assert np.array_equal(array.data.astype(np.float64), x.to(torch.float64).numpy())

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_results_are_tensors_again(self, torch, dtype):
        tensor = torch.randn(3, 4).to(getattr(torch, dtype))
        (back,) = give_back([read(tensor).data], tensor)
        assert isinstance(back, torch.Tensor) and back.dtype == tensor.dtype and torch.equal(back, tensor)
        assert back.data_ptr() == tensor.data_ptr()

    def test_a_tensor_that_requires_grad(self, torch):
        with pytest.raises(TypeError, match=r"requires grad: numba_flash\.torch .* tensor\.detach\(\)"):
            read(torch.zeros(3, requires_grad=True))

    def test_a_gradient_that_nobody_records_is_not_lost(self, torch):
        x = torch.ones(3, requires_grad=True)
        with torch.no_grad():
            array = read(x)
        assert array.address == x.data_ptr() and np.array_equal(array.data, np.ones(3))

    def test_lazy_negation_and_conjugation(self, torch):
        x = torch.tensor([1 + 2j, 3 - 1j])
        assert np.array_equal(read(x.conj().imag).data, [-2, 1])


class TestJax:
    @pytest.fixture
    def jax(self):
        return pytest.importorskip("jax", reason="JAX is not installed")

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_arrays_come_back_as_they_came(self, jax, dtype):
        q = jax.numpy.asarray(normal(0, 2, 5, 8), dtype=dtype)
        o, lse = flash_attention(q, q, q, causal=True, return_lse=True)
        assert isinstance(o, jax.Array) and (o.dtype, o.shape, lse.dtype) == (q.dtype, q.shape, "float32")
        x = np.asarray(q)
        for ours, numpys in zip((o, lse), flash_attention(x, x, x, causal=True, return_lse=True), strict=True):
            assert np.array_equal(np.asarray(ours), numpys)

    def test_a_traced_array_is_refused(self, jax):
        with pytest.raises(TypeError, match="q: .*Tracer exports no array"):
            jax.jit(lambda q: flash_attention(q, q, q))(jax.numpy.ones((2, 5, 8)))


class TestBroadcast:
    def test_strides_of_zero(self):
        x = normal(0, 3, 1, 5)
        for shape in ((3, 4, 5), (2, 3, 1, 5), (7, 2, 3, 6, 5), (3, 0, 5)):
            array = read(x).broadcast(shape)
            assert np.array_equal(array.data, np.broadcast_to(x, shape))
            assert np.shares_memory(array.data, x) or 0 in shape
            assert array.address == x.ctypes.data

    @pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 2, 4), (2, 1, 5), (5, 1, 3)])
    def test_what_does_not_fit(self, shape):
        with pytest.raises(ValueError, match="does not broadcast"):
            read(normal(0, 3, 1, 5)).broadcast(shape)


class TestFoldLeading:
    """Leading axes become one batch axis, or several groups, and no element moves."""

    @staticmethod
    def folded(x, keep):
        """The groups of one array, checked to be views of it that hold its elements in order."""
        groups = [group for (group,) in fold_leading([read(x)], keep)]
        parts = [group.data for group in groups]
        assert all(part.ndim == keep + 1 and np.shares_memory(part, x) for part in parts)
        kept = x.shape[x.ndim - keep :]
        assert np.array_equal(np.concatenate([part.reshape(-1, *kept) for part in parts]), x.reshape(-1, *kept))
        return groups

    def test_contiguous_axes_become_one(self):
        (group,) = self.folded(normal(0, 2, 3, 4, 5, 6), keep=2)
        assert group.shape == (24, 5, 6)

    def test_views_that_fold(self):
        x = normal(0, 4, 6, 5, 3)
        for view in (x[:, :, ::2], x[::-1, ::-1], x[::2, :1], x[:1, ::3], x.transpose(0, 1, 3, 2)):
            assert len(self.folded(view, keep=2)) == 1

    def test_views_that_do_not_fold(self):
        x = normal(0, 4, 6, 5, 3)
        for view, count in ((x[:, ::4], 4), (x.swapaxes(0, 1), 6), (x[:, ::-1], 4), (x[:, 1:], 4)):
            assert len(self.folded(view, keep=2)) == count

    def test_broadcast_axes(self):
        assert len(self.folded(np.broadcast_to(normal(0, 3, 5), (4, 2, 3, 5)), keep=2)) == 1
        beside_a_real_one = np.broadcast_to(normal(0, 2, 1, 3, 5), (2, 4, 3, 5))
        assert len(self.folded(beside_a_real_one, keep=2)) == 2
        assert len(self.folded(beside_a_real_one.swapaxes(0, 1), keep=2)) == 4

    def test_arrays_fold_together(self):
        contiguous, transposed = normal(0, 3, 4, 5), normal(1, 4, 3, 5).swapaxes(0, 1)
        groups = fold_leading([read(contiguous), None, read(transposed)], keep=1)
        assert len(groups) == 3
        for n, (a, nothing, b) in enumerate(groups):
            assert nothing is None
            assert np.array_equal(a.data, contiguous[n]) and np.array_equal(b.data, transposed[n])

    def test_no_elements(self):
        assert fold_leading([read(np.zeros((2, 0, 4, 5)))], keep=2) == []
        ((group,),) = fold_leading([read(np.zeros((2, 3, 0, 5)))], keep=2)
        assert group.shape == (6, 0, 5)

    @pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 3), (3, 1), (2, 1, 3), (1, 2, 1, 3, 1)])
    def test_axes_of_length_one(self, shape):
        assert len(self.folded(normal(0, *shape, 4), keep=1)) == 1

    @pytest.mark.parametrize("seed", range(60))
    def test_random_views(self, seed):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((3, 2, 4, 2, 3)).transpose(*rng.permutation(4), 4)
        steps = rng.choice([1, 1, 2, -1], 4)
        x = x[tuple(slice(None, None, step) for step in steps)]
        for axis in range(4):
            if rng.random() < 0.2:
                x = np.broadcast_to(x.take([0], axis), [n if a != axis else 3 for a, n in enumerate(x.shape)])
        self.folded(x, keep=int(rng.integers(1, 4)))


def test_merged_axes_by_brute_force():
    """Axes are one group exactly if walking them in order is walking one axis, for every array."""
    for shape in itertools.product((1, 2, 3), repeat=3):
        for strides in itertools.product((0, 1, 2, 3, 6, -1), repeat=3):
            groups = merged_axes(shape, [strides])
            long_axes = [axis for axis in range(3) if shape[axis] != 1]
            assert [axis for group in groups for axis in group] == (long_axes or [0])
            for group in groups:
                steps = [np.dot(index, [strides[a] for a in group]) for index in np.ndindex(*(shape[a] for a in group))]
                assert len({*np.diff(steps)}) <= 1
            for left, right in itertools.pairwise(groups):
                assert strides[left[-1]] != shape[right[0]] * strides[right[0]]


class TestStreamHandle:
    def test_numbers(self):
        assert stream_handle(0) == 0
        assert stream_handle(12345) == 12345

    @pytest.mark.parametrize(
        "stream",
        [
            SimpleNamespace(ptr=77),
            SimpleNamespace(cuda_stream=77),
            SimpleNamespace(__cuda_stream__=lambda: (0, 77)),
            SimpleNamespace(handle=77),
            SimpleNamespace(handle=ctypes.c_void_p(77)),
        ],
        ids=["cupy", "torch", "cuda.core", "numba", "numba with ctypes"],
    )
    def test_streams_of_libraries(self, stream):
        assert stream_handle(stream) == 77

    def test_the_default_stream_of_numba(self):
        assert stream_handle(SimpleNamespace(handle=ctypes.c_void_p(None))) == 0

    def test_what_is_no_stream(self):
        with pytest.raises(TypeError, match="stream: str is no CUDA stream"):
            stream_handle("default")


def test_empty_and_fill():
    like = read(normal(0, 2, dtype=np.float32))
    for dtype, expected in WITH_BOOL.items():
        x = arrays.empty(like, (2, 3), dtype)
        assert (x.shape, x.strides, x.dtype, x.data.dtype) == ((2, 3), (3, 1), dtype, expected)
        x.fill(1)
        assert (x.data == 1).all()

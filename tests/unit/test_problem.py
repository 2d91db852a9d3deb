"""What a valid call becomes: problems of four-axis operands, with every default filled in."""

import itertools

import numpy as np
import pytest

from numba_flash.arrays import read
from numba_flash.matmul_problem import broadcast_lead, dtype_name, matmul_request
from numba_flash.problem import Reasons, ScoreOptions, attention_request, merge_request, on_16_bytes
from numba_flash.tiling import band

from .helpers import normal


def readable(x):
    """Arrays as a request takes them, in a dict too; anything else as it is."""
    if isinstance(x, dict):
        return {key: readable(item) for key, item in x.items()}
    return read(x) if isinstance(x, np.ndarray) else x


def request(q, k, v, **options):
    return attention_request(Reasons("test"), *map(readable, (q, k, v)), **readable(options))


def only_problem(q, k, v, **options):
    ((problem, operands),) = request(q, k, v, **options).problems
    return problem, operands


def arrays(lead=(2,), Hq=4, Hk=2, Nq=5, Nk=7, d=8, dv=6, dtype=np.float32):
    return (normal(n, *lead, *shape).astype(dtype) for n, shape in enumerate(((Hq, Nq, d), (Hk, Nk, d), (Hk, Nk, dv))))


class TestReasons:
    def test_nothing_is_raised_without_a_reason(self):
        Reasons("f").raise_if_any()

    def test_a_type_error_among_them_makes_it_one(self):
        for kinds, expected in (((ValueError,), ValueError), ((ValueError, TypeError, ValueError), TypeError)):
            reasons = Reasons("f")
            for n, kind in enumerate(kinds):
                reasons.add(f"reason {n}", kind)
            with pytest.raises(expected) as caught:
                reasons.raise_if_any()
            assert caught.type is expected
            assert str(caught.value) == f"f: {'; '.join(f'reason {n}' for n in range(len(kinds)))}."


class TestAttention:
    @pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
    def test_leading_axes_become_one(self, lead):
        q, k, v = arrays(lead)
        problem, operands = only_problem(q, k, v)
        assert (problem.B, problem.Hq, problem.Hk, problem.Nq, problem.Nk, problem.d, problem.dv) == (
            int(np.prod(lead)), 4, 2, 5, 7, 8, 6,
        )  # fmt: skip
        assert operands.q.shape == (problem.B, 4, 5, 8) and operands.v.shape == (problem.B, 2, 7, 6)
        assert np.shares_memory(operands.k.data, k) and np.array_equal(operands.k.data.ravel(), k.ravel())
        shapes = request(q, k, v).shapes
        assert (shapes["q"], shapes["o"], shapes["lse"]) == (q.shape, (*lead, 4, 5, 6), (*lead, 4, 5))

    def test_two_axes_are_one_head(self):
        q, k, v = normal(0, 5, 8), normal(1, 7, 8), normal(2, 7, 6)
        problem, operands = only_problem(q, k, v)
        assert (problem.B, problem.Hq, problem.Hk) == (1, 1, 1) and operands.q.shape == (1, 1, 5, 8)
        shapes = request(q, k, v).shapes
        assert (shapes["o"], shapes["lse"]) == ((5, 6), (5,))

    def test_transposed_layouts_are_read_in_place(self):
        q, k, v = (normal(n, 2, 5, 4, 8).swapaxes(1, 2) for n in range(3))
        _, operands = only_problem(q, k, v)
        assert operands.q.strides == (160, 8, 32, 1) and np.shares_memory(operands.q.data, q)

    def test_axes_that_do_not_fold_become_groups(self):
        q, k, v = (normal(n, 3, 2, 4, 5, 8).swapaxes(0, 1) for n in range(3))
        problems = request(q, k, v).problems
        assert [problem.B for problem, _ in problems] == [3, 3]
        for n, (_, operands) in enumerate(problems):
            assert np.array_equal(operands.q.data, q[n]) and np.array_equal(operands.v.data, v[n])

    def test_defaults(self):
        problem, _ = only_problem(*arrays())
        assert (problem.scale, problem.softcap, problem.q_offset) == (1 / np.sqrt(8), None, 0)
        assert (problem.first, problem.last) == band(5, 7, False, 2, None)
        assert (problem.dtype, problem.device, problem.score) == ("float32", None, ScoreOptions())

    def test_the_last_query_sees_the_last_key_by_default(self):
        problem, _ = only_problem(*arrays(), causal=True)
        assert problem.last == 2

    def test_numbers_of_numpy(self):
        problem, _ = only_problem(
            *arrays(), causal=np.True_, q_offset=np.int32(3), window=[np.int64(2), np.uint8(1)], scale=np.float16(0.5),
            softcap=np.int64(2),
        )  # fmt: skip
        assert (problem.first, problem.last, problem.scale, problem.softcap) == (1, 3, 0.5, 2.0)
        assert {type(x) for x in (problem.first, problem.last)} == {int}

    def test_offsets_and_windows_of_any_size(self):
        for q_offset, left in ((2**100, 5), (-(2**100), None), (0, 2**100)):
            problem, _ = only_problem(*arrays(), causal=True, q_offset=q_offset, window=(left, None))
            assert (problem.first, problem.last) == band(5, 7, True, q_offset, (left, None))
        assert only_problem(*arrays(), q_offset=2**100, window=(np.int64(5), None))[0].first == 8

    def test_options_broadcast(self):
        bias, mask, slopes = normal(0, 4, 1, 7).astype(np.float16), np.ones((2, 1, 5, 7), bool), normal(1, 4)
        problem, operands = only_problem(*arrays(), bias=bias, mask=mask, alibi_slopes=slopes, q_offset=3, softcap=1.0)
        assert operands.bias.shape == operands.mask.shape == (2, 4, 5, 7) and operands.slopes.shape == (2, 4)
        assert operands.bias.strides == (0, 7, 0, 1) and operands.slopes.strides == (0, 1)
        assert problem.score == ScoreOptions(softcap=True, alibi="float64", bias="float16", mask=True)
        assert problem.q_offset == 3

    def test_backward_operands(self):
        q, k, v = arrays((2, 3))
        results = {"do": normal(3, 2, 3, 4, 5, 6), "o": normal(4, 2, 3, 4, 5, 6), "lse": normal(5, 2, 3, 4, 5)}
        results = {name: x.astype(np.float32) for name, x in results.items()}
        _, operands = only_problem(q, k, v, backward={**results, "dlse": results["lse"]})
        assert operands.do.shape == (6, 4, 5, 6) and operands.lse.shape == operands.dlse.shape == (6, 4, 5)
        assert np.array_equal(operands.lse.data.ravel(), results["lse"].ravel())

    @pytest.mark.parametrize(
        ("sizes", "nothing"),
        [({}, False), ({"Nq": 0}, True), ({"Nk": 0}, True), ({"lead": (2, 0)}, True), ({"Hq": 0}, True)],
        ids=str,
    )
    def test_nothing_to_see(self, sizes, nothing):
        assert request(*arrays(**sizes)).nothing_seen == nothing


class TestVector:
    """Rows are read 16 bytes at a time where each of them starts on 16 bytes and holds whole groups of four."""

    @staticmethod
    def aligned(*shape, dtype=np.float32, shift=0):
        """An array that starts `shift` elements after a multiple of 16 bytes."""
        itemsize = np.dtype(dtype).itemsize
        memory = np.zeros(int(np.prod(shape)) * itemsize + 16 + shift * itemsize, np.uint8)
        start = -memory.ctypes.data % 16 + shift * itemsize
        return memory[start : start + int(np.prod(shape)) * itemsize].view(dtype).reshape(shape)

    @pytest.mark.parametrize(
        ("dtype", "width", "expected"),
        [
            (np.float32, 4, True), (np.float32, 6, False), (np.float32, 8, True),
            (np.float64, 4, True), (np.float64, 2, False), (np.float16, 8, True), (np.float16, 4, False),
        ],
    )  # fmt: skip
    def test_width_of_rows(self, dtype, width, expected):
        assert on_16_bytes(read(self.aligned(2, 3, 5, width, dtype=dtype))) == expected

    def test_address(self):
        for shift in range(1, 5):
            assert on_16_bytes(read(self.aligned(2, 3, 5, 8, shift=shift))) == (shift == 4)

    def test_strides(self):
        x = self.aligned(2, 3, 8, 16)
        for view, expected in (
            (x[:, :, ::2], True),
            (x.swapaxes(1, 2), True),
            (x[..., 4:12], True),
            (x[..., 2:10], False),
            (x[..., ::2], False),
            (x[..., ::-1], False),
            (x.swapaxes(2, 3)[..., :8], False),
            (np.broadcast_to(x[:1], (5, 3, 8, 16)), True),
        ):
            assert on_16_bytes(read(view)) == expected

    def test_one_row_has_no_stride(self):
        assert on_16_bytes(read(self.aligned(1, 1, 1, 5)[..., :4]))

    def test_every_operand_counts(self):
        q, k, v = (self.aligned(1, 2, 5, 8) for _ in range(3))
        misaligned = self.aligned(1, 2, 5, 8, shift=1)
        assert only_problem(q, k, v)[0].vector
        for operands in ((misaligned, k, v), (q, misaligned, v), (q, k, misaligned)):
            assert not only_problem(*operands)[0].vector


SHAPES = [shape for rank in (1, 2, 3, 4) for shape in itertools.product((1, 2), repeat=rank)]


class TestMatmul:
    def test_shapes_are_those_of_numpy(self):
        for a_shape, b_shape in itertools.product(SHAPES, repeat=2):
            a, b = np.zeros((*a_shape[:-1], 3)), np.zeros((*b_shape[:-2], 3, *b_shape[-1:]) if len(b_shape) > 1 else 3)
            expected = (a @ b).shape
            request = matmul_request(Reasons("test"), read(a), read(b), None)
            assert request.shape == expected
            total = sum(problem.B * problem.M * problem.N for problem, _, _ in request.problems)
            assert total == np.prod(expected, dtype=int) == np.prod(request.product_shape, dtype=int)

    def test_operands_are_views(self):
        a, b = normal(0, 5, 4), normal(1, 3, 2, 4, 6)
        ((problem, x, y),) = matmul_request(Reasons("test"), read(a), read(b), "float32").problems
        assert (problem.B, problem.M, problem.N, problem.K, problem.out_dtype) == (6, 5, 6, 4, "float32")
        assert np.shares_memory(x.data, a) and x.strides == (0, 4, 1) and np.shares_memory(y.data, b)

    def test_axes_that_do_not_fold(self):
        a, b = normal(0, 2, 1, 5, 4), normal(1, 3, 4, 6)
        problems = matmul_request(Reasons("test"), read(a), read(b), None).problems
        assert [problem.B for problem, _, _ in problems] == [3, 3]

    def test_broadcast_lead_is_numpys_rule(self):
        shapes = [shape for rank in range(4) for shape in itertools.product((0, 1, 2, 3), repeat=rank)]
        for x, y in itertools.product(shapes, repeat=2):
            reasons = Reasons("test")
            try:
                expected = np.broadcast_shapes(x, y)
            except ValueError:
                broadcast_lead(reasons, x, y)
                assert reasons.found == [f"leading axes {x} and {y} do not broadcast"]
            else:
                assert broadcast_lead(reasons, x, y) == expected and not reasons.found


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 0)], ids=str)
def test_merge_folds_to_one_batch_axis(lead):
    o, lse = normal(0, *lead, 5, 6), normal(1, *lead, 5)
    request = merge_request(Reasons("test"), *map(read, (o, lse, o, lse)))
    assert (request.o_shape, request.lse_shape, request.real) == (o.shape, lse.shape, "float64")
    for group in request.groups:
        assert [x.shape[1:] for x in group] == [(5, 6), (5,), (5, 6), (5,)]
    assert sum(group[0].shape[0] for group in request.groups) == int(np.prod(lead))


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype("float16"), np.dtype(">f2"), None], ids=str)
def test_names_of_dtypes(dtype):
    assert dtype_name(Reasons("test"), dtype) == (None if dtype is None else "float16")


def test_names_of_torch_dtypes():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert dtype_name(Reasons("test"), torch.bfloat16) == "bfloat16"
    assert dtype_name(Reasons("test"), torch.float) == "float32"

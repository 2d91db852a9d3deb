"""The contests without a GPU: every provider is right, and what is wrong is found."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from numba_flash import reference
from numba_flash.arrays import gpu_count
from numba_flash.bench import cells, contests, formula, peers
from numba_flash.bench.cells import FASTEST, SOFTMAX, Cell
from numba_flash.bench.checks import check
from numba_flash.ladder import BACKWARD, FORWARD, LADDER, MATMUL


@pytest.mark.skipif(gpu_count() > 0, reason="a GPU's tests run the contests themselves")
class TestContests:
    """With NumPy in CuPy's place, and this package's CPU rungs."""

    @pytest.fixture(autouse=True)
    def numpy_for_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", np)
        monkeypatch.setattr(cells, "TOKENS", 80)
        self.here = {"cupy"}
        monkeypatch.setattr(peers, "missing", lambda name: "" if name in self.here else "absent")

    @staticmethod
    def enter(operation, dtype="float32", patterns=(), **size):
        (rung,) = (r for r in LADDER if r.operation == operation and not r.on_gpu)
        return rung.name, contests.contest(Cell(operation, dtype, **size), [rung], patterns)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("operation", [FORWARD, BACKWARD])
    def test_attention(self, operation, causal, dtype):
        name, found = self.enter(operation, dtype, N=40, d=64, causal=causal)
        for call in (found.ours[name], found.peers["CuPy formula"]):
            result = call()
            assert found.check(result).ok
            wrong = result if operation == FORWARD else result[-1]
            assert wrong.dtype == np.dtype(dtype)
            wrong[-1, -1] *= wrong.dtype.type(1 + {"bfloat16": 0.1, "float32": 1e-4, "float64": 1e-13}[dtype])
            assert not found.check(result).ok

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("operation", [FORWARD, BACKWARD])
    def test_torch(self, operation, causal, dtype):
        pytest.importorskip("torch")
        self.here.add("torch")
        _, found = self.enter(operation, dtype, N=40, d=128, causal=causal)
        assert found.check(found.peers["torch math"]()).ok
        assert set(found.peers) - {"torch flash", "torch cuDNN"} == {"CuPy formula", "torch efficient", "torch math"}
        assert ("torch flash" in found.peers) == (dtype == "float16")

    @pytest.mark.parametrize("operation", [FORWARD, BACKWARD])
    def test_16_bits_are_allowed_what_tensor_cores_round(self, operation, monkeypatch):
        monkeypatch.setattr(formula, "rounded", lambda p, dtype: p * p.dtype.type(1.5))  # much, to be seen
        for dtype, expected in (("bfloat16", True), ("float32", False)):
            name, found = self.enter(operation, dtype, N=40, d=64, causal=False)
            result = found.ours[name]()
            for x in (result,) if operation == FORWARD else result:
                x *= x.dtype.type(1.25)
            assert found.check(result).ok == expected

    def test_peers_can_be_chosen(self):
        assert not self.enter(FORWARD, patterns=["torch"], N=40, d=64, causal=False)[1].peers
        assert list(self.enter(MATMUL, patterns=["cublas"], N=40)[1].peers) == ["cuBLAS"]
        assert not self.enter(MATMUL, patterns=["cupy"], N=40)[1].peers
        assert list(self.enter(SOFTMAX, patterns=["CUPY-f"], N=2**20)[1].peers) == ["CuPy formula"]

    def test_only_the_fastest(self):
        """Neither the formula, unless it is asked for, nor one mode of gradients alone."""
        how = {"N": 40, "d": 64, "causal": False, "who": FASTEST}
        name, found = self.enter(BACKWARD, **how)
        assert list(found.ours) == [name, f"{name}, deterministic"] and not found.peers
        assert all(found.check(call()).ok for call in found.ours.values())
        assert list(self.enter(FORWARD, patterns=["cupy"], **how)[1].peers) == ["CuPy formula"]

    def test_the_formula_leaves_problems_out_whose_scores_are_too_large(self, monkeypatch):
        monkeypatch.setattr(peers, "FORMULA_BYTES", 2 * 16 * 40**2 * 4 - 1)
        assert not self.enter(FORWARD, N=40, d=64, causal=False)[1].peers
        assert list(self.enter(FORWARD, N=39, d=64, causal=False)[1].peers) == ["CuPy formula"]

    @pytest.mark.parametrize("tuple_of", [True, False])
    def test_peers_with_heads_inside(self, monkeypatch, tuple_of):
        """flash_attn's arrays are (B, N, H, d), and FlashAttention-3 and -4 give LSE too."""
        x = np.random.default_rng(0).standard_normal((3, 2, 4, 6, 8))

        class Tensor(np.ndarray):
            def transpose(self, *axes):
                return self.swapaxes(*axes)

        def flash_attn_func(q, k, v, causal):
            q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
            o = reference.attention(q, k, v, causal=causal)[0].swapaxes(1, 2).view(Tensor)
            return (o, None) if tuple_of else o

        monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(flash_attn_func=flash_attn_func))
        o = peers.flash_attn_func(Cell(FORWARD, "float16", N=6, d=8, causal=True), "fake")(*x.view(Tensor))
        assert np.array_equal(o, reference.attention(*x, causal=True)[0])

    def test_matmul(self):
        name, found = self.enter(MATMUL, N=300)
        assert found.check(found.ours[name]()).ok and found.check(found.peers["cuBLAS"]()).ok
        assert not found.check(found.ours[name]() + np.float32(1e-2)).ok

    def test_softmax(self, monkeypatch):
        monkeypatch.setattr(contests, "SOFTMAX_ELEMENTS", 2**14)
        name, found = self.enter(SOFTMAX, N=50)
        assert found.check(found.ours[name]()).ok and found.check(found.peers["CuPy formula"]()).ok
        assert not found.check(found.ours[name]() * np.float32(1 + 1e-3)).ok

    def test_counts_are_of_the_cells_problem(self):
        rungs = [r for r in LADDER if r.operation == FORWARD and r.on_gpu]
        found = contests.counts(Cell(FORWARD, "float32", N=40, d=64, causal=False), rungs)
        assert {operations for operations, _ in found.values()} == {4 * 2 * 16 * 40**2 * 64}
        assert found["attention_naive"][1] > found["flash2_forward"][1] > 4 * 2 * 16 * 40 * 64 * 4

    def test_softmax_formula(self):
        x = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
        exact = reference.softmax(x.astype(np.float64))
        assert check([formula.softmax(np, x)], [exact], [exact.astype(np.float32)], "float32").ok


@pytest.mark.parametrize("causal", [False, True])
def test_the_formula_is_the_definition(causal):
    x = formula.Operands(*np.random.default_rng(0).standard_normal((4, 2, 3, 40, 8)))
    o = formula.attention(np, x, causal)
    assert np.allclose(o, reference.attention(*x[1:], causal=causal)[0], rtol=1e-12, atol=1e-14)
    for found, exact in zip(formula.gradients(np, x, causal), reference.attention_vjp(*x, causal=causal), strict=True):
        assert np.allclose(found, exact, rtol=1e-12, atol=1e-13)


STORED = (formula.unchanged, lambda p: formula.rounded(p, "bfloat16"))


def test_rounded_scores_err_more():
    x = formula.Operands(*np.random.default_rng(0).standard_normal((4, 1, 1, 40, 8)).astype(np.float32))
    exact = reference.attention(*x[1:])[0]
    errors = [np.abs(formula.attention(np, x, False, stored) - exact).max() for stored in STORED]
    assert 100 * errors[0] < errors[1] < 0.1
    exact = reference.attention_vjp(*x)[0]
    errors = [np.abs(formula.gradients(np, x, False, stored)[0] - exact).max() for stored in STORED]
    assert 100 * errors[0] < errors[1] < 0.1


class TestPeers:
    """Which peers there are, and why not."""

    def test_names(self):
        assert peers.chosen("torch flash", ["torch-fl"]) and peers.chosen("FlashAttention-3", ["flash_attention3"])
        assert not peers.chosen("torch flash", ["flash"]) and peers.chosen("anything", [])
        assert not peers.unknown(["torch", "CUPY", "flex"])
        message = peers.unknown(["torch", "nobody"])
        assert "begins with nobody " in message and all(name in message for name in peers.PEERS)

    def test_what_cannot_be_imported(self, monkeypatch, tmp_path):
        (tmp_path / "broken_peer.py").write_text("raise OSError('undefined symbol\\nand more')")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert peers.missing("broken_peer") == "OSError: undefined symbol"
        assert peers.missing("no_such_peer").startswith("ModuleNotFoundError") and not peers.missing("json")

    def test_a_torch_without_a_gpu_takes_no_part(self, monkeypatch):
        for available, expected in ((False, "this torch has no GPU"), (True, "")):
            peers.missing.cache_clear()
            fake = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda available=available: available))
            monkeypatch.setitem(sys.modules, "torch", fake)
            assert peers.missing("torch") == expected
        peers.missing.cache_clear()

    def test_asking_for_an_absent_peer_says_why(self, monkeypatch):
        monkeypatch.setattr(peers, "missing", lambda module: "" if module == "cupy" else f"no {module}")
        assert not peers.unusable(["cupy"]) and not peers.unusable([])
        message = peers.unusable(["fa", "flash-attn", "cupy"]) or ""
        assert "flash-attn" in message and "no flash_attn.flash_attn_interface" in message
        assert "importable are CuPy formula, cuBLAS" in message

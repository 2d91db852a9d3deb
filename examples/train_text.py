# %% [markdown]
# # A language model, trained from nothing
# A causal transformer of about 110,000 weights learns to continue Python's reference, the topics that `help()` knows,
# one character after another. Every gradient is written by hand, in the style of `flash_attention_vjp`: a layer
# returns its result and the pullback that takes the gradient of the result to those of the inputs.
#
# It is array code for NumPy and CuPy alike. The loss on text that it never saw falls below 1.75 nats a character in the
# 600 steps that it makes by default, a minute or so on two CPU cores; a guess among all characters has 4.6. A twin
# that trains on the plain formula has the same losses: to 1e-12 in float64; in float32 to 1e-4 for the first steps,
# until training has made the last bit's difference a larger one.
#
#     python examples/train_text.py                      # --device cupy, --steps 5000
#     python examples/train_text.py --compare --steps 50 # beside a twin that trains on the plain formula
#     python examples/train_text.py --tensor-cores       # attention in bfloat16, all else as before

# %%
import argparse
import importlib
import time
from functools import partial
from pydoc_data.topics import topics

import numpy as np
from ml_dtypes import bfloat16

from numba_flash import flash_attention_vjp

LAYERS, HEADS, WIDTH, LENGTH, BATCH = 2, 4, 64, 128, 16
LEARNING_RATE, WARM_UP = 6e-3, 30

# %% [markdown]
# ## The text
# About half a million characters; the last tenth is held out. A token is the place of a character in the alphabet.

# %%
TEXT = "\n".join(topics[name] for name in sorted(topics))
ALPHABET = sorted(set(TEXT))
CODE = {character: token for token, character in enumerate(ALPHABET)}
TOKENS = np.array([CODE[character] for character in TEXT])
TRAINING, HELD_OUT = np.split(TOKENS, [len(TOKENS) * 9 // 10])


def draw_batch(rng, text):
    """Tokens (BATCH, LENGTH) from random places, and the tokens that follow each of them."""
    rows = rng.integers(len(text) - LENGTH, size=(BATCH, 1)) + np.arange(LENGTH + 1)
    return text[rows[:, :-1]], text[rows[:, 1:]]


# %% [markdown]
# ## Layers


# %%
def linear(x, W):
    """x W for x (..., n) and W (n, m)."""

    def pullback(dy):
        return dy @ W.T, x.reshape(-1, W.shape[0]).T @ dy.reshape(-1, W.shape[1])

    return x @ W, pullback


def rms_norm(x, g):
    """g x / sqrt(mean(x^2)), along the last axis."""
    r = ((x * x).mean(axis=-1, keepdims=True) + 1e-5) ** -0.5
    y = x * r

    def pullback(dy):
        dy_g = dy * g
        return r * (dy_g - y * (dy_g * y).mean(axis=-1, keepdims=True)), (dy * y).reshape(-1, g.size).sum(axis=0)

    return y * g, pullback


def mlp(x, W_in, W_out):
    """relu(x W_in) W_out."""
    h, pull_in = linear(x, W_in)
    h = h.clip(0, None)
    y, pull_out = linear(h, W_out)

    def pullback(dy):
        dh, dW_out = pull_out(dy)
        dx, dW_in = pull_in(dh * (h > 0))
        return dx, dW_in, dW_out

    return y, pullback


def attention(x, W_in, W_out, attend):
    """Rows x W_in are q, k and v of all heads side by side; `attend` reads (B, H, N, d) views of them in place."""
    B, N, C = x.shape
    rows, pull_in = linear(x, W_in)
    q, k, v = rows.reshape(B, N, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
    o, pull_heads = attend(q, k, v)
    y, pull_out = linear(o.swapaxes(1, 2).reshape(B, N, C), W_out)

    def pullback(dy):
        do, dW_out = pull_out(dy)
        gradients = pull_heads(do.reshape(B, N, HEADS, -1).swapaxes(1, 2))
        drows = np.stack(gradients).transpose(1, 3, 0, 2, 4).reshape(B, N, 3 * C)  # NumPy passes CuPy arrays on to CuPy
        dx, dW_in = pull_in(drows)
        return dx, dW_in, dW_out

    return y, pullback


def residual(layer, x, g, *weights):
    """x + layer(rms_norm(x))."""
    h, pull_norm = rms_norm(x, g)
    y, pull_layer = layer(h, *weights)

    def pullback(dy):
        dh, *dweights = pull_layer(dy)
        dx, dg = pull_norm(dh)
        return dy + dx, dg, *dweights

    return x + y, pullback


# %% [markdown]
# ## Attention, three times
# Positions enter through ALiBi alone: head h sees a key at distance n with its score lowered by slope[h] * n.


# %%
def flash(xp, dtype):
    """Attention that keeps o and one number a row for its gradients."""
    slopes = xp.asarray(alibi_slopes(), dtype)
    return partial(flash_attention_vjp, causal=True, alibi_slopes=slopes)


def on_tensor_cores(xp, dtype, kernel="auto"):
    """The same in bfloat16, which tensor cores multiply; their sums are float32."""
    slopes = xp.asarray(alibi_slopes(), dtype)

    def attend(q, k, v):
        q, k, v = (x.astype(bfloat16) for x in (q, k, v))
        o, pullback = flash_attention_vjp(q, k, v, causal=True, alibi_slopes=slopes, kernel=kernel)
        return o.astype(dtype), lambda do: [gradient.astype(dtype) for gradient in pullback(do.astype(bfloat16))]

    return attend


def naive(xp, dtype):
    """The plain formula, which keeps P (B, H, N, N)."""
    slopes = xp.asarray(alibi_slopes(), dtype)[:, None, None]

    def attend(q, k, v):
        i = xp.arange(q.shape[-2])
        distance, scale = i[:, None] - i, q.shape[-1] ** -0.5
        s = xp.where(distance >= 0, scale * (q @ k.swapaxes(-1, -2)) - slopes * distance.astype(dtype), -xp.inf)
        p = xp.exp(s - s.max(axis=-1, keepdims=True))
        p = p / p.sum(axis=-1, keepdims=True)

        def pullback(do):
            dp = do @ v.swapaxes(-1, -2)
            ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
            return scale * ds @ k, scale * ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ do

        return p @ v, pullback

    return attend


def alibi_slopes():
    """1/4, 1/16, 1/64, 1/256 for four heads: Press et al. 2021, arXiv:2108.12409."""
    return 2.0 ** (-8 * np.arange(1, HEADS + 1) / HEADS)


# %% [markdown]
# ## The model
# Embedding, then in each layer attention and an MLP, then one score for each character of the alphabet.


# %%
def new_weights(xp, dtype, seed=0):
    """Weights by name; matrices start with entries of variance 1/n, those that add to the residual a bit smaller."""
    rng = np.random.default_rng(seed)
    shapes = {"embedding": (len(ALPHABET), WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"{i}.attention.in": (WIDTH, 3 * WIDTH), f"{i}.attention.out": (WIDTH, WIDTH)}
        shapes |= {f"{i}.mlp.in": (WIDTH, 4 * WIDTH), f"{i}.mlp.out": (4 * WIDTH, WIDTH)}
    shapes["last.out"] = (WIDTH, len(ALPHABET))
    weights = {
        name: xp.asarray(rng.standard_normal(shape) * shape[0] ** -0.5 / (2 if name.endswith("out") else 1), dtype)
        for name, shape in shapes.items()
    }
    norms = [f"{i}.{part}.norm" for i in range(LAYERS) for part in ("attention", "mlp")]
    return weights | {name: xp.ones(WIDTH, dtype) for name in (*norms, "last.norm")}


def language_model(weights, inputs, attend):
    """Scores (B, N, characters) of what follows, for one-hot inputs of that shape.

    The pullback takes the gradient of the scores to a dict of gradients, with the names of the weights.
    """
    x, pull_embedding = linear(inputs, weights["embedding"])
    blocks = []
    for i in range(LAYERS):
        for part, layer in (("attention", partial(attention, attend=attend)), ("mlp", mlp)):
            names = [f"{i}.{part}.{name}" for name in ("norm", "in", "out")]
            x, pull = residual(layer, x, *(weights[name] for name in names))
            blocks.append((names, pull))
    h, pull_norm = rms_norm(x, weights["last.norm"])
    scores, pull_out = linear(h, weights["last.out"])

    def pullback(dscores):
        gradients = {}
        dh, gradients["last.out"] = pull_out(dscores)
        dx, gradients["last.norm"] = pull_norm(dh)
        for names, pull in reversed(blocks):
            dx, *dweights = pull(dx)
            gradients.update(zip(names, dweights, strict=True))
        _, gradients["embedding"] = pull_embedding(dx)
        return gradients

    return scores, pullback


def cross_entropy(scores, targets):
    """The mean over all places of -log softmax(scores) at the one-hot target, in nats, and its gradient."""
    count = scores.size // scores.shape[-1]
    shifted = scores - scores.max(axis=-1, keepdims=True)
    e = np.exp(shifted)
    l = e.sum(axis=-1, keepdims=True)
    loss = ((np.log(l) - shifted) * targets).sum() / count
    return loss, (e / l - targets) / count


# %% [markdown]
# ## Training


# %%
class Adam:
    """Kingma & Ba 2014, arXiv:1412.6980, Algorithm 1; it changes the weights in place."""

    def __init__(self, weights, beta1=0.9, beta2=0.99):
        self.weights, self.beta1, self.beta2, self.t = weights, beta1, beta2, 0
        self.m, self.v = ({name: 0 * w for name, w in weights.items()} for _ in range(2))

    def step(self, gradients, rate):
        """One step with this learning rate."""
        self.t += 1
        for name, g in gradients.items():
            m, v = self.m[name], self.v[name]
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            m_hat, v_hat = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
            self.weights[name] -= rate * m_hat / (v_hat**0.5 + 1e-8)


class Trainer:
    """A model with its optimizer and its own stream of batches."""

    def __init__(self, make_attend=flash, xp=np, dtype=np.float32, seed=0):
        self.xp, self.attend, self.rng = xp, make_attend(xp, dtype), np.random.default_rng(seed)
        self.weights, self.one_hot = new_weights(xp, dtype, seed), xp.eye(len(ALPHABET), dtype=dtype)
        self.adam = Adam(self.weights)

    def batch(self, rng, text):
        """One-hot inputs and targets."""
        return (self.one_hot[self.xp.asarray(tokens)] for tokens in draw_batch(rng, text))

    def step(self, rate):
        """Take one step; the loss before it."""
        inputs, targets = self.batch(self.rng, TRAINING)
        scores, pullback = language_model(self.weights, inputs, self.attend)
        loss, dscores = cross_entropy(scores, targets)
        self.adam.step(pullback(dscores), rate)
        return float(loss)

    def held_out_loss(self, batches=8):
        """The mean loss over the same few batches of the text that is not trained on."""
        rng, losses = np.random.default_rng(0), []
        for _ in range(batches):
            inputs, targets = self.batch(rng, HELD_OUT)
            scores, _ = language_model(self.weights, inputs, self.attend)
            losses.append(float(cross_entropy(scores, targets)[0]))
        return np.mean(losses)

    def continue_text(self, text, count, temperature=0.6, seed=0):
        """`text` with `count` more characters, each drawn from the model's probabilities."""
        rng = np.random.default_rng(seed)
        for _ in range(count):
            tokens = self.xp.asarray([[CODE[character] for character in text[-LENGTH:]]])
            scores, _ = language_model(self.weights, self.one_hot[tokens], self.attend)
            scores = np.array(scores[0, -1].tolist()) / temperature
            p = np.exp(scores - scores.max())
            text += ALPHABET[rng.choice(len(ALPHABET), p=p / p.sum())]
        return text


def learning_rate(step, steps):
    """Up in a straight line, then down along a cosine."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 1) * (0.55 + 0.45 * np.cos(np.pi * step / steps))


# %%
def main(steps=600, device="numpy", dtype="float32", compare=False, tensor_cores=False):
    """Train, print losses and a sample, and return the losses of each step and the last held-out loss."""
    xp = importlib.import_module(device)
    trainers = {"numba_flash": Trainer(on_tensor_cores if tensor_cores else flash, xp, dtype)} | (
        {"naive formula": Trainer(naive, xp, dtype)} if compare else {}
    )
    model = trainers["numba_flash"]
    losses = {name: [] for name in trainers}
    print(f"{sum(w.size for w in model.weights.values()):,} weights, {len(TRAINING):,} characters to learn from")
    model.held_out_loss(batches=1)  # compiles
    start = time.perf_counter()
    for step in range(steps):
        for name, trainer in trainers.items():
            losses[name].append(trainer.step(learning_rate(step, steps)))
        if step % 50 == 0 or step == steps - 1:
            now = "  ".join(f"{name} {values[-1]:.4f}" for name, values in losses.items())
            print(f"step {step:5}  {time.perf_counter() - start:6.1f} s  loss {now}")
    held_out = model.held_out_loss()
    print(f"loss on held-out text {held_out:.3f} nats a character")
    if compare:
        print(f"largest difference of the two losses {np.abs(np.subtract(*losses.values())).max():.1e}")
    print("\n" + model.continue_text("The statement ", 300 if steps > 100 else 40))
    return {"losses": losses, "held_out": held_out, "model": model}


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--device", choices=["numpy", "cupy"], default="numpy")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--compare", action="store_true", help="train a twin on the plain formula, step by step")
    parser.add_argument("--tensor-cores", action="store_true", help="attention in bfloat16")
    main(**vars(parser.parse_args()))

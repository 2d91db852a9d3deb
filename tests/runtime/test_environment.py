"""What a compiled kernel's key is made of beside the kernel: sources, compilers, switches."""

import os
import sys
from importlib import metadata

import pytest

from numba_flash.runtime import environment as module
from numba_flash.runtime.environment import environment, source_digest, sources


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """No compilers, toolkits or switches but those of the test."""
    for name in (*module.SWITCHES, "CONDA_PREFIX", "CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    (tmp_path / "packages").mkdir()
    environment.cache_clear()
    yield environment.__wrapped__
    environment.cache_clear()


def test_installed_compilers_are_found():
    """By the names of folders, as the standard library finds them by reading all of them."""
    wanted = ("numba", "numba-cuda", "llvmlite", "numpy", "cuda-core", "cuda-bindings", "nvidia-nvvm")
    wanted += ("nvidia-nvjitlink", "nvidia-cuda-nvrtc", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12")
    found = [part.removesuffix(".dist-info") for part in environment() if part.endswith(".dist-info")]
    for name in wanted:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        assert f"{name.replace('-', '_')}-{version}" in found


@pytest.mark.parametrize(
    "name",
    ["numba-0.99.0", "numba_cuda-0.31", "llvmlite-1", "nvidia_nvvm-13.5.1", "nvidia_cuda_nvcc_cu12-12.9.86",
     "nvidia_nvjitlink_cu12-12.9.86", "cuda_core-2.0", "numpy-2.4.6"],
)  # fmt: skip
def test_a_compiler_makes_a_difference(name, clean, tmp_path):
    before = clean()
    (tmp_path / "packages" / f"{name}.dist-info").mkdir()
    assert set(clean()) - set(before) == {f"{name}.dist-info"}


@pytest.mark.parametrize(
    "name", ["numbers-1", "torch-2.13.0", "nvidia_cudnn_cu12-9.1", "numpydoc-1.8", "numba_flash-1"]
)
def test_other_packages_make_none(name, clean, tmp_path):
    before = clean()
    (tmp_path / "packages" / f"{name}.dist-info").mkdir()
    assert clean() == before


def test_folders_that_are_not_there(clean, monkeypatch):
    before = clean()
    monkeypatch.setattr(sys, "path", ["", "/nowhere", __file__])
    assert clean() == before


def test_toolkits_and_conda(clean, monkeypatch, tmp_path):
    seen = [clean()]
    for name in ("CUDA_HOME", "CUDA_PATH"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "version.json").write_text(f'{{"nvcc": "of {name}"}}')
        monkeypatch.setenv(name, str(tmp_path / name))
        seen.append(clean())
    (tmp_path / "conda" / "conda-meta").mkdir(parents=True)
    for name in ("cuda-nvvm-impl-13.0.88-h1.json", "libnvjitlink-13.0.88-h2.json"):
        (tmp_path / "conda" / "conda-meta" / name).touch()
        monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
        seen.append(clean())
    (tmp_path / "conda" / "conda-meta" / "libcurl-8.json").touch()
    assert clean() == seen[-1] and len(set(seen)) == 5
    assert '{"nvcc": "of CUDA_PATH"}' in seen[-1]


@pytest.mark.parametrize("name", module.SWITCHES)
def test_switches(name, clean, monkeypatch):
    seen = {clean()}
    for value in ("0", "1"):
        monkeypatch.setenv(name, value)
        seen.add(clean())
    assert len(seen) == 3


def test_pythons_are_told_apart(clean, monkeypatch):
    before = clean()
    monkeypatch.setattr(sys, "implementation", type("Other", (), {"cache_tag": "cpython-399"}))
    assert clean() != before


class TestSources:
    """On a copy of the package."""

    @pytest.fixture(autouse=True)
    def package(self, monkeypatch, tmp_path):
        for file in module.PACKAGE.rglob("*.py"):
            copy = tmp_path / "numba_flash" / file.relative_to(module.PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        monkeypatch.setattr(module, "PACKAGE", tmp_path / "numba_flash")
        return tmp_path / "numba_flash"

    def test_an_edit_makes_a_difference(self, package):
        seen = {source_digest()}
        for name in ("tiling.py", "device/softmax.py", "kernels/passes/delta.py", "ptx/copies.py", "runtime/launch.py"):
            with open(package / name, "ab") as file:
                file.write(b"\n")
            seen.add(source_digest())
        assert len(seen) == 6

    def test_other_sources_make_none(self, package):
        before = source_digest()
        for name in module.NOT_COMPILED:
            (package / name / "__init__.py").write_text("edited")
        (package / "kernels" / "notes.txt").touch()
        (package / "kernels" / "__pycache__").mkdir(exist_ok=True)
        assert source_digest() == before

    def test_moved_text_makes_a_difference(self, package):
        """What ends one file may begin the next."""
        a, b = package / "kernels" / "a.py", package / "kernels" / "b.py"
        seen = set()
        for texts in ((b"x\n", b"y\n"), (b"x\ny\n", b""), (b"", b"x\ny\n")):
            a.write_bytes(texts[0])
            b.write_bytes(texts[1])
            seen.add(source_digest())
        os.replace(a, package / "kernels" / "c.py")
        assert len(seen | {source_digest()}) == 4

    def test_every_folder_of_the_list_exists(self, package):
        assert all((package / name).is_dir() for name in module.NOT_COMPILED)
        assert package / "kernels" / "flash2_forward.py" in sources()

"""torchaudio, and with it diffusers and transformers, can be imported where its extension was built for another torch."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with a torchaudio whose extension fails, beside the entry points that this package installs."""
    extension = tmp_path / "torchaudio" / "_extension"
    extension.mkdir(parents=True)
    (extension.parent / "__init__.py").write_text("from . import _extension\n")
    (extension / "__init__.py").write_text("loaded = True\nraise OSError('libcudart.so.13: cannot open it')\n")
    metadata = tmp_path / "installed-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 0\n")
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["torch.backends"]
    lines = ["[torch.backends]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_importing_torch_alone_lets_torchaudio_be_imported(environment: dict[str, str]) -> None:
    # torch calls the entry point; diffusers and transformers import torch before torchaudio.
    done = run("import torch, torchaudio; print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)", environment)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_importing_the_package_alone_does_too_and_the_reason_is_kept(environment: dict[str, str]) -> None:
    code = "import riffusion_train, torchaudio, sys; assert 'torch' not in sys.modules\n"
    code += "from riffusion_train.torchaudio_guard import extension_error; print(extension_error())"
    done = run(code, environment)
    assert (done.returncode, done.stdout.strip()) == (0, "libcudart.so.13: cannot open it"), done.stderr


def test_an_extension_that_works_is_used(environment: dict[str, str]) -> None:
    folder = Path(environment["PYTHONPATH"].split(":")[0])
    (folder / "torchaudio" / "_extension" / "__init__.py").write_text("works = True\n")
    code = "import riffusion_train, torchaudio; print(torchaudio._extension.works)\n"
    code += "from riffusion_train.torchaudio_guard import extension_error; assert extension_error() is None"
    done = run(code, environment)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr

"""Commands import what they use: a command that makes one clip needs no compiler, no trainer, no trackers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.nano import NANO_MODEL, write_dataset
from support.sampling import write_nano_model

UNUSED = {
    "accelerate", "bitsandbytes", "datasets", "hydra._internal.hydra", "librosa", "pandas", "peft", "scipy.signal", "sklearn",
    "sympy", "tensorboard", "torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor",
    "torch.onnx", "torchvision", "wandb",
    "riffusion_train.training", "riffusion_train.evaluation", "riffusion_train.listening", "data_prep",
}  # fmt: skip
"""What neither a sample nor a served player has a use for."""


def imported_by(code: str, folder: Path) -> set[str]:
    """Return the names of `UNUSED` that a Python program imports."""
    code += f"\nimport json, sys; print('imported:', json.dumps([name for name in {sorted(UNUSED)!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("imported:")[2]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano_model(tmp_path_factory.mktemp("models") / "nano")


@pytest.mark.parametrize("more", [[], ["mode=loop", "duration=2"]], ids=["text", "loop"])
def test_a_sample_imports_only_what_it_uses(model: Path, tmp_path: Path, more: list[str]) -> None:
    words = ["sample", str(model), "--prompt", "a", f"out={tmp_path}", "num_inference_steps=1", "device=cpu", *more]
    code = f"from riffusion_train.cli.main import main; assert main({words!r}) == 0"
    assert imported_by(code, tmp_path) == set()
    assert list(tmp_path.glob("*.wav"))


def test_a_player_that_is_ready_has_imported_only_what_it_uses(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    words = ["play", str(model), "port=0", "num_inference_steps=1", "device=cpu"]
    # It stops itself as soon as it serves.
    code = (
        "from riffusion_train.player import serve\n"
        "serve.Server.run = lambda self, sockets: None\n"
        f"from riffusion_train.cli.main import main; assert main({words!r}) == 0"
    )
    assert imported_by(code, tmp_path) == set()


def test_an_export_imports_no_compiler_and_no_trackers(tmp_path: Path) -> None:
    from riffusion_train.cli.main import main

    data = write_dataset(tmp_path / "data")
    words = ["train", f"dataset={data}", *NANO_MODEL, f"run={tmp_path / 'run'}", "max_train_steps=1", "tracker=files"]
    assert main(words) == 0
    words = ["export", f"run={tmp_path / 'run'}", f"out={tmp_path / 'model'}"]
    code = f"from riffusion_train.cli.main import main; assert main({words!r}) == 0"
    assert imported_by(code, tmp_path) <= {"riffusion_train.training", "accelerate", "peft", "pandas", "scipy.signal"}


def test_the_compiler_learns_of_the_networks_before_one_is_compiled(tmp_path: Path) -> None:
    code = (
        "from riffusion_train.model.light_imports import import_networks, tell_compiler\n"
        "import sys; import_networks(); assert 'torch._dynamo' not in sys.modules\n"
        "from diffusers.models.attention import BasicTransformerBlock as block\n"
        "tell_compiler()\n"
        "import torch._dynamo, torch._dynamo.trace_rules as rules; assert torch._dynamo.__file__\n"
        "assert rules.is_callable_allowed(block)\n"
        "from transformers.masking_utils import TransformGetItemToIndex as context\n"
        "from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex as real\n"
        "assert isinstance(context(), real)"
    )
    assert "torch._dynamo" in imported_by(code, tmp_path)

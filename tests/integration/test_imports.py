"""Commands import what they use: a command that makes one clip needs no compiler, no trainer, no trackers."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from support.sampling import write_nano_model

UNUSED = {
    "bitsandbytes", "datasets", "librosa", "pandas", "peft", "scipy.optimize", "scipy.signal", "scipy.stats", "sklearn",
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


def test_samples_and_a_player_that_is_ready_have_imported_only_what_they_use(tmp_path: Path) -> None:
    model = str(write_nano_model(tmp_path / "nano"))
    options = ["num_inference_steps=1", "device=cpu"]
    sample = ["sample", model, "--prompt", "a", f"out={tmp_path}", *options]
    code = (
        "from riffusion_train.cli.main import main\n"
        f"assert main({sample!r}) == 0\n"
        f"assert main({[*sample, 'mode=loop', 'duration=2']!r}) == 0\n"
    )
    if importlib.util.find_spec("fastapi") is not None:
        code += (
            "from riffusion_train.player import serve\n"
            "serve.Server.run = lambda self, sockets: None\n"  # it ends as soon as it could serve
            f"assert main({['play', model, 'port=0', *options]!r}) == 0"
        )
    assert imported_by(code, tmp_path) == set()
    assert len(list(tmp_path.glob("*.wav"))) == 2


def test_an_export_needs_no_compiler_and_no_trackers(tmp_path: Path) -> None:
    code = (
        "from riffusion_train.cli.model import quieten_libraries; quieten_libraries()\n"
        "import riffusion_train.cli.export, riffusion_train.export.write"
    )
    assert imported_by(code, tmp_path) <= {"riffusion_train.training", "riffusion_train.listening"}


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

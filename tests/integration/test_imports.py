"""Commands import what they use: a command that makes one clip needs no trainer, no judge, no trackers."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from support.sampling import write_nano_model

UNUSED = {
    "datasets", "librosa", "scipy.signal", "sklearn", "tensorboard", "torchvision", "wandb",
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


def test_an_export_needs_no_judge_and_no_trackers(tmp_path: Path) -> None:
    code = (
        "from riffusion_train.cli.model import quieten_libraries; quieten_libraries()\n"
        "import riffusion_train.cli.model, riffusion_train.export.write"
    )
    assert imported_by(code, tmp_path) <= {"riffusion_train.training", "riffusion_train.listening"}

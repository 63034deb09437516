"""A model that says how it is best sampled."""

import json
from pathlib import Path

import pytest

from riffusion_train.cli.main import main
from riffusion_train.config.denoising import RecommendedConfig, SchedulerName
from riffusion_train.config.model import ExportFormat, ExportWeights
from riffusion_train.config.sample import PlayConfig, SamplerConfig
from riffusion_train.evaluation.grid import find_models
from riffusion_train.export.write import export_run
from riffusion_train.model.loading import open_model
from riffusion_train.player.settings import make_settings
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.run_model import load_guide

CHOICE = RecommendedConfig(guidance_scale=2.0, scheduler=SchedulerName.euler, num_inference_steps=3)


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recommended") / "model"
    export_run(run, out, recommended=CHOICE)
    return out


@pytest.mark.parametrize("kind", [ExportFormat.diffusers, ExportFormat.single_file])
def test_an_export_carries_what_it_recommends(kind: ExportFormat, run: Path, tmp_path: Path) -> None:
    out = tmp_path / ("m.safetensors" if kind is ExportFormat.single_file else "m")
    export_run(run, out, kind=kind, recommended=CHOICE)
    assert open_model(str(out)).skeleton.sampling == {
        "guidance_scale": 2.0,
        "scheduler": SchedulerName.euler,
        "num_inference_steps": 3,
    }


def test_the_command_samples_as_the_model_recommends_unless_told_otherwise(model: Path, tmp_path: Path) -> None:
    words = ["sample", str(model), "--prompt", "a", f"out={tmp_path}", "quality=draft", "device=cpu"]
    assert main(words) == 0
    assert main([*words, "guidance_scale=4", "num_inference_steps=2"]) == 0
    first, second = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json")))
    assert (first["guidance_scale"], first["scheduler"], first["num_inference_steps"]) == (2.0, "euler", 3)
    assert (second["guidance_scale"], second["scheduler"], second["num_inference_steps"]) == (4.0, "euler", 2)
    clip = sorted(tmp_path.glob("*.wav"))[0]
    assert main(["sample", "--again", str(clip), f"out={tmp_path / 'again'}"]) == 0
    assert next((tmp_path / "again").glob("*.wav")).read_bytes() == clip.read_bytes()


def test_player_and_grid_take_what_the_model_recommends(model: Path) -> None:
    settings = make_settings(PlayConfig(), Sampler.load(model, device="cpu", num_inference_steps=5))
    assert (settings.guidance_scale, settings.num_inference_steps) == (2.0, 5)
    (found,) = find_models([str(model)], "all", ExportWeights.ema)
    command = found.command("a", "", 0, SamplerConfig(num_inference_steps=4))
    assert "guidance_scale=2 num_inference_steps=4 scheduler=euler" in command


def test_a_checkpoint_of_the_run_is_a_guide(run: Path, model: Path, tmp_path: Path) -> None:
    guide = run / "checkpoints" / "step-000002"
    assert load_guide(str(guide)).source == str(guide)
    words = ["sample", str(model), "--prompt", "a", f"out={tmp_path}", "quality=draft", "device=cpu", f"guide={guide}"]
    assert main(words) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert record["guide"] == str(guide) and record["guide_fingerprint"]
    clip = next(tmp_path.glob("*.wav"))
    assert main(["sample", "--again", str(clip), f"out={tmp_path / 'again'}"]) == 0
    assert next((tmp_path / "again").glob("*.wav")).read_bytes() == clip.read_bytes()

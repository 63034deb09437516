"""`method=distill` as a user runs it: it resumes exactly, and what it makes says how it is sampled."""

import json
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from support.nano import train_config, write_dataset

from riffusion_train.config.denoising import SchedulerName
from riffusion_train.config.model import ExportFormat, ExportWeights
from riffusion_train.export.write import export_run
from riffusion_train.model.loading import load_components, load_with_loras
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.training.run import run_training
from riffusion_train.training.run_model import open_run_model

WORDS = [
    "method=distill",
    "method.distill_guidance=[2,4]",
    "objective.proportion_empty_prompts=0",
    "ema.decay=0.9",
    "schedule=constant",
]
ADAPTERS = ["method.distill_adapters=true", "method.lora_rank=2"]
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def teacher(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(train_config(dataset, tmp_path_factory.mktemp("teacher") / "run", "max_train_steps=3"), [])


@pytest.fixture(scope="module")
def whole(dataset: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distilled(dataset, teacher, tmp_path_factory.mktemp("whole") / "run")


def distilled(dataset: Path, teacher: Path, run: Path, *words: str) -> Path:
    start = ["model=pretrained", f"model.path={teacher / 'final'}"]
    return run_training(train_config(dataset, run, *WORDS, "max_train_steps=4", *start, *words), [])


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_four_steps_equal_two_and_two_bit_for_bit(dataset: Path, teacher: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    distilled(dataset, teacher, run, "max_train_steps=2")
    distilled(dataset, teacher, run, "resume=auto")
    ours, theirs = load_file(run / "final" / UNET), load_file(whole / "final" / UNET)
    assert not [name for name in theirs if not ours[name].equal(theirs[name])]
    assert losses(run) == losses(whole)
    assert len(set(losses(whole))) == 4


def test_an_exported_model_says_how_it_is_sampled_here_and_in_diffusers(whole: Path, tmp_path: Path) -> None:
    export_run(whole, tmp_path / "model")
    sampler = Sampler(load_components(str(tmp_path / "model")), device="cpu")
    assert (sampler.scheduler, sampler.num_inference_steps, sampler.guidance_scale) == (SchedulerName.lcm, 4, 1.0)
    assert len(list(sampler.generate([("band 1", "", 0)]))) == 1
    pipeline = StableDiffusionPipeline.from_pretrained(str(tmp_path / "model"), safety_checker=None)
    assert type(pipeline.scheduler).__name__ == "LCMScheduler"
    assert pipeline.scheduler.config.original_inference_steps == 50
    assert "num_inference_steps=4, guidance_scale=1.0" in (tmp_path / "model" / "README.md").read_text()
    export_run(whole, tmp_path / "model.safetensors", kind=ExportFormat.single_file)
    single = load_components(str(tmp_path / "model.safetensors"))
    assert single.sampling["scheduler"] is SchedulerName.lcm
    assert type(single.scheduler).__name__ == "LCMScheduler"


def test_adapters_carry_the_sampling_to_the_model_that_they_are_merged_into(
    dataset: Path, teacher: Path, tmp_path: Path
) -> None:
    run = distilled(dataset, teacher, tmp_path / "run", *ADAPTERS)
    assert open_run_model(run, "final", ExportWeights.ema).lora is not None
    export_run(run, tmp_path / "fast.safetensors", kind=ExportFormat.lora)
    base = str(teacher / "final")
    merged = load_with_loras(base, [str(tmp_path / "fast.safetensors")])
    assert merged.sampling["scheduler"] is SchedulerName.lcm
    assert not load_components(base).sampling


def test_previews_show_every_number_of_steps(dataset: Path, teacher: Path, tmp_path: Path) -> None:
    words = ["preview.every_steps=4", "preview.step_counts=[1,2]", "preview.num_prompts=1"]
    run = distilled(dataset, teacher, tmp_path / "run", *words, "preview.guidance_scales=[1]")
    clips = [json.loads(path.read_text()) for path in sorted((run / "previews" / "step-000004").glob("*.json"))]
    assert [(clip["num_inference_steps"], clip["scheduler"]) for clip in clips] == [(1, "lcm"), (2, "lcm")]
    page = (run / "previews" / "index.html").read_text()
    assert "guidance 1 · 1 steps" in page
    assert "guidance 1 · 2 steps" in page


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["method.distill_guidance=[5]"], r"method\.distill_guidance=\[5\.0\]: give two strengths"),
        (["method.distill_guidance=[5,2]"], r"the lower first"),
        (["method.distill_num_steps=1"], r"method\.distill_num_steps=1: must be from 2"),
        (["objective.snr_gamma=5"], r"objective\.snr_gamma"),
        (["method.train_text_encoder=true"], r"trains the UNet alone"),
        (["method=full", "method.distill_adapters=true"], r"is of method=distill"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    dataset: Path, teacher: Path, tmp_path: Path, words: list[str], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        distilled(dataset, teacher, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()

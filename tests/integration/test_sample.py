import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.nano import train_config, write_dataset
from support.sampling import write_model_without_codec

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.image_file import load_image
from riffusion_train.audio.read import read_audio
from riffusion_train.cli.main import main
from riffusion_train.config.denoising import SchedulerName
from riffusion_train.export.write import export_run
from riffusion_train.runtime.errors import EXIT_INPUT
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.sampling.sources import initial_noise
from riffusion_train.training.run import run_training


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    arguments = ["max_train_steps=5", "method.train_text_encoder=true"]
    run = run_training(train_config(write_dataset(folder / "dataset"), folder / "run", *arguments), [])
    export_run(run, folder / "model")
    return folder / "model"


def sample(*arguments: str) -> int:
    return main(["sample", *arguments, "num_inference_steps=3", "device=cpu"])


def test_a_prompt_becomes_sound_image_and_settings(model: Path, tmp_path: Path) -> None:
    assert sample(str(model), "--prompt", "band 3", "--prompt", "a line", f"out={tmp_path}", "num_variations=2") == 0
    for kind in ("wav", "png", "json"):
        assert len(list(tmp_path.glob(f"*.{kind}"))) == 4
    seeds = sorted(json.loads(path.read_text())["seed"] for path in tmp_path.glob("*.json"))
    assert seeds == [0, 0, 1, 1]
    assert load_image(next(tmp_path.glob("*.png"))).config.name == "nano"


def test_the_same_seed_gives_the_same_clip_and_another_seed_another(model: Path) -> None:
    sampler = Sampler.load(model, device="cpu", num_inference_steps=3)
    first, again, other = (sampler.text_to_audio("band 3", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.audio, again.audio)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_the_prompt_the_negative_prompt_and_guidance_all_act(model: Path) -> None:
    def image(guidance_scale: float, **texts: str) -> np.ndarray:
        sampler = Sampler.load(model, device="cpu", num_inference_steps=3, guidance_scale=guidance_scale)
        return sampler.text_to_audio(texts.pop("prompt"), **texts).image

    plain = image(7.0, prompt="band 3")
    assert not np.array_equal(plain, image(7.0, prompt="a line, number 5"))
    assert not np.array_equal(plain, image(7.0, prompt="band 3", negative_prompt="a line"))
    assert not np.array_equal(plain, image(2.0, prompt="band 3"))
    assert np.array_equal(image(1.0, prompt="band 3"), image(1.0, prompt="band 3", negative_prompt="a line"))


def test_the_sound_is_the_image_inverted_as_the_model_says(model: Path) -> None:
    sampler = Sampler.load(model, device="cpu", num_inference_steps=3, target_lufs=None)
    clip = sampler.text_to_audio("band 3", seed=1)
    assert clip.rate_hz == 16000
    inner = slice(80, -80)  # the first and last 5 ms are faded, or every clip would begin and end with a click
    assert np.array_equal(clip.audio[:, inner], make_codec(clip.spectrogram).decode(clip.image, seed=1)[:, inner])
    assert np.abs(clip.audio[:, [0, -1]]).max() < 1e-3
    assert np.isfinite(clip.audio).all()


def test_the_image_is_the_one_that_the_pipeline_of_diffusers_draws(model: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="dpmsolver++", use_karras_sigmas=True
    )
    latents = initial_noise(4, (4, 8, 8))[None]
    theirs = pipeline("band 3", latents=latents, num_inference_steps=5, guidance_scale=7.0, output_type="np").images[0]
    options = {"num_inference_steps": 5, "guidance_scale": 7.0, "timesteps": "karras"}
    ours = Sampler.load(model, device="cpu", **options).text_to_audio("band 3", seed=4)
    assert np.abs(theirs.mean(axis=2) * 255 - ours.image).max() <= 1.0


def test_every_scheduler_and_format_works(model: Path, tmp_path: Path) -> None:
    kinds = ("wav", "flac", "mp3", "ogg", "opus", "wav", "flac")
    for scheduler, kind in zip(SchedulerName, kinds, strict=True):
        out = tmp_path / scheduler.value
        arguments = [f"out={out}", f"scheduler={scheduler.value}", f"format={kind}"]
        assert sample(str(model), "--prompt", "x", *arguments) == 0
        wav, _ = read_audio(next(out.glob(f"*.{kind}")))
        assert np.abs(wav).max() > 0.05


@pytest.mark.parametrize("kind", ["json", "png", "wav"])
def test_a_clip_is_made_again_from_its_own_file(model: Path, tmp_path: Path, kind: str) -> None:
    arguments = ["--negative", "a line", f"out={tmp_path / 'first'}", "seed=5", "guidance_scale=3"]
    assert sample(str(model), "--prompt", "band 2", *arguments) == 0
    file = next((tmp_path / "first").glob(f"*.{kind}"))
    assert main(["sample", "--again", str(file), f"out={tmp_path / 'second'}", "device=cpu"]) == 0
    first, second = (next((tmp_path / name).glob("*.wav")) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_a_model_that_says_nothing_of_its_codec_is_taken_for_riffusion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model_without_codec(tmp_path / "model")
    assert sample(str(model), "--prompt", "x", f"out={tmp_path / 'out'}", "quality=draft", "num_inference_steps=1") == 0
    assert "riffusion_v1 is assumed" in capsys.readouterr().err


def test_initial_noise_is_standard_normal_and_its_own_for_each_seed() -> None:
    noise = torch.stack([initial_noise(seed, (4, 64, 64)) for seed in range(4)])
    assert noise.std().item() == pytest.approx(1.0, abs=0.01)
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["MODEL", "out=o"], "no prompt: give --prompt TEXT"),
        (["MODEL", "--prompt", "x"], "sample needs out=…"),
        (["MODEL", "--prompts", "nowhere.txt", "out=o"], "no such file"),
        (["MODEL", "--promt", "x", "out=o"], "unknown flag --promt"),
        (["MODEL", "--prompt", "x", "out=o", "guidances=3"], "no such file or folder|unknown key|more than one model"),
        (["nowhere/at/all", "--prompt", "x", "out=o"], "no such file or folder"),
        (["--again", "nowhere.json", "out=o"], "no such file"),
    ],
)
def test_wrong_input_is_one_line(
    model: Path, tmp_path: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    assert sample(*[str(model) if word == "MODEL" else word for word in arguments]) == EXIT_INPUT
    message = capsys.readouterr().err
    assert re.search(complaint, message), message
    assert message.count("\n") == 1


def test_a_clip_is_made_again_with_every_option_it_was_made_with(model: Path, tmp_path: Path) -> None:
    arguments = [
        "--prompt",
        "band 2",
        "channels_last=true",
        "attention_slicing=true",
        "dtype=bf16",
        "unet_batch_size=2",
    ]
    assert sample(str(model), *arguments, f"out={tmp_path / 'first'}") == 0
    first = next((tmp_path / "first").glob("*.wav"))
    assert main(["sample", "--again", str(first), f"out={tmp_path / 'second'}", "device=cpu"]) == 0
    second = next((tmp_path / "second").glob("*.wav"))
    assert first.read_bytes() == second.read_bytes()  # the record in its tags included


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["num_inference_steps=5"], "was made with num_inference_steps=3, not num_inference_steps=5"),
        (["seed=9"], "was made with seed=0, not seed=9"),
        (["num_variations=2"], "num_variations= has no effect"),
        (["--prompt", "b"], "--prompt does not go with --again"),
    ],
)
def test_what_contradicts_the_clip_to_make_again_is_refused(
    model: Path, tmp_path: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(str(model), "--prompt", "band 2", f"out={tmp_path}") == 0
    again = ["sample", "--again", str(next(tmp_path.glob("*.json"))), f"out={tmp_path / 'again'}", "device=cpu"]
    assert main([*again, "num_inference_steps=3", "batch_size=1"]) == 0
    assert main([*again, *arguments]) == EXIT_INPUT
    assert complaint in capsys.readouterr().err

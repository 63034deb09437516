"""The demo's plan: the commands that lead from nothing to sampled music, in order."""

import math
from collections.abc import Callable
from pathlib import Path

from riffusion_train.config.demo import DemoConfig
from riffusion_train.demo.steps import Step
from riffusion_train.runtime.provenance import usable_cores

NUM_CLIPS = 1800
NUM_SAMPLES = 96
GUIDANCE_SCALE = 5.0
NUM_INFERENCE_STEPS = 20
VALIDATION_RATIO = 0.18

_PROGRAM = "riffusion_train"
_VAE_STEPS, _UNET_STEPS = 500, 2100  # of conf/experiment/demo_vae.yaml and demo.yaml, at scale 1
_FEWEST_CLIPS, _FEWEST_STEPS, _FEWEST_SAMPLES = 24, 4, 4


class DemoFolder:
    """Where the demo puts things."""

    def __init__(self, path: Path, audio_dir: Path | None) -> None:
        self.path = path
        self.audio = audio_dir or path / "audio"
        self.dataset = path / "dataset"
        self.vae_run = path / "vae"
        self.run = path / "run"
        self.model = path / "model"
        self.prompts = path / "prompts.txt"
        self.samples = path / "samples"


def plan_steps(config: DemoConfig, folder: DemoFolder, write_prompts: Callable[[], None]) -> list[Step]:
    """Return the demo's commands.

    Args:
        config: What the user asked for.
        folder: Where things go.
        write_prompts: Writes `folder.prompts`, once the dataset stands.
    """
    seed, threads = f"seed={config.seed}", f"num_threads={config.num_threads or usable_cores()}"
    steps = []
    if config.audio_dir is None:
        steps.append(_corpus_step(config, folder))
    steps += [
        Step(
            "prepare the dataset",
            _PROGRAM,
            (
                "prepare",
                f"audio={folder.audio}",
                f"out={folder.dataset}",
                "spectrogram=tiny",
                f"validation_ratio={VALIDATION_RATIO}",
                seed,
            ),
            folder.dataset / "stats.json",
        ),
        Step(
            "train the VAE",
            _PROGRAM,
            (
                "train",
                "experiment=demo_vae",
                f"dataset={folder.dataset}",
                f"run={folder.vae_run}",
                f"max_train_steps={_scaled(_VAE_STEPS, config.scale, _FEWEST_STEPS)}",
                "resume=auto",
                seed,
                threads,
            ),
            folder.vae_run / "final",
        ),
        Step(
            "train the UNet and the text encoder",
            _PROGRAM,
            (
                "train",
                "experiment=demo",
                f"model={folder.vae_run / 'final'}",
                f"dataset={folder.dataset}",
                f"run={folder.run}",
                f"max_train_steps={_scaled(_UNET_STEPS, config.scale, _FEWEST_STEPS)}",
                "resume=auto",
                seed,
                threads,
            ),
            folder.run / "final",
        ),
        Step("export the model", _PROGRAM, ("export", f"run={folder.run}", f"out={folder.model}"), folder.model),
        Step(
            "sample prompts and invert them to sound",
            _PROGRAM,
            (
                "sample",
                str(folder.model),
                "--prompts",
                str(folder.prompts),
                f"out={folder.samples}",
                f"guidance_scale={GUIDANCE_SCALE}",
                f"num_inference_steps={NUM_INFERENCE_STEPS}",
                "batch_size=16",
                "lane=16",
                "vary_seed=true",
                seed,
                threads,
            ),
            folder.samples,
            before=write_prompts,
        ),
    ]
    return steps


def num_samples(config: DemoConfig) -> int:
    """Return how many clips are sampled."""
    return min(NUM_SAMPLES, _scaled(NUM_SAMPLES, config.scale, _FEWEST_SAMPLES))


def _corpus_step(config: DemoConfig, folder: DemoFolder) -> Step:
    soundfont = [] if config.soundfont is None else [f"soundfont={config.soundfont}"]
    clips = _scaled(NUM_CLIPS, config.scale, _FEWEST_CLIPS)
    return Step(
        "compose and render the corpus",
        "data_prep.corpus",
        (f"out={folder.audio}", f"clips={clips}", f"seed={config.seed}", *soundfont),
        folder.audio / "metadata.jsonl",
    )


def _scaled(number: int, scale: float, fewest: int) -> int:
    return max(fewest, math.ceil(number * scale))

"""Scores of every checkpoint of a run: the same prompts and noise, the held-out loss, and the best checkpoint by a rule."""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.read import read_audio
from riffusion_train.config.sample import RunConfig
from riffusion_train.config.spectrogram import Quality
from riffusion_train.config.train import MixedPrecision
from riffusion_train.dataset.cache import CACHE_DIR
from riffusion_train.dataset.order import spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.evaluation.checkpoints import (
    LOSS,
    CheckpointScores,
    Choice,
    RunPage,
    choose,
    read_scores,
    table_rows,
    write_page,
)
from riffusion_train.evaluation.clips import ClipFile, choose_captions, clip_units, sample_clips
from riffusion_train.evaluation.grid import GridModel, find_models, option_arguments
from riffusion_train.evaluation.results import ScoredClip, rows_of_scores, rows_of_sounds
from riffusion_train.evaluation.score import clip_image
from riffusion_train.listening.distances import KERNEL_CLIPS
from riffusion_train.listening.embedder import make_embedder
from riffusion_train.listening.heard import HeardClips, hear_units
from riffusion_train.listening.judge import Judge, JudgedClip, Reference
from riffusion_train.listening.real import DecodedSlices, is_dataset, open_split, training_slices
from riffusion_train.model.components import freeze
from riffusion_train.model.weights import load_lazy_model
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.sampling.pipeline import best_device
from riffusion_train.training.method import make_method
from riffusion_train.training.run_folder import RunFolder, read_lines, step_name
from riffusion_train.training.run_model import FINAL, open_run_model
from riffusion_train.training.validation import held_out_loss

CLIPS_DIR = "clips"
_SETTINGS_VERSION = 1
"""Part of the hash of the settings: it changes where a figure is computed in another way."""


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """What `RunScoring.run` returns."""

    page: Path
    checkpoints: Sequence[CheckpointScores]
    """All that are known with these settings, in the order of their steps."""
    best: Choice
    num_scored: int
    """How many of them were scored just now."""

    def table(self) -> str:
        """Return the figures over the steps as text for a terminal."""
        rows = table_rows(self.checkpoints)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


class RunScoring:
    """One call of `evaluate run`.

    Args:
        run: The run folder.
        config: The options.
        command: The command, for the record.
        asked_to_stop: Called between pieces of work; True stops.

    Raises:
        InputError: If what it needs is not there; nothing has been computed then.
    """

    def __init__(
        self, run: str, config: RunConfig, command: str = "", asked_to_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._source, self._config, self._command, self._asked_to_stop = run, config, command, asked_to_stop
        self._run = RunFolder(Path(run).expanduser())
        self._trained_with = self._run.read_config()
        self._folder = self._run.scores
        self._out = self._folder if config.out is None else Path(config.out).expanduser()
        self._check_options()
        self._real = self._find_dataset()
        self._held_out = open_split(self._real, "validation")
        if len(self._held_out) < KERNEL_CLIPS:
            raise InputError(
                f"{self._real}: its validation split has {len(self._held_out)} slices, and KID needs at least "
                f"{KERNEL_CLIPS}; prepare it again with a larger validation_ratio"
            )
        self._trained = self._open_training()
        self._prompts = choose_captions(
            [texts[0] for row in range(len(self._held_out)) if (texts := self._held_out.captions(row))],
            config.num_clips,
        )
        self._device = config.device or best_device()
        self._embedder = make_embedder(config.embedder, config.embedder_source, self._device)
        self._models = find_models([run], config.checkpoints, config.weights)

    def run(self) -> RunEvaluation:
        """Score the checkpoints that have no scores yet, write the page, and name the best.

        Raises:
            StoppedError: If asked to stop; what is scored is kept, and the next call continues.
            InputError: If a model, a clip or a slice cannot be used.
        """
        known = {one.fingerprint: one for one in read_scores(self._folder) if one.settings == self._settings}
        missing = [model for model in self._models if model.fingerprint not in known]
        for number, model in enumerate(missing):
            scores = self._score(model)
            scores.write(self._folder, self._command, self._about())
            known[model.fingerprint] = scores
            if self._asked_to_stop() and number + 1 < len(missing):
                raise StoppedError(f"{number + 1} of {len(missing)} checkpoints are scored; the same command continues")
        ordered = sorted(known.values(), key=lambda one: (one.step, one.checkpoint == FINAL))
        best = choose([one for one in ordered if self._is_there(one)])
        best.write(self._folder)
        page = write_page(
            RunPage(
                out=self._out,
                title=self._config.title,
                command=self._command,
                about=self._about(),
                checkpoints=ordered,
                best=best,
                played=[self._played(one) for one in ordered],
            )
        )
        return RunEvaluation(page, ordered, best, len(missing))

    def _check_options(self) -> None:
        config = self._config
        for key in ("num_clips", "num_real"):
            if getattr(config, key) < KERNEL_CLIPS:
                raise InputError(f"{key}={getattr(config, key)}: KID needs at least {KERNEL_CLIPS}")
        if config.batch_size < 1:
            raise InputError(f"batch_size={config.batch_size}: must be at least 1")
        if config.num_slices is not None and config.num_slices < 1:
            raise InputError(f"num_slices={config.num_slices}: must be at least 1")
        if config.num_prompts < 0:
            raise InputError(f"num_prompts={config.num_prompts}: must be 0 or more")
        if self._out.exists() and not self._out.is_dir():
            raise InputError(f"out={self._out}: is a file; name a folder")
        if self._out.resolve() == self._run.path.resolve():
            raise InputError(f"out={self._out}: is the run itself; leave it out, or choose another folder")

    def _find_dataset(self) -> Path:
        """Return the dataset that is given, or the run's own, which must be what it was trained on."""
        if self._config.real is not None:
            given = Path(self._config.real).expanduser()
            if not is_dataset(given):
                raise InputError(f"real={given}: is no dataset folder; name one that prepare made")
            return given
        own = Path(self._trained_with.dataset).expanduser()
        if not is_dataset(own):
            raise InputError(
                f"run={self._run.path}: its dataset {own} is not there; give its new place with real=DATASET"
            )
        if not self._is_own(open_split(own, "validation")):
            raise InputError(
                f"run={self._run.path}: its dataset {own} has changed since; give what it was trained on with real=DATASET, "
                f"or take real={own} to compare with what is there now"
            )
        return own

    def _is_own(self, split: SpectrogramDataset) -> bool:
        return bool(self._run.read_manifest()["dataset"]["fingerprint"] == split.folder.fingerprint)

    def _open_training(self) -> SpectrogramDataset | None:
        if not self._config.copies or not self._held_out.folder.num_slices("train"):
            return None
        return open_split(self._real, "train")

    @functools.cached_property
    def _settings(self) -> str:
        """A hash of everything that decides the scores of a checkpoint, besides its weights."""
        config = self._config
        names = (
            "weights",
            "embedder",
            "embedder_source",
            "seed",
            "num_real",
            "real_quality",
            "copies",
            "num_slices",
            "num_clips",
        )
        deciding = {name: str(getattr(config, name)) for name in names}
        text = json.dumps(
            [_SETTINGS_VERSION, self._held_out.folder.fingerprint, option_arguments(config), deciding], sort_keys=True
        )
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    # --- One checkpoint -----------------------------------------------------------------------------------------------

    def _score(self, model: GridModel) -> CheckpointScores:
        checkpoint = _checkpoint_of(model)
        files = sample_clips(
            model,
            self._prompts,
            self._folder / CLIPS_DIR / _folder_name(checkpoint),
            self._config,
            seed=self._config.seed,
            batch_size=self._config.batch_size,
            asked_to_stop=self._asked_to_stop,
        )
        gc.collect()  # the sampler's networks, before those of the loss are loaded
        generated = self._hear(clip_units(files), self._folder / CACHE_DIR, f"listening to {model.name}")
        if generated.failed:
            raise InputError(f"{model.name}: {generated.failed[0]}")
        scores = self._judge.score(self._judged(files, generated))
        rows = rows_of_scores(scores) + rows_of_sounds(generated.sounds, self._heard_real.sounds)
        clips = [
            ScoredClip(file, sound, score).as_json()
            for file, sound, score in zip(files, generated.sounds, scores.clips, strict=True)
        ]
        return CheckpointScores(
            checkpoint=checkpoint,
            step=model.step or 0,
            weights=self._config.weights.value,
            fingerprint=model.fingerprint,
            settings=self._settings,
            rows=rows,
            clips=clips,
            loss=self._loss(checkpoint, model),
        )

    def _judged(self, files: Sequence[ClipFile], generated: HeardClips) -> list[JudgedClip]:
        codec = None if self._trained is None else make_codec(self._trained.folder.spectrogram)
        judged = []
        for file, heard in zip(files, generated.heard, strict=True):
            sound = read_audio(file.audio)
            image = None if codec is None else clip_image(file, sound, codec)
            judged.append(JudgedClip(file.name, sound, file.captions[0], image, heard))
        return judged

    def _loss(self, checkpoint: str, model: GridModel) -> float:
        """Return the held-out loss: the one that the run measured, or else the same measured now."""
        is_ema = self._config.weights.value == "ema"
        if is_ema and self._is_own(self._held_out) and model.step in self._measured:
            return self._measured[model.step]
        opened = open_run_model(self._run.path, checkpoint, self._config.weights)
        components = load_lazy_model(opened.whole())
        freeze(components)
        components.to(torch.device(self._device))
        device = torch.device(self._device)
        method = make_method(opened.config)
        precision = opened.config.mixed_precision
        dtype = torch.bfloat16 if precision is MixedPrecision.bf16 else torch.float16
        autocast = (
            contextlib.nullcontext() if precision is MixedPrecision.no else torch.autocast(device.type, dtype=dtype)
        )
        held_out = method.make_held_out(components, self._held_out, device)
        with autocast:
            return held_out_loss(method.make_objective(components), held_out, device)

    @functools.cached_property
    def _measured(self) -> Mapping[int | None, float]:
        """The losses in the metrics of the run, by step."""
        file = self._run.metrics_file
        rows = read_lines(file)[0] if file.is_file() else []
        return {
            row["step"]: float(row[LOSS]) for row in rows if isinstance(row.get(LOSS), int | float) and "step" in row
        }

    # --- What all checkpoints are compared with, heard once -----------------------------------------------------------

    def _hear(self, units: Any, cache: Path, title: str) -> HeardClips:
        return hear_units(
            units, self._embedder, self._config.embedder_source, cache, title, asked_to_stop=self._asked_to_stop
        )

    @functools.cached_property
    def _heard_real(self) -> HeardClips:
        rows = spread(len(self._held_out), self._config.num_real)
        decoded = DecodedSlices(self._held_out, rows, self._config.real_quality, self._device)
        return self._hear(decoded.units(), self._real / CACHE_DIR, "listening to the real clips")

    @functools.cached_property
    def _judge(self) -> Judge:
        real, slices = self._heard_real, None
        if self._trained is not None:
            rows, embeddings = spread(len(self._trained), self._config.num_slices), None
            if self._config.hear_slices:
                decoded = DecodedSlices(self._trained, rows, Quality.draft, self._device)
                heard = self._hear(decoded.units(), self._real / CACHE_DIR, "listening to the training slices")
                embeddings = heard.embeddings
            slices = training_slices(self._trained, rows, embeddings)
        reference = Reference(heard=real.heard, captions=real.captions, tracks=real.tracks, slices=slices)
        return Judge(reference, self._embedder, seed=self._config.seed)

    # --- The page -----------------------------------------------------------------------------------------------------

    def _is_there(self, scores: CheckpointScores) -> bool:
        """Whether a checkpoint is still in the run; earlier ones may have been removed since."""
        if scores.checkpoint == FINAL:
            return self._run.final.is_dir()
        return (self._run.checkpoints / step_name(scores.step)).is_dir()

    def _played(self, scores: CheckpointScores) -> list[Path | None]:
        """Return the sounds that the page plays of a checkpoint, one for each prompt that it shows; None where it is gone."""
        folder = self._folder / CLIPS_DIR / _folder_name(scores.checkpoint)
        sounds = [folder / str(scores.clips[number]["file"]) for number in self._shown]
        return [sound if sound.is_file() and sound.with_suffix(".png").is_file() else None for sound in sounds]

    @property
    def _shown(self) -> list[int]:
        return spread(len(self._prompts), self._config.num_prompts)

    def _about(self) -> dict[str, Any]:
        return {
            "run": str(self._run.path),
            "weights": self._config.weights.value,
            "num_clips": self._config.num_clips,
            "real": f"{self._real}, validation split, decoded",
            "num_real": len(spread(len(self._held_out), self._config.num_real)),
            "prompts": [self._prompts[number] for number in self._shown],
            "embedder": self._embedder.name,
        }


def _checkpoint_of(model: GridModel) -> str:
    """Return how `checkpoint=` names a model of the run."""
    return FINAL if model.checkpoint is not None and f"checkpoints={FINAL}" in model.checkpoint else str(model.step)


def _folder_name(checkpoint: str) -> str:
    return FINAL if checkpoint == FINAL else step_name(int(checkpoint))

"""Clips of a model as seamless loops, each a function of its settings alone; and the time that they take."""

import collections
import contextlib
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator

import numpy as np
import torch
from torch import Tensor

from riffusion_train.audio.loudness import loudness_gain, measure_loudness
from riffusion_train.audio.marking import Mark
from riffusion_train.player.faders import LoraFaders
from riffusion_train.player.settings import ClipSpec
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import Guidance, StepReport
from riffusion_train.sampling.modes.walk import denoise_loop
from riffusion_train.sampling.sampler import TRUE_PEAK_DBTP, Sampler
from riffusion_train.sampling.sources import encode_loop, initial_noise, load_seed_image, slerp
from riffusion_train.sampling.text import Condition

_MARGIN_S = 0.4
"""A segment should be ready so long before it is played."""
_MAX_LOAD = 0.8
"""Share of the time that all streams together may take."""
_RELAXED_SEGMENTS = 1.5
"""With so many segments buffered the steps may rise again, by two at a time."""
_STEPS_UP = 2
_MIN_STEP_S = 1e-6
_CONTEXT = 2
"""Columns of latents that a change is decoded with, before those that are new."""
_COST_WEIGHT = 1 / 3
"""What the newest clip counts in the running average of the cost."""


@dataclasses.dataclass(frozen=True)
class LoopingClip:
    """A clip whose end leads into its beginning.

    Attributes:
        image: uint8 (n_mels, width) or (n_mels, width, 3).
        wav: float32 (channels, width * hop_length), at its final loudness.
        latents: What the image was decoded from, (C, h, w).
    """

    image: np.ndarray
    wav: np.ndarray
    latents: Tensor


class ClipMaker:
    """Makes looping clips and keeps the newest, since links and second listeners ask for the same ones.

    Two threads may use it: what needs the model is done under a lock, since a loop is drawn with the convolutions of a ring;
    sounds are decoded beside it.

    Args:
        sampler: The loaded model.
        loras: The faders of its LoRAs.
        max_kept: Clips that are kept.
    """

    def __init__(self, sampler: Sampler, *, loras: LoraFaders | None = None, max_kept: int = 24) -> None:
        self.sampler = sampler
        self.loras = loras
        self.model_lock = threading.RLock()
        self.cost = Cost()
        self.turn_cost = Cost()
        """What a change of a clip that plays takes."""
        self.default_steps = sampler.num_inference_steps
        self._max_kept = max_kept
        self._clips: collections.OrderedDict[ClipSpec, LoopingClip] = collections.OrderedDict()
        self._seed_latents: dict[Hashable, Tensor] = {}
        self._uploads: dict[str, np.ndarray] = {}

    @functools.cached_property
    def mark(self) -> Mark:
        """What says in files and streams that this model made them, its LoRAs included."""
        mark = self.sampler.mark
        known = [mark.dataset_fingerprint, *([] if self.loras is None else self.loras.datasets)]
        datasets = ", ".join(dict.fromkeys(one for one in known if one))
        return dataclasses.replace(mark, dataset_fingerprint=datasets or None)

    @property
    def segment_samples(self) -> int:
        """Samples of a clip."""
        config = self.sampler.codec.config
        return config.width_px * config.hop_length

    @property
    def segment_s(self) -> float:
        """Seconds of a clip."""
        return self.segment_samples / self.sampler.codec.rate_hz

    @property
    def channels(self) -> int:
        """Channels of the audio."""
        return self.sampler.codec.config.num_channels

    def keep_upload(self, id: str, wav: np.ndarray) -> None:
        """Keep audio, (channels, samples) at the codec's rate, as a seed image; audio shorter than a clip is repeated."""
        samples = self.segment_samples
        loop_wav = np.resize(wav, (len(wav), samples)) if wav.shape[1] < samples else wav[:, :samples]
        self._uploads[id] = encode_loop(loop_wav, self.sampler.codec)

    def forget_upload(self, id: str) -> None:
        """Drop an upload."""
        self._uploads.pop(id, None)
        self._seed_latents.pop(("upload", id), None)

    def make(self, spec: ClipSpec, report: StepReport | None = None) -> LoopingClip:
        """Return the clip of some settings."""
        clip = self._clips.pop(spec, None)
        if clip is None:
            clip = self._make(spec, report)
        self._clips[spec] = clip
        while len(self._clips) > self._max_kept:
            self._clips.popitem(last=False)
        return clip

    def warm_up(self) -> None:
        """Make two clips of few steps: the first one compiles what is compiled, the second one measures the cost."""
        for steps in (1, 2):
            self.cost = Cost()
            self._make(ClipSpec(num_inference_steps=steps), None)

    def draw(
        self, spec: ClipSpec, condition: Condition, other_seed: int, report: StepReport | None
    ) -> tuple[Tensor, np.ndarray]:
        """Return latents and image of a loop under a condition, between the noises of two seeds.

        Args:
            spec: The other settings; the fraction of `place` says how far the noise has moved.
            condition: What guides it.
            other_seed: The seed that the noise moves to.
            report: Called after every step.
        """
        with self.model_lock, torch.no_grad():
            self._set_loras(spec)
            latents = denoise_loop(
                self.sampler.pipeline,
                condition,
                self.ring_from(self._noise(spec, other_seed), spec.phase),
                self._groove(spec, spec.phase),
                strength=spec.strength,
                num_inference_steps=spec.num_inference_steps,
                seed=spec.seed + int(spec.place),
                guidance=self._guidance(spec),
                report=report,
            )
            return latents, self.sampler.pipeline.decode(latents, circular=True)

    def redraw(
        self, spec: ClipSpec, known: Tensor, shown: np.ndarray, held: int, column: int, report: StepReport | None
    ) -> tuple[Tensor, np.ndarray]:
        """Return latents and image of a canvas that is drawn anew, but for its first columns, which are held fast.

        After every step the held columns are put back with as much noise as the next step expects, as in RePaint (Lugmayr
        et al. 2022, arXiv:2201.09865); the others begin as the groove, or else as `known`, noised to the strength.

        Args:
            spec: The settings that are new.
            known: The latents of the canvas, (C, h, w).
            shown: Its image; the held columns stay as they are, and are not decoded again.
            held: How many of its columns are held.
            column: Its first column, counted from the beginning of the groove.
            report: Called after every step.
        """
        pipeline = self.sampler.pipeline
        with self.model_lock, torch.no_grad():
            self._set_loras(spec)
            noise = self.ring_from(self._noise(spec, spec.seed + int(spec.place) + 1), column)[None]
            groove = self._groove(spec, column)
            start = known if groove is None else torch.cat([known[..., :held], groove[..., held:]], -1)
            scheduler = pipeline.scheduler(spec.num_inference_steps)

            def hold(canvas: Tensor, next_timestep: Tensor | None) -> Tensor:
                front = known[None]
                if next_timestep is not None:
                    front = scheduler.add_noise(front, noise, next_timestep[None])
                return torch.cat([front[..., :held], canvas[..., held:]], -1)

            # At least one step, or nothing would change.
            strength = max(spec.strength, 1 / spec.num_inference_steps) if spec.strength else 0.0
            whole = strength == 1
            latents = pipeline.denoise(
                noise if whole else start[None],
                self._condition(spec),
                num_inference_steps=spec.num_inference_steps,
                strength=strength,
                noise=None if whole else noise,
                seeds=[spec.seed + int(spec.place)],
                hook=hold,
                report=report,
                guidance=self._guidance(spec),
            )[0]
            # A few held columns are decoded as well, since the first new ones depend on them.
            begin, scale = max(held - _CONTEXT, 0), pipeline.downsampling
            new = pipeline.decode(latents[..., begin:])[:, (held - begin) * scale :]
            return latents, np.concatenate([shown[:, : held * scale], new], axis=1)

    @staticmethod
    def ring_from(latents: Tensor, column: int) -> Tensor:
        """Return latents that repeat, (C, h, w), from another of their columns on."""
        return torch.roll(latents, -column, -1) if column % latents.shape[-1] else latents

    def decode(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return the audio of an image that loops, at its final loudness, float32 (channels, samples)."""
        wav = self.sampler.codec.decode_loop(image, quality=self.sampler.quality, seed=seed)
        return wav * np.float32(self.gain_of(wav))

    def gain_of(self, wav: np.ndarray) -> float:
        """Return the factor that brings a sound, (channels, samples), to its final loudness."""
        loudness = measure_loudness(wav, self.sampler.codec.rate_hz)
        return loudness_gain(*loudness, self.sampler.target_lufs, TRUE_PEAK_DBTP)

    def _make(self, spec: ClipSpec, report: StepReport | None) -> LoopingClip:
        with self.cost.measured(report) as timer:
            with self.model_lock:
                self._set_loras(spec)
                condition = self._condition(spec)
                latents, image = self.draw(spec, condition, spec.seed + int(spec.place) + 1, timer)
            return LoopingClip(image, self.decode(image, spec.seed), latents)

    def _condition(self, spec: ClipSpec) -> Condition:
        """Return the mix of the prompts of a clip."""
        prompts = [spec.prompt, spec.prompt if spec.prompt_to is None else spec.prompt_to]
        texts = [
            (prompt, spec.negative_prompt, spec.guidance_scale)
            for prompt in (*prompts, *(part.prompt for part in spec.mix))
        ]
        here, there, *others = self.sampler.pipeline.texts.equal_lengths(texts)
        return here.towards(there, spec.alpha).mixed(others, [spec.prompt_weight, *(part.weight for part in spec.mix)])

    def _guidance(self, spec: ClipSpec) -> Guidance:
        guidance = self.sampler.pipeline.guidance
        interval = (float(spec.guidance_from), guidance.interval[1])
        return dataclasses.replace(guidance, interval=interval, rescale=spec.guidance_rescale)

    def _set_loras(self, spec: ClipSpec) -> None:
        """Set the LoRA faders; states of texts that were encoded with others are dropped."""
        if self.loras is not None and self.loras.set({fader.name: fader.scale for fader in spec.loras}):
            self.sampler.pipeline.texts.forget()

    def _noise(self, spec: ClipSpec, other_seed: int) -> Tensor:
        """Return the noise of a clip at the beginning of the groove, (C, h, w)."""
        shape, whole = self.sampler.pipeline.latent_shape, int(spec.place)
        here, there = (initial_noise(seed, shape) for seed in (spec.seed + whole, other_seed))
        return slerp(here, there, spec.place - whole)

    def _groove(self, spec: ClipSpec, column: int) -> Tensor | None:
        latents = self._latents_of_seed(spec)
        return None if latents is None else self.ring_from(latents, column)

    def _latents_of_seed(self, spec: ClipSpec) -> Tensor | None:
        """Return the latents of the seed image, which are computed once; None where there is no seed image."""
        key = ("upload", spec.seed_upload) if spec.seed_upload is not None else ("built-in", spec.seed_image)
        if key[1] is None:
            return None
        if key not in self._seed_latents:
            self._seed_latents[key] = self.sampler.pipeline.encode(self._seed_image(spec))
        return self._seed_latents[key]

    def _seed_image(self, spec: ClipSpec) -> np.ndarray:
        if spec.seed_upload is None:
            assert spec.seed_image is not None
            return load_seed_image(spec.seed_image, self.sampler.codec)
        image = self._uploads.get(spec.seed_upload)
        if image is None:
            raise InputError("seed_upload: does not exist any more; upload the audio again")
        return image


class _StepTimer:
    """Times the denoising steps of a clip, and passes each report on."""

    def __init__(self, report: Callable[[int, int], None] | None) -> None:
        self._report = report
        self._first_s: float | None = None
        self._last_s = 0.0
        self._done = 0
        self.steps = 0

    def __call__(self, done: int, steps: int) -> None:
        now_s = time.perf_counter()
        if self._first_s is None:
            self._first_s = now_s
        self._last_s, self._done, self.steps = now_s, done, steps
        if self._report is not None:
            self._report(done, steps)

    @property
    def steps_s(self) -> float:
        """Seconds of all steps, from the ends of the first and the last: the first one also has the work before it."""
        if self._first_s is None or self._done < 2:
            return 0.0
        return (self._last_s - self._first_s) / (self._done - 1) * self._done


@dataclasses.dataclass
class Cost:
    """What a clip takes, in seconds of wall time, as a running average: a part that grows with the steps, and the rest.

    Attributes:
        step_s: One denoising step.
        rest_s: Everything else of a clip.
    """

    step_s: float = 0.0
    rest_s: float = 0.0
    _measured: bool = False

    @contextlib.contextmanager
    def measured(self, report: StepReport | None) -> Iterator[StepReport]:
        """Learn from what is done in the block, unless it fails.

        Args:
            report: What the yielded report of steps passes on to.
        """
        begin_s, timer = time.perf_counter(), _StepTimer(report)
        yield timer
        self.add(timer.steps, timer.steps_s, time.perf_counter() - begin_s - timer.steps_s)

    def add(self, steps: int, steps_s: float, rest_s: float) -> None:
        """Learn from a clip."""
        weight = _COST_WEIGHT if self._measured else 1.0
        self.step_s += weight * (steps_s / max(steps, 1) - self.step_s)
        self.rest_s += weight * (rest_s - self.rest_s)
        self._measured = True

    def of(self, steps: int) -> float:
        """Return the seconds that a clip with so many steps is expected to take."""
        return self.rest_s + steps * self.step_s

    def steps_within(self, time_s: float) -> int:
        """Return how many steps fit into some seconds with everything else."""
        return math.floor(max(time_s - self.rest_s, 0.0) / max(self.step_s, _MIN_STEP_S))


class StepController:
    """Lowers the denoising steps of a stream before it runs dry, and raises them again when there is time.

    Args:
        segment_s: Seconds that one clip plays.
        min_steps: It goes no lower.
    """

    def __init__(self, segment_s: float, *, min_steps: int = 4) -> None:
        self._segment_s = segment_s
        self._min_steps = min_steps
        self._steps: int | None = None
        self.behind = False
        """Whether the next segment is expected too late even with the fewest steps."""

    def steps(self, requested: int, buffered_s: float, step_s: float, rest_s: float) -> int:
        """Return the steps of the next segment.

        Args:
            requested: What the listener asked for; the result is never more.
            buffered_s: Seconds that can be played before the next segment is missed.
            step_s: What a step takes, with the turns of other streams in between.
            rest_s: What everything else takes.
        """
        last, cost = self.limited(requested), Cost(step_s, rest_s)
        affordable = cost.steps_within(buffered_s - _MARGIN_S)
        # Raised steps must also last: a segment must not take longer to make than it plays.
        sustainable = cost.steps_within(self._segment_s)
        relaxed = buffered_s >= _RELAXED_SEGMENTS * self._segment_s
        raised = min(last + _STEPS_UP, max(sustainable, last)) if relaxed else last
        fewest = min(self._min_steps, requested)
        self.behind = affordable < fewest
        self._steps = max(min(raised, affordable, requested), fewest)
        return self._steps

    def limited(self, requested: int) -> int:
        """Return the steps of something that is made out of turn: as many as the last segment had, or as were asked for."""
        return requested if self._steps is None else min(self._steps, requested)


def capacity(real_time_factor: float) -> int:
    """Return how many streams can play at once: at least one, which may have to take fewer steps.

    Args:
        real_time_factor: Seconds that a second of audio takes to make.
    """
    return max(1, math.floor(_MAX_LOAD / real_time_factor)) if real_time_factor > 0 else 1

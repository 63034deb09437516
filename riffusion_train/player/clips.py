"""Clips of a model as seamless loops, each a function of its settings alone; and the time that they take."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Hashable

import numpy as np
import torch
from torch import Tensor

from riffusion_train.audio.io.loudness import loudness_gain, measure_loudness
from riffusion_train.player.settings import ClipSpec
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.modes.walk import draw_loop
from riffusion_train.sampling.noise import initial_noise, slerp
from riffusion_train.sampling.sampler import TRUE_PEAK_DBTP, Sampler
from riffusion_train.sampling.seed_images import encode_loop, load_seed_image
from riffusion_train.sampling.text import Condition

_MARGIN_S = 0.4
"""A segment should be ready so long before it is played."""
_MAX_LOAD = 0.8
"""Share of the time that all streams together may take."""
_RELAXED_SEGMENTS = 1.5
"""With so many segments buffered the steps may rise again, by two at a time."""
_STEPS_UP = 2
_MIN_STEP_S = 1e-6
_COST_WEIGHT = 1 / 3
"""What the newest clip counts in the running average of the cost."""


@dataclasses.dataclass(frozen=True)
class LoopingClip:
    """A clip whose end leads into its beginning.

    Attributes:
        image: uint8 (n_mels, width) or (n_mels, width, 3).
        wav: float32 (channels, width * hop_length), at its final loudness.
    """

    image: np.ndarray
    wav: np.ndarray


class ClipMaker:
    """Makes looping clips and keeps the newest, since links and second listeners ask for the same ones.

    Args:
        sampler: The loaded model.
        max_kept: Clips that are kept.
    """

    def __init__(self, sampler: Sampler, *, max_kept: int = 24) -> None:
        self.sampler = sampler
        self.cost = Cost()
        self.default_steps = sampler.num_inference_steps
        self._max_kept = max_kept
        self._clips: collections.OrderedDict[ClipSpec, LoopingClip] = collections.OrderedDict()
        self._seed_latents: dict[Hashable, Tensor] = {}
        self._uploads: dict[str, np.ndarray] = {}

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

    @torch.no_grad()
    def draw(
        self, spec: ClipSpec, conditions: list[Condition], other_seed: int, report: StepReport | None
    ) -> np.ndarray:
        """Return the image of a clip between two conditions and between the noises of two seeds.

        Args:
            spec: The other settings; the fraction of `place` says how far the noise has moved.
            conditions: Where the transition begins and ends.
            other_seed: The seed that the noise moves to.
            report: Called after every step.
        """
        pipeline = self.sampler.pipeline
        whole = int(spec.place)
        seed, shape = spec.seed + whole, pipeline.latent_shape
        noise = slerp(initial_noise(seed, shape), initial_noise(other_seed, shape), spec.place - whole)
        condition = conditions[0].towards(conditions[1], spec.alpha)
        return draw_loop(
            pipeline,
            condition,
            noise,
            self._latents_of_seed(spec),
            strength=spec.strength,
            num_inference_steps=spec.num_inference_steps,
            seed=seed,
            guidance=dataclasses.replace(
                pipeline.guidance,
                interval=(float(spec.guidance_from), pipeline.guidance.interval[1]),
                rescale=spec.guidance_rescale,
            ),
            report=report,
        )

    def decode(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return the audio of an image that loops, at its final loudness, float32 (channels, samples)."""
        codec = self.sampler.codec
        wav = codec.decode_loop(image, quality=self.sampler.quality, seed=seed)
        gain = loudness_gain(*measure_loudness(wav, codec.rate_hz), self.sampler.target_lufs, TRUE_PEAK_DBTP)
        return wav * np.float32(gain)

    def _make(self, spec: ClipSpec, report: StepReport | None) -> LoopingClip:
        begin_s = time.perf_counter()
        prompts = (spec.prompt, spec.prompt if spec.prompt_to is None else spec.prompt_to)
        texts = [(prompt, spec.negative_prompt, spec.guidance_scale) for prompt in prompts]
        conditions = self.sampler.pipeline.texts.equal_lengths(texts)
        timer = _StepTimer(report)
        image = self.draw(spec, conditions, spec.seed + int(spec.place) + 1, timer)
        clip = LoopingClip(image, self.decode(image, spec.seed))
        self.cost.add(timer.steps, timer.steps_s, time.perf_counter() - begin_s - timer.steps_s)
        return clip

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

    def add(self, steps: int, steps_s: float, rest_s: float) -> None:
        """Learn from a clip."""
        weight = _COST_WEIGHT if self._measured else 1.0
        self.step_s += weight * (steps_s / max(steps, 1) - self.step_s)
        self.rest_s += weight * (rest_s - self.rest_s)
        self._measured = True

    def of(self, steps: int) -> float:
        """Return the seconds that a clip with so many steps is expected to take."""
        return self.rest_s + steps * self.step_s


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
        last = requested if self._steps is None else min(self._steps, requested)
        affordable = self._affordable(buffered_s, step_s, rest_s)
        # Raised steps must also last: a segment must not take longer to make than it plays.
        sustainable = self._affordable(self._segment_s + _MARGIN_S, step_s, rest_s)
        relaxed = buffered_s >= _RELAXED_SEGMENTS * self._segment_s
        raised = min(last + _STEPS_UP, max(sustainable, last)) if relaxed else last
        fewest = min(self._min_steps, requested)
        self.behind = affordable < fewest
        self._steps = max(min(raised, affordable, requested), fewest)
        return self._steps

    def _affordable(self, time_s: float, step_s: float, rest_s: float) -> int:
        """Return the steps that fit into a time, with a margin."""
        left_s = time_s - _MARGIN_S - rest_s
        return math.floor(max(left_s, 0.0) / max(step_s, _MIN_STEP_S))


def capacity(real_time_factor: float) -> int:
    """Return how many streams can play at once: at least one, which may have to take fewer steps.

    Args:
        real_time_factor: Seconds that a second of audio takes to make.
    """
    return max(1, math.floor(_MAX_LOAD / real_time_factor)) if real_time_factor > 0 else 1

"""Clips of a model as loops: drawn, brought to sound and to one loudness, each a function of its description alone."""

import collections
import dataclasses
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
from riffusion_train.sampling.sampler import TARGET_LUFS, TRUE_PEAK_DBTP, Sampler
from riffusion_train.sampling.seed_images import encode_round, load_seed_image
from riffusion_train.sampling.text import Condition


@dataclasses.dataclass(frozen=True)
class Loop:
    """A clip that goes round.

    Attributes:
        picture: uint8 (n_mels, width) or (n_mels, width, 3).
        wav: float32 (channels, width * hop_length), at its loudness.
    """

    picture: np.ndarray
    wav: np.ndarray


@dataclasses.dataclass
class Cost:
    """What clips have taken, in seconds of wall time: a part that grows with the steps, and the rest.

    Attributes:
        step_s: One denoising step.
        rest_s: All else of a clip.
    """

    step_s: float = 0.0
    rest_s: float = 0.0
    _known: bool = False

    def take(self, steps: int, steps_s: float, rest_s: float) -> None:
        """Learn from a clip; what is new counts a third."""
        share = 1 / 3 if self._known else 1.0
        self.step_s += share * (steps_s / max(steps, 1) - self.step_s)
        self.rest_s += share * (rest_s - self.rest_s)
        self._known = True

    def of(self, steps: int) -> float:
        """Return the seconds that a clip of so many steps is expected to take."""
        return self.rest_s + steps * self.step_s


class ClipMaker:
    """Makes loops; those made last are kept, as links and second listeners ask for the same ones.

    Args:
        sampler: The loaded model.
        most_kept: Loops that are kept.
    """

    def __init__(self, sampler: Sampler, *, most_kept: int = 24) -> None:
        self.sampler = sampler
        self.cost = Cost()
        self.default_steps = sampler.engine.num_inference_steps
        self._most_kept = most_kept
        self._loops: collections.OrderedDict[ClipSpec, Loop] = collections.OrderedDict()
        self._seeds: collections.OrderedDict[Hashable, Tensor] = collections.OrderedDict()
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
        """Channels of the sound."""
        return 1 if self.sampler.codec.config.channels.value == "mono" else 2

    def keep_upload(self, id: str, wav: np.ndarray) -> None:
        """Keep a sound, (channels, samples) at the codec's rate, as a seed image; one shorter than a clip is repeated."""
        samples = self.segment_samples
        round_wav = np.resize(wav, (len(wav), samples)) if wav.shape[1] < samples else wav[:, :samples]
        self._uploads[id] = encode_round(round_wav, self.sampler.codec)

    def forget_upload(self, id: str) -> None:
        """Let a sound go."""
        self._uploads.pop(id, None)
        self._seeds.pop(("upload", id), None)

    def loop(self, spec: ClipSpec, report: StepReport | None = None) -> Loop:
        """Return the loop of a description."""
        kept = self._loops.pop(spec, None)
        if kept is None:
            kept = self._made(spec, report)
        self._loops[spec] = kept
        while len(self._loops) > self._most_kept:
            self._loops.popitem(last=False)
        return kept

    def warm_up(self) -> None:
        """Make two clips of few steps: the first compiles what is compiled, the second says what a clip costs."""
        for steps in (1, 2):
            self.cost = Cost()
            self._made(ClipSpec(num_inference_steps=steps), None)

    @torch.no_grad()
    def draw(
        self, spec: ClipSpec, conditions: list[Condition], other_seed: int, report: StepReport | None
    ) -> np.ndarray:
        """Return the picture of a clip between two conditions and between the noises of two seeds.

        Args:
            spec: The rest of the description; the fraction of its place says how far the noise is.
            conditions: Where the way begins and ends.
            other_seed: The seed that the noise goes to.
            report: Told about every step.
        """
        engine = self.sampler.engine
        engine.num_inference_steps = spec.num_inference_steps
        whole = int(spec.place)
        seed, shape = spec.seed + whole, engine.latent_shape
        noise = slerp(initial_noise(seed, shape), initial_noise(other_seed, shape), spec.place - whole)
        condition = conditions[0].towards(conditions[1], spec.alpha)
        return draw_loop(engine, condition, noise, self._seed_latents(spec), spec.strength, seed, report)

    def sound(self, picture: np.ndarray, seed: int) -> np.ndarray:
        """Return the loop of a picture at its loudness, float32 (channels, samples)."""
        codec = self.sampler.codec
        wav = codec.decode_loop(picture, quality=self.sampler.quality.value, seed=seed)
        gain = loudness_gain(*measure_loudness(wav, codec.rate_hz), TARGET_LUFS, TRUE_PEAK_DBTP)
        return wav * np.float32(gain)

    def _made(self, spec: ClipSpec, report: StepReport | None) -> Loop:
        begin = time.perf_counter()
        texts = [(text, spec.negative_prompt, spec.guidance_scale) for text in (spec.prompt, spec.prompt_to)]
        conditions = self.sampler.engine.texts.equal_lengths(texts)
        clock = _StepClock(report)
        picture = self.draw(spec, conditions, spec.seed + int(spec.place) + 1, clock)
        loop = Loop(picture, self.sound(picture, spec.seed))
        self.cost.take(clock.steps, clock.steps_s, time.perf_counter() - begin - clock.steps_s)
        return loop

    def _seed_latents(self, spec: ClipSpec) -> Tensor | None:
        """Return the latents of the seed image, which are worked out once."""
        key = ("upload", spec.seed_upload) if spec.seed_upload is not None else ("ours", spec.seed_image)
        if key[1] is None:
            return None
        if key not in self._seeds:
            self._seeds[key] = self.sampler.engine.encode(self._seed_picture(spec))
        return self._seeds[key]

    def _seed_picture(self, spec: ClipSpec) -> np.ndarray:
        if spec.seed_upload is None:
            assert spec.seed_image is not None
            return load_seed_image(spec.seed_image, self.sampler.codec)
        picture = self._uploads.get(spec.seed_upload)
        if picture is None:
            raise InputError("seed_upload: is not here any more; upload the sound again")
        return picture


class _StepClock:
    """Times the steps of a clip from the first to the last, and passes the word on."""

    def __init__(self, report: Callable[[int, int], None] | None) -> None:
        self._report = report
        self._first_s: float | None = None
        self._last_s = self._done = 0.0
        self.steps = 0

    def __call__(self, done: int, steps: int) -> None:
        now = time.perf_counter()
        if self._first_s is None:
            self._first_s = now
        self._last_s, self._done, self.steps = now, done, steps
        if self._report is not None:
            self._report(done, steps)

    @property
    def steps_s(self) -> float:
        """Seconds of all steps, from those between the first and the last."""
        if self._first_s is None or self._done < 2:
            return 0.0
        return (self._last_s - self._first_s) / (self._done - 1) * self._done

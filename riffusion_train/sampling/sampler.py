"""The sampler: from what is asked for to clips, with one loaded model."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from riffusion_train.audio.codec.codec import SpectrogramCodec
from riffusion_train.audio.codec.streaming import StreamingDecoder
from riffusion_train.audio.io.loudness import loudness_gain, measure_loudness
from riffusion_train.config.sample import Dtype, Quality, SchedulerName
from riffusion_train.model import loading
from riffusion_train.model.components import Components, fingerprint, freeze
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.clip import Clip, ClipRecord, SamplerSettings, StreamedClip, load_record
from riffusion_train.sampling.denoise import StepReport
from riffusion_train.sampling.pipeline import ASSUMED_PRESET, Pipeline, best_device
from riffusion_train.sampling.requests import (
    AudioRequest,
    ExtendRequest,
    InpaintRequest,
    LongRequest,
    LoopRequest,
    MorphRequest,
    Request,
    SourceFile,
    TextRequest,
    WalkRequest,
)

__all__ = ["ASSUMED_PRESET", "TRUE_PEAK_DBTP", "Sampler", "best_device"]

TRUE_PEAK_DBTP = -1.0
"""Highest true peak of what is generated, in dB relative to full scale."""

TARGET_LUFS = -14.0


class Sampler:
    """Makes clips with one model.

    Args:
        components: The model.
        device: Where to run; the model is moved there.
        scheduler: The solver.
        num_inference_steps: Its steps.
        guidance_scale: Classifier-free guidance, where a request does not say.
        quality: How long to search for the phase of the sound.
        target_lufs: Integrated loudness of a clip, or as near as a true peak of -1 dBTP allows; None leaves the level.
        lane: Parts of pictures that the UNet sees at once, whatever is asked for: 1 on a CPU, 4 elsewhere.
        dtype: What UNet and text encoder compute in.
        loras: What was merged into the model, for the settings.
    """

    def __init__(
        self,
        components: Components,
        *,
        device: torch.device | str = "cpu",
        scheduler: SchedulerName | str = SchedulerName.dpmsolver,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.0,
        quality: Quality | str = Quality.normal,
        target_lufs: float | None = TARGET_LUFS,
        lane: int | None = None,
        dtype: Dtype | str = Dtype.fp32,
        loras: Sequence[str] = (),
    ) -> None:
        self.dtype = Dtype(dtype)
        self.scheduler_name = SchedulerName(scheduler)
        self.engine = Pipeline(
            components,
            device=device,
            scheduler=self.scheduler_name,
            num_inference_steps=num_inference_steps,
            lane=lane or (1 if torch.device(device).type == "cpu" else 4),
            dtype=loading.TORCH_DTYPES[self.dtype],
        )
        self.components = components
        self.guidance_scale = guidance_scale
        self.quality = Quality(quality)
        self.target_lufs = target_lufs
        self.loras = tuple(loras)

    @classmethod
    def load(cls, source: str | Path, *, device: str | None = None, loras: Sequence[str] = (), **options: Any) -> Self:
        """Load a model from a diffusers folder, a single file or a hub id; `options` as in the constructor.

        Args:
            source: The model.
            device: Where to run; the fastest there is where it is not said.
            loras: LoRA files to merge, each `FILE` or `FILE:WEIGHT`.
            options: As in the constructor.
        """
        components = loading.load_with_loras(str(source), loras)
        freeze(components)
        return cls(components, device=device or best_device(), loras=loras, **options)

    @property
    def codec(self) -> SpectrogramCodec:
        """What turns pictures into sound."""
        return self.engine.codec

    @property
    def assumed_spectrogram(self) -> bool:
        """Whether the model did not say what its pictures mean, so that `ASSUMED_PRESET` is taken."""
        return self.engine.assumed_spectrogram

    @functools.cached_property
    def model_fingerprint(self) -> str:
        """Hash of the UNet's weights: the identity that clips carry."""
        return fingerprint(self.components.unet)

    def text_to_audio(
        self, prompt: str, *, negative_prompt: str = "", seed: int = 0, guidance_scale: float | None = None
    ) -> Clip:
        """Make one clip from a prompt."""
        return self.make(TextRequest(prompt, negative_prompt, seed, self._scale(guidance_scale)))

    def unconditional(self, *, seed: int = 0) -> Clip:
        """Make one clip without a prompt."""
        return self.make(TextRequest("", "", seed, 1.0))

    def audio_to_audio(self, audio: str | Path, prompt: str, **options: Any) -> Clip:
        """Change a sound of any length towards a prompt; `options` are the fields of `AudioRequest`."""
        return self.make(AudioRequest(prompt, source=SourceFile.of(audio), **self._common(options)))

    def inpaint(self, audio: str | Path, prompt: str, **options: Any) -> Clip:
        """Make parts of a sound anew; `options` are the fields of `InpaintRequest`, the mask a path."""
        if options.get("mask") is not None:
            options["mask"] = SourceFile.of(options["mask"])
        return self.make(InpaintRequest(prompt, source=SourceFile.of(audio), **self._common(options)))

    def extend(self, audio: str | Path, prompt: str, **options: Any) -> Clip:
        """Let a sound go on, or lead up to it; `options` are the fields of `ExtendRequest`."""
        return self.make(ExtendRequest(prompt, source=SourceFile.of(audio), **self._common(options)))

    def long_form(self, prompt: str, duration_s: float, **options: Any) -> StreamedClip:
        """Make one coherent piece of any length; `options` are the fields of `LongRequest`."""
        made = self.make(LongRequest(prompt, duration_s=duration_s, **self._common(options)))
        assert isinstance(made, StreamedClip)
        return made

    def loop(self, prompt: str, **options: Any) -> Clip:
        """Make a loop without a seam; `options` are the fields of `LoopRequest`."""
        return self.make(LoopRequest(prompt, **self._common(options)))

    def walk(self, prompts: Sequence[str], **options: Any) -> StreamedClip:
        """Go from prompt to prompt without a break; `options` are the fields of `WalkRequest`, the seed file a path."""
        if options.get("seed_file") is not None:
            options["seed_file"] = SourceFile.of(options["seed_file"])
        request = WalkRequest(" → ".join(prompts), prompts=tuple(prompts), **self._common(options))
        made = self.make(request)
        assert isinstance(made, StreamedClip)
        return made

    def morph(self, source: str | Path, target: str | Path, *, steps: int = 5, **options: Any) -> Iterator[Clip]:
        """Yield sounds on the way from one file to another, both ends included; `options` are the fields of `MorphRequest`."""
        ends = {"source": SourceFile.of(source), "target": SourceFile.of(target)}
        for step in range(steps):
            share = step / max(steps - 1, 1)
            yield self.make(MorphRequest(**{**ends, "share": share, **self._common(options)}))

    def again(self, file: str | Path) -> Clip:
        """Make a clip once more from one of its files; the sampler must have been loaded with the same options.

        Raises:
            InputError: If the model, the solver or another option is not that of the clip.
        """
        settings = load_record(Path(file))
        own, wanted = self.settings(settings.request).sampler, settings.sampler
        for name in (
            "model_fingerprint",
            "scheduler",
            "num_inference_steps",
            "quality",
            "target_lufs",
            "lane",
            "dtype",
        ):
            if getattr(own, name) != getattr(wanted, name):
                raise InputError(f"{file}: was made with {name}={getattr(wanted, name)}; load the sampler with that")
        return self.make(settings.request)

    def make(self, request: Request, report: StepReport | None = None) -> Clip:
        """Make what is asked for.

        Raises:
            InputError: If it cannot be made, as where a source file cannot be used.
        """
        return next(self.make_all([request], report=report))

    def make_all(
        self, requests: Iterable[Request], *, batch_size: int = 4, report: StepReport | None = None
    ) -> Iterator[Clip]:
        """Make clips in order, those of prompts `batch_size` at a time; a clip does not depend on what is beside it."""
        from riffusion_train.sampling.modes import MODES, text

        waiting: list[TextRequest] = []
        for request in requests:
            if isinstance(request, TextRequest):
                waiting.append(request)
                if len(waiting) == batch_size:
                    yield from text.make(self, waiting, report)
                    waiting = []
                continue
            yield from text.make(self, waiting, report)
            waiting = []
            yield MODES[request.mode](self, request, report)
        yield from text.make(self, waiting, report)

    def generate(
        self, wanted: Sequence[tuple[str, str, int]], *, batch_size: int = 4, report: StepReport | None = None
    ) -> Iterator[Clip]:
        """Make clips from (prompt, negative prompt, seed), `batch_size` at a time, in order."""
        requests = [TextRequest(prompt, negative, seed, self.guidance_scale) for prompt, negative, seed in wanted]
        return self.make_all(requests, batch_size=batch_size, report=report)

    def pictures(self, requests: Sequence[TextRequest], report: StepReport | None = None) -> list[np.ndarray]:
        """Return the pictures alone of requests for text to audio."""
        from riffusion_train.sampling.modes import text

        return text.pictures(self, requests, report)

    def settings(self, request: Request) -> ClipRecord:
        """Return what a clip of this sampler carries."""
        return ClipRecord(
            request,
            SamplerSettings(
                num_inference_steps=self.engine.num_inference_steps,
                scheduler=self.scheduler_name.value,
                quality=self.quality.value,
                target_lufs=self.target_lufs,
                lane=self.engine.lane,
                dtype=self.dtype.value,
                model=self.components.source,
                model_fingerprint=self.model_fingerprint,
                loras=self.loras,
                assumed_spectrogram=self.assumed_spectrogram,
            ),
        )

    def clip(self, request: Request, image: np.ndarray, audio: np.ndarray) -> Clip:
        """Return a clip of a picture and its sound, (channels, samples), which is brought to its loudness."""
        gain = loudness_gain(*measure_loudness(audio, self.codec.rate_hz), self.target_lufs, TRUE_PEAK_DBTP)
        return Clip(image, audio * np.float32(gain), self.codec.config, self.settings(request))

    def faithful_clip(self, request: Request, image: np.ndarray, audio: np.ndarray) -> Clip:
        """Return a clip at the level of the sound it was made of; it is made quieter only where it would be cut off."""
        gain = 1 / max(float(np.abs(audio).max(initial=0.0)), 1.0)
        return Clip(image, audio * np.float32(gain), self.codec.config, self.settings(request))

    def streamed(
        self,
        request: Request,
        pictures: Iterable[np.ndarray],
        *,
        columns: int | None = None,
        samples: int | None = None,
        max_value: float | None = None,
        level: Callable[[np.ndarray], np.ndarray] | None = None,
        report: Callable[[float], None] | None = None,
    ) -> StreamedClip:
        """Return a clip whose picture comes in pieces from left to right.

        Args:
            request: What was asked for.
            pictures: The pieces.
            columns: Where to cut the picture off.
            samples: Where to cut the sound off.
            max_value: The magnitude of black, where it is known.
            level: Returns the factor of the sound at times in seconds, (samples,) -> (samples,).
            report: Told the seconds that are done.
        """
        decoder = StreamingDecoder(self.codec, quality=self.quality.value, seed=request.seed, max_value=max_value)
        pieces = _sounded(decoder, pictures, columns)
        return StreamedClip(
            self.codec.config,
            self.settings(request),
            _levelled(pieces, samples, level, self.codec.rate_hz),
            target_lufs=self.target_lufs,
            ceiling_dbtp=TRUE_PEAK_DBTP,
            report=report,
        )

    def _scale(self, guidance_scale: float | None) -> float:
        return self.guidance_scale if guidance_scale is None else guidance_scale

    def _common(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "guidance_scale": self._scale(options.get("guidance_scale"))}


def _sounded(
    decoder: StreamingDecoder, pictures: Iterable[np.ndarray], columns: int | None
) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
    done = 0
    for image in pictures:
        part = image if columns is None else image[:, : columns - done]
        if part.shape[1]:
            done += part.shape[1]
            yield part, decoder.push(part)
    yield None, decoder.flush()


def _levelled(
    pieces: Iterable[tuple[np.ndarray | None, np.ndarray]],
    samples: int | None,
    level: Callable[[np.ndarray], np.ndarray] | None,
    rate_hz: int,
) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
    done = 0
    for image, wav in pieces:
        part = wav if samples is None else wav[:, : max(samples - done, 0)]
        if level is not None:
            part = part * level((done + np.arange(part.shape[1])) / rate_hz).astype(np.float32)
        done += part.shape[1]
        yield image, part

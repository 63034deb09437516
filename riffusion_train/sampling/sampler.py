"""The sampler: from requests to clips, with one loaded model."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from riffusion_train.audio.codec import SpectrogramCodec, StreamingDecoder
from riffusion_train.audio.loudness import loudness_gain, measure_loudness
from riffusion_train.audio.marking import Mark
from riffusion_train.config.denoising import GuidanceName, SchedulerName, TimestepSpacing, choose_denoising
from riffusion_train.config.sample import Dtype
from riffusion_train.config.spectrogram import Quality
from riffusion_train.model import loading
from riffusion_train.model.components import Components, fingerprint, freeze
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import DEFAULT_MODEL
from riffusion_train.sampling import modes
from riffusion_train.sampling.clip import Clip, ClipRecord, SamplerRecord, StreamedClip, load_record, record
from riffusion_train.sampling.denoise import Guidance, StepReport
from riffusion_train.sampling.modes.base import ClipData, ModeOptions, Request, SourceFile, StreamData, TextRequest
from riffusion_train.sampling.modes.edit import AudioRequest, ExtendRequest, InpaintRequest
from riffusion_train.sampling.modes.long import LongRequest, LoopRequest
from riffusion_train.sampling.modes.walk import MorphRequest, WalkRequest
from riffusion_train.sampling.pipeline import ASSUMED_PRESET, Pipeline, best_device

TRUE_PEAK_DBTP = -1.0
"""Highest true peak of what is generated, in dB relative to full scale."""

TARGET_LUFS = -14.0
"""Integrated loudness of a clip, unless another is asked for."""

_CHECKED = (
    "num_inference_steps",
    "scheduler",
    "timesteps",
    "guidance",
    "guidance_interval",
    "guidance_rescale",
    "apg_momentum",
    "apg_norm_threshold",
    "apg_eta",
    "guide_fingerprint",
    "quality",
    "target_lufs",
    "unet_batch_size",
    "dtype",
    "channels_last",
    "compile",
    "attention_slicing",
)
"""Options that must be those of a clip to make it again. The device need not: on another one, only the last bits differ."""


class Sampler:
    """Makes clips with one model.

    Options of the denoising that are None are those that the model recommends, else the usual ones; see `DenoisingConfig`.

    Args:
        components: The model.
        device: Where to run; the model is moved there. None takes the fastest.
        scheduler: The solver.
        timesteps: Where on the noise schedule its steps are.
        num_inference_steps: Denoising steps.
        guidance_scale: Strength of guidance of requests that do not set it.
        guidance: How predictions with and without the prompt are combined.
        guidance_interval: First and last timestep that are guided.
        guidance_rescale: Share by which a guided prediction gets the spread of the unguided one.
        apg_momentum, apg_norm_threshold, apg_eta: Of adaptive projected guidance.
        guide: A weaker model, best an earlier checkpoint, that autoguidance leads away from.
        quality: How long to search for the phase of the sound.
        target_lufs: Integrated loudness of a clip, or as near as a true peak of -1 dBTP allows; None keeps the level.
        unet_batch_size: Windows in one call of the UNet; None is 1 on a CPU and 4 elsewhere.
        dtype: The number format in which the UNet and the text encoder compute.
        channels_last: Store the weights in the layout that tensor cores read fastest.
        compile: Compile the UNet: about a minute at first, faster steps afterwards.
        attention_slicing: Compute attention in slices: less memory, slower.
        loras: The LoRA files that were merged into the model, for the record.
    """

    def __init__(
        self,
        components: Components,
        *,
        device: torch.device | str | None = "cpu",
        scheduler: SchedulerName | str | None = None,
        timesteps: TimestepSpacing | str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance: GuidanceName | str | None = None,
        guidance_interval: Sequence[float] | None = None,
        guidance_rescale: float | None = None,
        apg_momentum: float | None = None,
        apg_norm_threshold: float | None = None,
        apg_eta: float | None = None,
        guide: Components | None = None,
        quality: Quality | str = Quality.normal,
        target_lufs: float | None = TARGET_LUFS,
        unet_batch_size: int | None = None,
        dtype: Dtype | str = Dtype.fp32,
        channels_last: bool = False,
        compile: bool = False,
        attention_slicing: bool = False,
        loras: Sequence[str] = (),
    ) -> None:
        device = torch.device(device or best_device())
        given = {
            "scheduler": scheduler,
            "timesteps": timesteps,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance": guidance,
            "guidance_interval": guidance_interval,
            "guidance_rescale": guidance_rescale,
            "apg_momentum": apg_momentum,
            "apg_norm_threshold": apg_norm_threshold,
            "apg_eta": apg_eta,
        }
        chosen = choose_denoising(given, components.sampling)
        self.components = components
        self.scheduler: SchedulerName = chosen["scheduler"]
        self.num_inference_steps: int = chosen["num_inference_steps"]
        self.guidance_scale: float = chosen["guidance_scale"]
        self.guidance = Guidance(
            name=chosen["guidance"],
            interval=chosen["guidance_interval"],
            rescale=chosen["guidance_rescale"],
            momentum=chosen["apg_momentum"],
            norm_threshold=chosen["apg_norm_threshold"],
            eta=chosen["apg_eta"],
        )
        self.guide = guide
        self.quality = Quality(quality)
        self.target_lufs = target_lufs
        self.unet_batch_size = unet_batch_size or (1 if device.type == "cpu" else 4)
        self.dtype = Dtype(dtype)
        self.channels_last = channels_last
        self.compile = compile
        self.attention_slicing = attention_slicing
        self.loras = tuple(loras)
        self.pipeline = Pipeline(
            components,
            device=device,
            scheduler=self.scheduler,
            timesteps=chosen["timesteps"],
            guidance=self.guidance,
            guide=guide,
            unet_batch_size=self.unet_batch_size,
            dtype=loading.TORCH_DTYPES[self.dtype],
            channels_last=channels_last,
            compile=compile,
            attention_slicing=attention_slicing,
        )

    @classmethod
    def load(
        cls,
        source: str | Path = DEFAULT_MODEL,
        *,
        device: str | None = None,
        loras: Sequence[str] = (),
        guide: str | Path | Components | None = None,
        **options: Any,
    ) -> Self:
        """Load a model from a diffusers folder, a single file or a hub id, or the one that comes with the package.

        Args:
            source: The model; `laptop` is the one that comes with the package.
            device: Where to run; None takes the fastest.
            loras: LoRA files to merge, each `FILE` or `FILE:WEIGHT`.
            guide: A weaker model, or where it is; `load_guide` in `training.run_model` loads a checkpoint of a run.
            options: As in the constructor.

        Raises:
            InputError: If the model or a LoRA cannot be used.
        """
        components = loading.load_with_loras(str(source), loras)
        freeze(components)
        weaker = loading.load_components(str(guide)) if isinstance(guide, str | Path) else guide
        if weaker is not None:
            freeze(weaker)
        return cls(components, device=device, loras=loras, guide=weaker, **options)

    @property
    def codec(self) -> SpectrogramCodec:
        """What turns images into sound."""
        return self.pipeline.codec

    @property
    def codec_notice(self) -> str | None:
        """What to tell the user if the model does not say which codec its images have, so that one is assumed."""
        if not self.pipeline.assumed_spectrogram:
            return None
        return f"{self.components.source} has no spectrogram.json; {ASSUMED_PRESET} is assumed"

    @functools.cached_property
    def model_fingerprint(self) -> str:
        """Hash of the UNet's weights, which identifies the model in a clip's record."""
        return fingerprint(self.components.unet)

    @property
    def mark(self) -> Mark:
        """What says in the files of clips that this model made them."""
        return Mark.of(self.components.source, self.model_fingerprint, self.components.dataset_fingerprint)

    @functools.cached_property
    def guide_fingerprint(self) -> str | None:
        """Hash of the weaker model's weights that autoguidance uses; None without one."""
        if self.guide is None:
            return None
        return fingerprint(self.guide.unet) + fingerprint(self.guide.text_encoder)

    def text_to_audio(
        self, prompt: str, *, negative_prompt: str = "", seed: int = 0, guidance_scale: float | None = None
    ) -> Clip:
        """Make one clip from a prompt."""
        return next(self.generate([(prompt, negative_prompt, seed)], guidance_scale=guidance_scale))

    def unconditional(self, *, seed: int = 0) -> Clip:
        """Make one clip without a prompt."""
        return next(self.generate([("", "", seed)], guidance_scale=1.0))

    def audio_to_audio(self, audio: str | Path, prompt: str, **options: Any) -> StreamedClip:
        """Change a sound of any length towards a prompt; `options` are the fields of `AudioRequest`."""
        request = AudioRequest(prompt=prompt, source=SourceFile.of(audio), **self._with_guidance(options))
        return self._stream(request, modes.edit.make_audio(self.pipeline, request, self._options()))

    def inpaint(self, audio: str | Path, prompt: str, **options: Any) -> Clip:
        """Generate parts of a sound anew; `options` are the fields of `InpaintRequest`, the mask a path."""
        if options.get("mask") is not None:
            options["mask"] = SourceFile.of(options["mask"])
        request = InpaintRequest(prompt=prompt, source=SourceFile.of(audio), **self._with_guidance(options))
        return self._clip(request, modes.edit.make_inpaint(self.pipeline, request, self._options()))

    def extend(self, audio: str | Path, prompt: str, **options: Any) -> Clip:
        """Continue a sound, or lead up to it; `options` are the fields of `ExtendRequest`."""
        request = ExtendRequest(prompt=prompt, source=SourceFile.of(audio), **self._with_guidance(options))
        return self._clip(request, modes.edit.make_extend(self.pipeline, request, self._options()))

    def long_form(self, prompt: str, duration_s: float, **options: Any) -> StreamedClip:
        """Make one coherent piece of any length; `options` are the fields of `LongRequest`."""
        request = LongRequest(prompt=prompt, duration_s=duration_s, **self._with_guidance(options))
        return self._stream(request, modes.long.make_long(self.pipeline, request, self._options()))

    def loop(self, prompt: str, **options: Any) -> Clip:
        """Make a loop whose end meets its beginning; `options` are the fields of `LoopRequest`."""
        request = LoopRequest(prompt=prompt, **self._with_guidance(options))
        return self._clip(request, modes.long.make_loop(self.pipeline, request, self._options()))

    def walk(self, prompts: Sequence[str], **options: Any) -> StreamedClip:
        """Go from prompt to prompt without a break; `options` are the fields of `WalkRequest`, the seed file a path."""
        if options.get("seed_file") is not None:
            options["seed_file"] = SourceFile.of(options["seed_file"])
        request = WalkRequest(prompt=" → ".join(prompts), prompts=tuple(prompts), **self._with_guidance(options))
        return self._stream(request, modes.walk.make_walk(self.pipeline, request, self._options()))

    def morph(self, source: str | Path, target: str | Path, *, steps: int = 5, **options: Any) -> Iterator[Clip]:
        """Yield sounds on the way from one file to another, both ends included; `options` are the fields of `MorphRequest`."""
        ends = {"source": SourceFile.of(source), "target": SourceFile.of(target)}
        for step in range(steps):
            share = step / max(steps - 1, 1)
            request = MorphRequest(**{**ends, "share": share, **self._with_guidance(options)})
            yield self._clip(request, modes.walk.make_morph(self.pipeline, request, self._options()))

    def again(self, file: str | Path) -> Clip | StreamedClip:
        """Make a clip once more from one of its files; the sampler must have the same model and options.

        Raises:
            InputError: If the model or an option is not that of the clip.
        """
        clip_record = load_record(Path(file))
        self.check(clip_record, file)
        return self.make(clip_record.request)

    def check(self, clip_record: ClipRecord, file: str | Path) -> None:
        """Check that this sampler has the model and the options that a clip was made with.

        Args:
            clip_record: The clip's record.
            file: Where it is from, for the message.

        Raises:
            InputError: If the model or an option differs.
        """
        own = self.record(clip_record.request).sampler
        if own.model_fingerprint != clip_record.sampler.model_fingerprint:
            raise InputError(f"{own.model} is not the model that {file} was made with (its UNet has other weights)")
        clip_record.check(file, {name: getattr(own, name) for name in _CHECKED})

    def make(
        self, request: Request, report: StepReport | None = None, *, num_inference_steps: int | None = None
    ) -> Clip | StreamedClip:
        """Make what is asked for.

        Args:
            request: What to make.
            report: Called after every denoising step.
            num_inference_steps: Another number of steps than the sampler's.

        Raises:
            InputError: If it cannot be made, for example because a source file cannot be used.
        """
        return next(self.make_all([request], report=report, num_inference_steps=num_inference_steps))

    def make_all(
        self,
        requests: Iterable[Request],
        *,
        batch_size: int = 4,
        report: StepReport | None = None,
        num_inference_steps: int | None = None,
    ) -> Iterator[Clip | StreamedClip]:
        """Make clips in order, those of mode text `batch_size` at a time; a clip does not depend on the others."""
        options = self._options(report, num_inference_steps)
        batch: list[TextRequest] = []
        for request in requests:
            if isinstance(request, TextRequest):
                batch.append(request)
                if len(batch) == batch_size:
                    yield from self._text_clips(batch, options)
                    batch = []
                continue
            yield from self._text_clips(batch, options)
            batch = []
            data = modes.MODES[type(request)](self.pipeline, request, options)
            if isinstance(data, StreamData):
                yield self._stream(request, data, num_inference_steps)
            else:
                yield self._clip(request, data, num_inference_steps)
        yield from self._text_clips(batch, options)

    def generate(
        self,
        texts: Sequence[tuple[str, str, int]],
        *,
        guidance_scale: float | None = None,
        batch_size: int = 4,
        report: StepReport | None = None,
    ) -> Iterator[Clip]:
        """Make clips from (prompt, negative prompt, seed), `batch_size` at a time, in order."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        requests = [
            TextRequest(prompt=prompt, negative_prompt=negative, seed=seed, guidance_scale=scale)
            for prompt, negative, seed in texts
        ]
        for first in range(0, len(requests), batch_size):
            yield from self._text_clips(requests[first : first + batch_size], self._options(report))

    def images(self, requests: Sequence[TextRequest], report: StepReport | None = None) -> list[np.ndarray]:
        """Return the images alone of requests of mode text."""
        return modes.base.make_images(self.pipeline, requests, self._options(report))

    def record(self, request: Request, num_inference_steps: int | None = None) -> ClipRecord:
        """Return the record that a clip of this sampler carries."""
        return ClipRecord(
            request,
            SamplerRecord(
                num_inference_steps=num_inference_steps or self.num_inference_steps,
                scheduler=self.scheduler,
                timesteps=self.pipeline.spacing(num_inference_steps or self.num_inference_steps),
                guidance=self.guidance.name,
                guidance_interval=self.guidance.interval,
                guidance_rescale=self.guidance.rescale,
                apg_momentum=self.guidance.momentum,
                apg_norm_threshold=self.guidance.norm_threshold,
                apg_eta=self.guidance.eta,
                guide=None if self.guide is None else self.guide.source,
                guide_fingerprint=self.guide_fingerprint,
                quality=self.quality,
                target_lufs=self.target_lufs,
                unet_batch_size=self.unet_batch_size,
                dtype=self.dtype,
                channels_last=self.channels_last,
                compile=self.compile,
                attention_slicing=self.attention_slicing,
                device=self.pipeline.device.type,
                model=self.components.source,
                model_fingerprint=self.model_fingerprint,
                dataset_fingerprint=self.components.dataset_fingerprint,
                loras=self.loras,
                assumed_spectrogram=self.pipeline.assumed_spectrogram,
            ),
        )

    def _options(self, report: StepReport | None = None, num_inference_steps: int | None = None) -> ModeOptions:
        return ModeOptions(num_inference_steps or self.num_inference_steps, self.quality, report)

    def _with_guidance(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a request with the guidance set."""
        scale = options.get("guidance_scale")
        return {**options, "guidance_scale": self.guidance_scale if scale is None else scale}

    def _text_clips(self, requests: Sequence[TextRequest], options: ModeOptions) -> Iterator[Clip]:
        if requests:
            for request, data in zip(requests, modes.base.make_text(self.pipeline, requests, options), strict=True):
                yield self._clip(request, data, options.num_inference_steps)

    def _clip(self, request: Request, data: ClipData, num_inference_steps: int | None = None) -> Clip:
        """Return a clip at its loudness, or at the level of its source, quieter only where it would be clipped."""
        if data.keep_level:
            gain = 1 / max(float(np.abs(data.audio).max(initial=0.0)), 1.0)
        else:
            gain = loudness_gain(*measure_loudness(data.audio, self.codec.rate_hz), self.target_lufs, TRUE_PEAK_DBTP)
        clip_record = self.record(request, num_inference_steps)
        return Clip(data.image, data.audio * np.float32(gain), self.codec.config, clip_record)

    def _stream(self, request: Request, data: StreamData, num_inference_steps: int | None = None) -> StreamedClip:
        """Return a clip that is decoded chunk by chunk, and is on disk until it is saved."""
        config = self.codec.config
        decoder = StreamingDecoder(self.codec, quality=self.quality, seed=request.seed, max_value=data.max_value)
        chunks = _with_gain(_decoded(decoder, data.images, data.columns), data.samples, data.gain_at, config.rate_hz)
        mono = config.num_channels == 1
        recording = record(
            chunks, (config.n_mels,) if mono else (config.n_mels, 3), config.num_channels, config.rate_hz
        )
        return StreamedClip(
            recording,
            config,
            self.record(request, num_inference_steps),
            target_lufs=self.target_lufs,
            ceiling_dbtp=TRUE_PEAK_DBTP,
        )


def _decoded(
    decoder: StreamingDecoder, images: Iterable[np.ndarray], columns: int | None
) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
    """Yield each image, up to `columns` in all, with the samples (channels, m) that can be decoded so far."""
    done = 0
    for image in images:
        part = image if columns is None else image[:, : columns - done]
        if part.shape[1]:
            done += part.shape[1]
            yield part, decoder.push(part)
    yield None, decoder.flush()


def _with_gain(
    chunks: Iterable[tuple[np.ndarray | None, np.ndarray]],
    samples: int | None,
    gain_at: Callable[[np.ndarray], np.ndarray] | None,
    rate_hz: int,
) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
    """Yield images and samples (channels, m), up to `samples` in all, with the gain at each time."""
    done = 0
    for image, wav in chunks:
        part = wav if samples is None else wav[:, : max(samples - done, 0)]
        if gain_at is not None:
            part = part * gain_at((done + np.arange(part.shape[1])) / rate_hz).astype(np.float32)
        done += part.shape[1]
        yield image, part

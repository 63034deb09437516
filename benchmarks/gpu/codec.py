"""`python -m benchmarks.gpu.codec [--quick] [clips=N] [out=DIR]`: encoding and both inverters on a GPU and on its CPU.

One batch of the benchmark's clips, with the transfers to and from the GPU. `--quick` uses one clip on any device.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.clips import make_clips
from benchmarks.command import measure_on_gpu
from benchmarks.report import Row
from benchmarks.timing import alternate
from riffusion_train.audio.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.compare import compare_sounds
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.sampling.pipeline import best_device

_PRESETS = ("hifi", "riffusion_v1")
_INVERTERS = ("pghi", "fast_griffin_lim")
_REPEATS = 5


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Measure on the fastest device of this machine.

    Args:
        quick: One clip, once.
        max_clips: Number of clips in the batch.
    """
    repeats = 1 if quick else _REPEATS
    clips = [clip.wav for clip in make_clips()][: 1 if quick else max_clips]
    rows = []
    for name in _PRESETS[:1] if quick else _PRESETS:
        codec = make_codec(load_preset(name))
        wavs = torch.from_numpy(np.stack([clip[:1] for clip in clips]))
        images, maxima = codec.encode_batch(wavs)
        duration_s = len(clips) * codec.clip_samples / codec.rate_hz

        rows.append(_speed_row(f"{name}: encode", partial(_encode, codec, wavs), repeats, duration_s))
        for inverter in _INVERTERS:
            decode = partial(_decode, codec, images, maxima, inverter)
            rows.append(_speed_row(f"{name}: decode by {inverter}", decode, repeats, duration_s))
            sounds = decode(best_device()).numpy()
            errors = [
                compare_sounds(wav.numpy()[:, : sound.shape[1]], codec.rate_hz, sound, codec.rate_hz).log_mel_db
                for wav, sound in zip(wavs, sounds, strict=True)
            ]
            rows.append(Row(f"{name}: decode by {inverter}, log-mel error", "dB", errors))
    return rows


def _encode(codec: SpectrogramCodec, wavs: torch.Tensor, device: str) -> torch.Tensor:
    return codec.encode_batch(wavs.to(device))[0].cpu()


def _decode(
    codec: SpectrogramCodec, images: torch.Tensor, maxima: torch.Tensor, inverter: str, device: str
) -> torch.Tensor:
    return codec.decode_batch(images.to(device), maxima.tolist(), inverter=inverter).cpu()


def _speed_row(what: str, work: Callable[[str], torch.Tensor], repeats: int, duration_s: float) -> Row:
    """Measure the speed on the GPU and on the CPU by wall clock; the devices alternate."""
    works = {device: lambda _, device=device: work(device) for device in sorted({best_device(), "cpu"})}
    alternate(works, 1)  # compiles, allocates
    seconds = alternate(works, repeats, time.perf_counter)
    ours, reference = ([duration_s / value for value in seconds[device]] for device in (best_device(), "cpu"))
    return Row(what, "audio s per s", ours, reference, median=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write `codec_gpu.json`. Returns the exit code: 0 done, 2 invalid input."""
    return measure_on_gpu(
        "codec_gpu",
        "benchmarks.gpu.codec",
        lambda quick, clips: run(quick=quick, max_clips=clips),
        argv,
        has_gpu=best_device() != "cpu",
        number_key="clips",
    )


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.gpu.codec [--quick] [clips=N] [out=DIR]`: encoding and each inverter on a GPU, beside its CPU.

Batches of the benchmark's clips, copies to and from the GPU included. `--quick` takes one clip on whatever device there is.
"""

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.clips import make_clips
from benchmarks.gpu.command import measure
from benchmarks.report import Row
from riffusion_train.audio.codec.codec import SpectrogramCodec, make_codec
from riffusion_train.audio.compare import compare_sounds
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.sampling.pipeline import best_device

_PRESETS = ("hifi", "riffusion_v1")
_INVERTERS = ("pghi", "fast_griffin_lim")
_REPEATS = 5


def run(*, quick: bool = False, most_clips: int | None = None) -> list[Row]:
    """Measure on the fastest device of this machine.

    Args:
        quick: One clip, once.
        most_clips: Clips of a batch.
    """
    repeats = 1 if quick else _REPEATS
    clips = [clip.wav for clip in make_clips()][: 1 if quick else most_clips]
    rows = []
    for name in _PRESETS[:1] if quick else _PRESETS:
        codec = make_codec(load_preset(name))
        wavs = torch.from_numpy(np.stack([clip[:1] for clip in clips]))
        images, maxima = codec.encode_batch(wavs)
        duration_s = len(clips) * codec.clip_samples / codec.rate_hz

        def encode(device: str, codec: SpectrogramCodec = codec, wavs: torch.Tensor = wavs) -> torch.Tensor:
            return codec.encode_batch(wavs.to(device))[0].cpu()

        times = _in_turn(encode, repeats)
        rows.append(_row(f"{name}: encode", times, duration_s))
        for inverter in _INVERTERS:

            def decode(
                device: str,
                codec: SpectrogramCodec = codec,
                images: torch.Tensor = images,
                maxima: torch.Tensor = maxima,
                inverter: str = inverter,
            ) -> torch.Tensor:
                return codec.decode_batch(images.to(device), maxima.tolist(), inverter=inverter).cpu()

            rows.append(_row(f"{name}: decode by {inverter}", _in_turn(decode, repeats), duration_s))
            found = decode(best_device()).numpy()
            errors = [
                compare_sounds(wav.numpy()[:, : sound.shape[1]], codec.rate_hz, sound, codec.rate_hz).log_mel_db
                for wav, sound in zip(wavs, found, strict=True)
            ]
            rows.append(Row(f"{name}: decode by {inverter}, log-mel error", "dB", errors))
    return rows


def _row(what: str, times: dict[str, list[float]], duration_s: float) -> Row:
    fastest, host = (times[device] for device in (best_device(), "cpu"))
    return Row(
        what,
        "audio s a second",
        [duration_s / seconds for seconds in fastest],
        [duration_s / seconds for seconds in host],
        median=True,
    )


def _in_turn(work: Callable[[str], torch.Tensor], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each device by the clock; the devices take turns."""
    devices = sorted({best_device(), "cpu"})
    times: dict[str, list[float]] = {device: [] for device in devices}
    for device in devices:
        work(device)  # compiles, allocates
    for _ in range(repeats):
        for device in devices:
            start = time.perf_counter()
            work(device)
            times[device].append(time.perf_counter() - start)
    return times


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write `codec_gpu.json`. Returns the exit code: 0 done, 2 wrong input."""
    words = list(sys.argv[1:] if argv is None else argv)
    has_gpu = best_device() != "cpu"
    return measure(
        "codec_gpu",
        "benchmarks.gpu.codec",
        lambda quick, clips: run(quick=quick, most_clips=clips),
        "clips",
        has_gpu=has_gpu,
        argv=words,
    )


if __name__ == "__main__":
    sys.exit(main())

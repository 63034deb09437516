"""Small codecs compared: what a listening network hears of the loss, for each pixel of latents.

`python -m benchmarks.codec_presets corpus=DIR [clips=N] [out=DIR]`; DIR holds composed clips, written by `data_prep.corpus`.
Each codec encodes and decodes clips of the corpus and of the produced tracks. The figure is KID on musicnn's embeddings
against *other* clips of the same kind: 0 is as far from them as untouched clips are, which the first row measures.
"""

import dataclasses
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.command import arguments_of, exit_code, measure, parse_arguments
from benchmarks.report import Row
from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.compare import compare_sounds
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset
from riffusion_train.listening.distances import kernel_inception_distance
from riffusion_train.listening.embedder import Clip, Embedder, make_embedder
from riffusion_train.runtime.errors import InputError

_DECODED, _REFERENCE = 72, 160
_COMPARED_EVERY = 4
"""Log-mel errors are means over every fourth clip, as each takes longer than its decoding."""
_CLIP_S = 5.12
_CLIPS_OF_A_TRACK = 6
_DOWNSAMPLING = 4

_WINDOWS_PER_HOP = 4
"""Below, the phase of so few columns is hardly ever right: KID is twice as high."""


def candidates() -> list[SpectrogramConfig]:
    """Return the codecs: the small presets, and sizes, top frequencies and corners around them."""
    laptop = load_preset("laptop")
    sizes = [(128, 128, 1280), (160, 128, 1280), (192, 128, 1280), (128, 160, 1024), (160, 160, 1024), (192, 160, 1024)]
    sizes += [(128, 192, 848), (160, 192, 848), (192, 192, 848)]
    grid = [
        dataclasses.replace(
            laptop,
            name=f"{height} x {width}",
            n_mels=height,
            width_px=width,
            hop_length=hop,
            win_length=_WINDOWS_PER_HOP * hop,
            decode_n_fft=_WINDOWS_PER_HOP * hop,
        )
        for height, width, hop in sizes
    ]
    corner = dataclasses.replace(laptop, name="laptop with a corner of 1200 Hz", mel_corner_hz=1200.0)
    absolute = dataclasses.replace(laptop, name="laptop with an absolute scale", scale=load_preset("hifi").scale)
    return [load_preset("small"), laptop, corner, absolute, *grid]


def run(corpus: Path, max_clips: int | None = None) -> list[Row]:
    """Measure every candidate.

    Args:
        corpus: The folder of composed clips.
        max_clips: Decode so many clips of each kind, and compare with as many others; None takes all.

    Raises:
        InputError: If the folder holds too few clips, or the produced tracks are not installed.
    """
    embedder = make_embedder("musicnn")
    kinds = {"corpus": _corpus_clips(corpus), "produced tracks": _track_clips()}
    kinds = {name: (decoded[:max_clips], others[:max_clips]) for name, (decoded, others) in kinds.items()}
    others = {name: _hear(embedder, clips) for name, (_, clips) in kinds.items()}
    rows = []
    for name, (clips, _) in kinds.items():
        kid = kernel_inception_distance(_hear(embedder, clips), others[name], resamples=0).value
        rows.append(Row(f"untouched, {name}: KID", "1", [kid]))
    for config in candidates():
        latents = config.n_mels * config.width_px // _DOWNSAMPLING**2
        for name, (clips, _) in kinds.items():
            decoded, errors_db = _round_trip(config, clips)
            kid = kernel_inception_distance(_hear(embedder, decoded), others[name], resamples=0).value
            what = f"{config.name} ({latents} latents), {name}:"
            rows += [Row(f"{what} KID", "1", [kid]), Row(f"{what} log-mel error 0-10 kHz", "dB", errors_db)]
    return rows


def _round_trip(config: SpectrogramConfig, clips: Sequence[Clip]) -> tuple[list[Clip], list[float]]:
    """Return the decoded clips, and the log-mel error below 10 kHz of some."""
    codec, decoded, errors_db = make_codec(config), [], []
    for index, (wav, rate_hz) in enumerate(clips):
        sound = resample(wav, rate_hz, config.rate_hz)
        encoded = codec.encode(sound)
        result = codec.decode(encoded.image, encoded.max_value)
        decoded.append((result, config.rate_hz))
        if index % _COMPARED_EVERY == 0:
            mono = sound.mean(0, keepdims=True)[:, : result.shape[1]]
            errors_db.append(compare_sounds(mono, config.rate_hz, result, config.rate_hz).log_mel_10k_db)
    return decoded, errors_db


def _hear(embedder: Embedder, clips: Sequence[Clip]) -> npt.NDArray[np.float32]:
    return np.stack([heard.embedding for heard in embedder.hear(clips)])


def _corpus_clips(folder: Path) -> tuple[list[Clip], list[Clip]]:
    files = sorted(folder.glob("*.flac"))[: _DECODED + _REFERENCE]
    if len(files) < _DECODED + _REFERENCE:
        raise InputError(f"corpus={folder}: has {len(files)} .flac files, {_DECODED + _REFERENCE} are needed")
    clips = [read_audio(file) for file in files]
    return clips[:_DECODED], clips[_DECODED:]


def _track_clips() -> tuple[list[Clip], list[Clip]]:
    """Return the even and the odd clips of the produced tracks."""
    try:
        files = importlib.metadata.distribution("immich-memories-music").files or ()
    except importlib.metadata.PackageNotFoundError:
        raise InputError("the produced tracks are missing: pip install 'riffusion-train[demo,dev]'") from None
    even: list[Clip] = []
    odd: list[Clip] = []
    for file in sorted(str(file.locate()) for file in files if str(file).endswith(".opus")):
        wav, rate_hz = read_audio(Path(file))
        samples = round(_CLIP_S * rate_hz)
        for number in range(min(wav.shape[1] // samples, _CLIPS_OF_A_TRACK)):
            clip = (wav[:, number * samples : (number + 1) * samples], rate_hz)
            (odd if number % 2 else even).append(clip)
    return even, odd


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 0 done, 2 invalid input."""

    def work() -> None:
        usage = "corpus=DIR, clips=N or out=DIR"
        arguments = parse_arguments(arguments_of(argv), usage, keys=("corpus", "clips", "out"))
        if "corpus" not in arguments.values:
            raise InputError("give corpus=DIR, a folder that python -m data_prep.corpus wrote")
        corpus = Path(arguments.values["corpus"])
        command = f"python -m benchmarks.codec_presets corpus={corpus}"
        measure("codec_presets", command, lambda quick, number: run(corpus, number), arguments)

    return exit_code("codec_presets", work)


if __name__ == "__main__":
    sys.exit(main())

"""`riffusion spectrogram encode AUDIO IMAGE.png`, or into a folder of slices."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.audio.codec.slices import OVERLAP_PX, SLICE_KEY, slice_starts, slice_text
from riffusion_train.cli.spectrogram.words import (
    DEFAULT_PRESET,
    channels_of,
    flag,
    preset_of,
    warn,
    whole_number,
)
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from riffusion_train.audio.codec.codec import SpectrogramCodec


def run(files: Sequence[Path], options: Mapping[str, str]) -> None:
    """Encode an audio file of any length.

    Raises:
        InputError: If the words or the files cannot be used.
    """
    from riffusion_train.audio.codec.analysis import sound_warnings
    from riffusion_train.audio.codec.codec import make_codec
    from riffusion_train.audio.io.read import load_audio, resample

    audio, out = files
    sliced = flag(options, "slices") or "width" in options
    if not sliced and out.suffix.lower() != ".png":
        raise InputError(f"{out}: the image must be a .png, which is lossless; a folder takes slices=true")
    if sliced and out.suffix.lower() == ".png":
        raise InputError(f"{out}: slices are written into a folder; name one")
    config = preset_of(options.get("preset", DEFAULT_PRESET))
    if "channels" in options:
        config = dataclasses.replace(config, channels=channels_of(options["channels"]))
    if "width" in options:
        config = dataclasses.replace(config, width_px=whole_number(options, "width", config.width_px))
    codec = make_codec(config)
    loaded = load_audio(audio)
    warn(audio, [*loaded.warnings, *sound_warnings(loaded.wav, loaded.rate_hz, config)])
    wav = resample(loaded.wav, loaded.rate_hz, codec.rate_hz)
    duration_s = loaded.wav.shape[1] / loaded.rate_hz
    written = _write_slices(audio, out, wav, codec, options) if sliced else _write_strip(audio, out, wav, codec)
    print(f"wrote {written} for {duration_s:.2f} s of audio, preset {config.name}")


def _write_strip(audio: Path, out: Path, wav: "np.ndarray", codec: "SpectrogramCodec") -> str:
    from riffusion_train.audio.codec.analysis import clipping_warnings
    from riffusion_train.audio.codec.image_file import require_size, save_image

    require_size(_strip_px(wav, codec.config), codec.config.n_mels, str(out))  # before the work, not after
    encoded = codec.encode_long(wav)
    save_image(out, encoded, codec.config)
    warn(audio, clipping_warnings([encoded.image], codec.config))
    height, width = encoded.image.shape[:2]
    return f"{out}: {width}x{height} px"


def _write_slices(
    audio: Path, folder: Path, wav: "np.ndarray", codec: "SpectrogramCodec", options: Mapping[str, str]
) -> str:
    from riffusion_train.audio.codec.analysis import clipping_warnings
    from riffusion_train.audio.codec.image_file import save_image

    config = codec.config
    strip_px = _strip_px(wav, config)
    overlap_px = whole_number(options, "overlap", min(OVERLAP_PX, config.width_px // 4))
    starts = slice_starts(strip_px, config.width_px, overlap_px)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder}: is a file; name a folder for the slices") from None
    if any(folder.glob("*.png")):
        raise InputError(f"{folder}: holds images already, which decode would mix with these; name another folder")
    images = []
    digits = max(3, len(str(len(starts) - 1)))
    for index, start_px in enumerate(starts):
        encoded = codec.encode(wav[:, start_px * config.hop_length :][:, : config.clip_samples])
        images.append(encoded.image)
        path = folder / f"{audio.stem}-{index:0{digits}d}.png"
        save_image(path, encoded, config, {SLICE_KEY: slice_text(index, starts, strip_px, audio.name)})
    warn(audio, clipping_warnings(images, config))
    plural = "s" if len(starts) > 1 else ""
    return f"{folder}: {len(starts)} slice{plural} of {config.width_px}x{config.n_mels} px, {overlap_px} px shared,"


def _strip_px(wav: "np.ndarray", config: SpectrogramConfig) -> int:
    return wav.shape[1] // config.hop_length + 1

"""`riffusion spectrogram compare A B [OUT.png]`: how far one sound is from another, in figures and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.cli.spectrogram.decode import decode_images
from riffusion_train.cli.spectrogram.words import IMAGE_SUFFIXES, warn
from riffusion_train.runtime.errors import InputError, choice

if TYPE_CHECKING:
    import numpy as np

    from riffusion_train.audio.compare import SoundDistance

_LONGEST_S = 1800


def run(files: Sequence[Path], options: Mapping[str, str]) -> None:
    """Print the distances of two sounds, and draw them where a picture is named.

    Raises:
        InputError: If the words or the files cannot be used.
    """
    from riffusion_train.audio.compare import compare_sounds

    first, second, *pictures = files
    match_level = choice("level", options.get("level", "match"), ("match", "keep")) == "match"
    if pictures and pictures[0].suffix.lower() != ".png":
        raise InputError(f"{pictures[0]}: the picture must be a .png")
    (a, a_rate_hz), (b, b_rate_hz) = (_sound(path, options) for path in (first, second))
    durations_s = [a.shape[1] / a_rate_hz, b.shape[1] / b_rate_hz]
    if abs(durations_s[0] - durations_s[1]) > 0.1:
        warn(second, [f"lasts {durations_s[1]:.2f} s, not {durations_s[0]:.2f} s; only what A covers is compared"])
    if len(a) != len(b) and 1 in (len(a), len(b)):
        mono, other = (first, second) if len(a) == 1 else (second, first)
        warn(mono, [f"is mono; {other} is mixed down to mono for the comparison"])
        a, b = a.mean(0, keepdims=True), b.mean(0, keepdims=True)
    try:
        distance = compare_sounds(a, a_rate_hz, b, b_rate_hz, match_level=match_level)
    except InputError as error:
        raise InputError(f"{first}, {second}: {error}") from None
    print(_table(first, second, distance, match_level))
    if pictures:
        from riffusion_train.audio.plots import draw_comparison, write_image

        gain = 10 ** (distance.gain_db / 20)
        picture = draw_comparison(a, a_rate_hz, b * gain, b_rate_hz, (first.name, second.name))
        write_image(pictures[0], picture)
        print(f"wrote {pictures[0]}")


def _sound(path: Path, options: Mapping[str, str]) -> tuple["np.ndarray", int]:
    from riffusion_train.audio.io.read import load_audio

    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        decoded = decode_images([path], options)
        wav, rate_hz = decoded.wav, decoded.rate_hz
    else:
        loaded = load_audio(path)
        warn(path, loaded.warnings)
        wav, rate_hz = loaded.wav, loaded.rate_hz
    if wav.shape[1] > _LONGEST_S * rate_hz:
        warn(path, [f"is longer than {_LONGEST_S // 60} minutes; the first {_LONGEST_S // 60} are compared"])
    return wav[:, : _LONGEST_S * rate_hz], rate_hz


def _table(first: Path, second: Path, distance: "SoundDistance", match_level: bool) -> str:
    from riffusion_train.audio.compare import BAND_EDGES_HZ

    level = f"{first.name} is {distance.gain_db:+.2f} dB louder, evened out" if match_level else "levels kept"
    rows = [
        ("log-mel error, 0-16 kHz", f"{distance.log_mel_db:.3f} dB"),
        ("log-mel error, 0-10 kHz", f"{distance.log_mel_10k_db:.3f} dB"),
        ("spectral convergence", f"{distance.spectral_convergence:.4f}"),
        ("multi-resolution STFT", f"{distance.multi_resolution_stft:.4f}"),
    ]
    if distance.coherence_error is not None:
        rows.append(("inter-channel coherence error", f"{distance.coherence_error:.4f}"))
    lines = [f"{second} against {first} ({level})", *(f"  {name:<32}{value}" for name, value in rows)]
    lines.append(f"  {'band':<20}{'log-mel error':>16}{'level':>12}")
    bands = zip(
        BAND_EDGES_HZ[:-1], BAND_EDGES_HZ[1:], distance.band_log_mel_db, distance.band_level_db, strict=True
    )  # fmt: skip
    for low, high, error_db, level_db in bands:
        lines.append(f"  {f'{low}-{high} Hz':<20}{error_db:>13.3f} dB{level_db:>+9.2f} dB")
    return "\n".join(lines)

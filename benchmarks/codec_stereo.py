"""How much of the width of a stereo sound survives: `hifi_stereo` beside channels decoded each for itself."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.clips import Clip
from benchmarks.report import Goal, Row
from riffusion_train.audio.codec.codec import make_codec
from riffusion_train.audio.compare import SoundDistance, compare_sounds
from riffusion_train.config.spectrogram import load_preset

_RATE_HZ = 44100


def stereo_rows(clips: Sequence[Clip]) -> list[Row]:
    """Return rows about the stereo clips of a set; the reference decodes left and right apart, as the original does."""
    wide = [clip for clip in clips if not np.array_equal(*clip.wav)]
    preset = dataclasses.replace(load_preset("hifi_stereo"), width_px=wide[0].wav.shape[1] // 441 + 1)
    stereo = make_codec(preset)
    mono = make_codec(dataclasses.replace(load_preset("hifi"), width_px=preset.width_px))
    together, apart = [], []
    for clip in wide:
        encoded = stereo.encode(clip.wav)
        wav = stereo.decode(encoded.image, encoded.max_value)
        together.append(compare_sounds(clip.wav, _RATE_HZ, wav, _RATE_HZ))
        sides = []
        for channel, side in enumerate(clip.wav):
            encoded = mono.encode(side[None])
            sides.append(mono.decode(encoded.image, encoded.max_value, seed=channel))
        apart.append(compare_sounds(clip.wav, _RATE_HZ, np.concatenate(sides), _RATE_HZ))

    def row(figure: str, what: str, unit: str, goal: Goal | None = None, limit: float = 0.0) -> Row:
        ours, reference = ([_value(item, figure) for item in found] for found in (together, apart))
        return Row(f"hifi_stereo {what}, against channels apart", unit, ours, reference, goal, limit)

    return [
        row("coherence_error", "inter-channel coherence error", "1", Goal.ours_at_most, 0.05),
        row("log_mel_db", "log-mel error 0-16 kHz", "dB"),
        row("spectral_convergence", "spectral convergence", "1"),
    ]


def _value(distance: SoundDistance, figure: str) -> float:
    return float(getattr(distance, figure))

"""Where the beats of a track are, for windows that begin on them."""

import numpy as np
import numpy.typing as npt

from riffusion_train.runtime.errors import InputError

_RATE_HZ = 22050
_HOP_LENGTH = 512
BEATS_A_BAR = 4


def check_librosa() -> None:
    """Refuse to look for beats without librosa.

    Raises:
        InputError: If it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("librosa") is None:
        raise InputError("windows=beats and windows=bars need librosa; pip install 'riffusion-train[measure]'")


def find_beats(wav: npt.NDArray[np.float32], rate_hz: int, bars: bool = False) -> list[int]:
    """Return the starts of the beats in samples, by librosa's dynamic programming (Ellis 2007); empty where nothing beats.

    Args:
        wav: Sound, shape (channels, samples).
        rate_hz: Its sample rate.
        bars: Return each fourth beat only: those of the four phases on which the onsets are strongest. A bar of four beats is
            assumed.
    """
    import soxr
    from librosa.beat import beat_track
    from librosa.onset import onset_strength

    mono = np.asarray(soxr.resample(wav.mean(axis=0), rate_hz, _RATE_HZ), np.float32)
    onsets = onset_strength(y=mono, sr=_RATE_HZ, hop_length=_HOP_LENGTH)
    if not onsets.any():
        return []
    _, frames = beat_track(onset_envelope=onsets, sr=_RATE_HZ, hop_length=_HOP_LENGTH, trim=False)
    if bars and len(frames):
        phases = [float(onsets[frames[phase::BEATS_A_BAR]].mean()) for phase in range(min(BEATS_A_BAR, len(frames)))]
        frames = frames[int(np.argmax(phases)) :: BEATS_A_BAR]
    return [round(float(frame) * _HOP_LENGTH * rate_hz / _RATE_HZ) for frame in frames]

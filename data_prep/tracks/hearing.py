"""Hearing a track: the scores of both taggers in patches that are spread over it, and what is measured in it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_prep.captions.heard import PATCH_S, Heard, kept_scores
from data_prep.tracks.measuring import Measured

ATTRIBUTES = ("bpm", "key", "loudness", "brightness")
"""What is measured in every track that is heard, of `measuring.ATTRIBUTES`."""
MEASURED_S = 15.0
"""How much of a track is measured, from its middle, if it is only heard: tempo and key cost as much as the taggers."""
_APART_S = 6.0
"""Least distance of two patches: a track of 30 s has five, however many are allowed."""
_BAND_STEP = 2
"""Of the taggers: half the time. The thresholds of the tags are those of this step."""
_LEVEL_LUFS = -14.0
"""Loudness at which the taggers hear every track; their scores depend on it."""


class TrackListener:
    """Hears tracks with the taggers that ship with the package.

    Args:
        most_patches: Most patches of a track that are heard.
    """

    def __init__(self, most_patches: int) -> None:
        from riffusion_train.listening.musicnn import MusicnnEmbedder  # loads both taggers

        self._embedder = MusicnnEmbedder(band_step=_BAND_STEP)
        self._most_patches = most_patches

    def hear(
        self,
        wav: npt.NDArray[np.float32],
        rate_hz: int,
        measured: Measured,
        lufs: float | None,
        gain_db: float,
        slices: Sequence[tuple[float, float]],
    ) -> Heard:
        """Hear a track.

        Args:
            wav: Sound, shape (channels, samples), not silent.
            rate_hz: Its sample rate.
            measured: What was measured in it.
            lufs: Its integrated loudness before the gain.
            gain_db: The gain that it has got.
            slices: Start and length of its slices in seconds.
        """
        duration_s = wav.shape[1] / rate_hz
        starts_s = patch_times(duration_s, self._most_patches)
        missing_db = 0.0 if lufs is None else _LEVEL_LUFS - lufs - gain_db
        level = np.float32(10 ** (missing_db / 20))
        patches = [wav[:, round(start_s * rate_hz) :][:, : round(PATCH_S * rate_hz)] * level for start_s in starts_s]
        heard = self._embedder.hear([(patch, rate_hz) for patch in patches])
        scores = np.stack([patch.patch_tags.mean(axis=0) for patch in heard])  # (patches, tags)
        return Heard(
            starts_s=tuple(round(start_s, 3) for start_s in starts_s),
            scores=kept_scores(dict(zip(self._embedder.tag_names, scores.T, strict=True))),
            slices=tuple((round(start_s, 3), round(length_s, 3)) for start_s, length_s in slices),
            bpm=measured.bpm,
            bpm_strength=round(measured.bpm_strength, 3),
            key=measured.key,
            key_strength=round(measured.key_strength, 3),
            lufs=lufs,
            loudness=measured.loudness,
            brightness_hz=None if measured.brightness_hz is None else round(measured.brightness_hz, 1),
            brightness=measured.brightness,
            drums=measured.drums,
            evidence=measured.evidence,
        )


def patch_times(duration_s: float, most: int) -> list[float]:
    """Return where the patches of a track start, in seconds: each in the middle of an equal part of the track.

    Args:
        duration_s: Length of the track.
        most: Most patches.
    """
    count = max(1, min(most, round(duration_s / _APART_S)))
    part_s = duration_s / count
    return [max(0.0, (number + 0.5) * part_s - PATCH_S / 2) for number in range(count)]

import io

import numpy as np
import pytest
import soundfile
import soxr
from support.sounds import RATE_HZ, music

from data_prep.tracks.measuring import fingerprint_words, from_text, similar_pairs, similarity, to_text


def mp3(wav):
    sink = io.BytesIO()
    soundfile.write(sink, wav.T, RATE_HZ, format="MP3")
    return soundfile.read(io.BytesIO(sink.getvalue()), dtype="float32", always_2d=True)[0].T


COPIES = {
    "quieter": lambda wav: (0.3 * wav, RATE_HZ),
    "mp3": lambda wav: (mp3(wav), RATE_HZ),
    "22 kHz": lambda wav: (soxr.resample(wav.T, RATE_HZ, 22050).T, 22050),
    "stereo": lambda wav: (np.repeat(wav, 2, axis=0), RATE_HZ),
    "cut 0.3 s later": lambda wav: (wav[:, round(0.3 * RATE_HZ) :], RATE_HZ),
    "without its end": lambda wav: (wav[:, : 8 * RATE_HZ], RATE_HZ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_among_other_music(kind):
    tracks = [fingerprint_words(music(seed), RATE_HZ) for seed in range(4)]
    tracks.append(fingerprint_words(*COPIES[kind](music(2))))
    assert [(first, second) for first, second, _ in similar_pairs(tracks, 0.75)] == [(2, 4)]


def test_other_music_and_another_pitch_are_far_from_alike():
    tracks = [fingerprint_words(music(seed), RATE_HZ) for seed in range(6)]
    raised = soxr.resample(music(0).T, RATE_HZ * 2 ** (1 / 12), RATE_HZ).T.astype(np.float32)
    tracks.append(fingerprint_words(raised, RATE_HZ))
    assert similar_pairs(tracks, 0.7) == []
    assert max(similarity(tracks[0], other, 0) for other in tracks[1:]) < 0.65


def test_silence_and_very_short_sounds_are_like_nothing():
    tracks = [fingerprint_words(np.zeros((1, samples), np.float32), RATE_HZ) for samples in (100, 441000, 441000)]
    assert similar_pairs(tracks, 0.75) == [] and similar_pairs([], 0.75) == []


def test_a_fingerprint_survives_as_text():
    words = fingerprint_words(music(0), RATE_HZ)
    np.testing.assert_array_equal(from_text(to_text(words)), words)

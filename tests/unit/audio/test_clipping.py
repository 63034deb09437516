import numpy as np
from support.corpus_files import noise, tone

from data_prep.tracks.measuring import pcm_hash
from riffusion_train.audio.loudness import CLIPPED_SHARE, clipped_share
from riffusion_train.audio.read import Samples


def test_flat_tops_at_full_scale_are_clipping_and_a_high_peak_is_not():
    clean = tone(220, 2.0)
    clean = clean / np.abs(clean).max()
    assert clipped_share(clean) < CLIPPED_SHARE
    hot = np.clip(1.5 * clean, -1, 1)
    assert clipped_share(hot) > 0.05
    assert clipped_share(np.repeat(hot, 2, axis=0)) == clipped_share(hot)
    assert clipped_share(0.5 * hot) == 0  # quiet flat tops may be a square wave


def test_only_the_peaks_of_noise_do_not_count():
    wav = noise(1, 1.0)
    assert clipped_share(wav / np.abs(wav).max()) == 0


def hash_of(wav, rate_hz):
    return pcm_hash(Samples.of(wav), rate_hz)


def test_the_hash_of_samples_knows_samples_rate_and_shape():
    wav = tone(220, 0.1)
    hashes = {hash_of(wav, 44100), hash_of(wav, 48000), hash_of(wav.reshape(2, -1), 44100), hash_of(-wav, 44100)}
    assert len(hashes) == 4 and hash_of(wav.copy(), 44100) in hashes

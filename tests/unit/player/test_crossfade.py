import numpy as np
import pytest

from riffusion_train.player.segments import crossfade, to_pcm

RATE_HZ = 16000
LENGTH = 16000
FADE = 2000
CEILING = 10 ** (-1 / 20)


def tone(hz: int, phase: float = 0.0, level: float = 0.5) -> np.ndarray:
    """A tone with whole periods, so that it loops."""
    time_s = np.arange(LENGTH) / RATE_HZ
    return (level * np.sin(2 * np.pi * hz * time_s + phase)).astype(np.float32)[None]


def noise(seed: int, level: float = 0.2) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal((1, LENGTH))).clip(-CEILING, CEILING).astype(np.float32)


def endless(loops: list[np.ndarray]) -> np.ndarray:
    previous = [None, *loops[:-1]]
    return np.concatenate(
        [crossfade(one, other, FADE, RATE_HZ) for one, other in zip(previous, loops, strict=True)], axis=1
    )


def test_the_step_at_a_cut_is_no_larger_than_the_steps_inside_and_no_sample_is_missing():
    loops = [tone(hz, phase) for hz, phase in ((220, 0.3), (330, 1.0), (331, 2.0), (880, 3.0), (110, 4.0))]
    wav = endless(loops)[0]
    assert len(wav) == 5 * LENGTH
    steps = np.abs(np.diff(wav))
    cuts = np.arange(1, 5) * LENGTH - 1
    for cut in cuts:
        assert steps[cut] <= np.delete(steps, cuts)[cut - 400 : cut + 400].max() * 1.001


def test_the_second_derivative_has_no_corner_at_a_cut_either():
    wav = endless([tone(220), tone(330), tone(440)])[0].astype(np.float64)
    bends = np.abs(np.diff(wav, 2))
    for cut in (LENGTH, 2 * LENGTH):
        assert bends[cut - 2 : cut + 1].max() <= bends[cut - 400 : cut - 10].max() * 1.01


def test_a_segment_begins_with_the_clip_before_and_ends_with_its_own():
    before, loop = noise(1), noise(2)
    segment = crossfade(before, loop, FADE, RATE_HZ)
    np.testing.assert_array_equal(segment[:, :100], before[:, :100])
    np.testing.assert_array_equal(segment[:, FADE + 400 :], loop[:, FADE + 400 :])


def test_a_clip_that_follows_itself_stays_unchanged():
    loop = tone(330, level=0.8)
    np.testing.assert_allclose(crossfade(loop, loop, FADE, RATE_HZ), loop, atol=1e-5)


def test_the_power_of_two_unlike_sounds_does_not_sag_in_the_crossfade():
    segment = crossfade(noise(1), noise(2), FADE, RATE_HZ)
    level = np.sqrt(np.square(segment[0, 700:1300]).mean())
    assert level == pytest.approx(0.2, rel=0.1)


def test_peaks_that_add_up_are_held_under_the_ceiling_and_the_cuts_are_left_alone():
    loops = [noise(seed, level=0.6) for seed in range(4)]
    wav = endless(loops)
    assert np.abs(wav).max() <= CEILING + 1e-6
    for index in range(1, 4):
        cut = index * LENGTH
        assert wav[0, cut] == pytest.approx(float(loops[index - 1][0, 0]), rel=1e-6)
        np.testing.assert_allclose(wav[:, cut : cut + 20], loops[index - 1][:, :20], atol=1e-4)


def test_stereo_keeps_its_channels_apart():
    left, right = tone(220), tone(550)
    segment = crossfade(np.concatenate([left, right]), np.concatenate([left, right]), FADE, RATE_HZ)
    np.testing.assert_allclose(segment, np.concatenate([left, right]), atol=1e-5)


def test_silence_before_or_after_is_no_trouble():
    silence = np.zeros((1, LENGTH), np.float32)
    assert np.isfinite(crossfade(silence, noise(1), FADE, RATE_HZ)).all()
    assert not crossfade(silence, silence, FADE, RATE_HZ).any()


def test_samples_become_little_endian_integers_side_by_side():
    wav = np.array([[0.0, 1.0, 2.0], [-1.0, 0.5, -2.0]], np.float32)
    assert np.frombuffer(to_pcm(wav), "<i2").tolist() == [0, -32767, 32767, 16384, 32767, -32767]

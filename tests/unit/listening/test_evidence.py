"""Evidence for statements about a sound: support for a tempo, notes for a key, strokes in bands."""

import numpy as np
import pytest

from riffusion_train.listening.attributes import (
    BANDS_HZ,
    RATE_HZ,
    TEMPI_BPM,
    Evidence,
    chroma_of,
    gather_evidence,
    key_fits,
    relative_key,
    strokes_of,
    support_of,
)


def evidence_of(mono):
    return gather_evidence(mono, chroma_of(mono))


def clicks(bpm, duration_s=6.0):
    """Short noises on each beat over soft noise."""
    rng = np.random.default_rng(0)
    wav = 0.001 * rng.standard_normal(round(duration_s * RATE_HZ))
    for start_s in np.arange(0.1, duration_s - 0.1, 60 / bpm):
        start = round(start_s * RATE_HZ)
        wav[start : start + 1000] += 0.5 * rng.standard_normal(1000) * np.linspace(1, 0, 1000) ** 2
    return wav.astype(np.float32)


def scale(notes, step_s=0.5):
    time_s = np.arange(round(step_s * RATE_HZ)) / RATE_HZ
    tones = [np.sin(2 * np.pi * 261.63 * 2 ** (note / 12) * time_s) * np.exp(-2 * time_s) for note in notes]
    return np.concatenate(tones).astype(np.float32)


@pytest.mark.parametrize("bpm", [72, 100, 128, 170])
def test_onsets_support_their_tempo_and_no_other_one(bpm):
    pulse = evidence_of(clicks(bpm)).pulse
    assert min(support_of(pulse, bpm), support_of(pulse, bpm / 2)) > 60  # nothing sounds at half a beat
    assert support_of(pulse, bpm * 1.15) < 40 and support_of(pulse, bpm * 0.87) < 40


def test_tempi_outside_the_measured_range_have_no_support():
    pulse = evidence_of(clicks(120)).pulse
    assert len(pulse) == len(TEMPI_BPM)
    assert support_of(pulse, 5) == support_of(pulse, 1000) == 0


def test_noise_has_no_pulse_and_silence_and_short_sounds_no_evidence():
    noise = np.random.default_rng(1).standard_normal(6 * RATE_HZ).astype(np.float32)
    assert support_of(evidence_of(noise).pulse, 120) < 100
    for sound in (np.zeros(6 * RATE_HZ, np.float32), noise[: RATE_HZ // 2]):
        evidence = evidence_of(sound)
        assert evidence.pulse == evidence.chroma == evidence.strokes == ()


def test_the_notes_of_a_scale_fit_its_key_and_relative_best():
    evidence = evidence_of(scale([0, 4, 7, 12, 7, 4, 5, 9, 7, 2, 4, 0]))
    assert sum(evidence.chroma) == pytest.approx(1, abs=0.01)
    fits = key_fits(np.array(evidence.chroma))
    assert max(fits, key=fits.get) == "C major"
    assert fits["F# major"] < 0 < fits["A minor"]


def test_relative_keys_have_the_same_notes():
    assert relative_key("C major") == "A minor" and relative_key("A minor") == "C major"
    assert relative_key("A# major") == "G minor" and relative_key("C# minor") == "E major"


def plucks(duration_s=6.0):
    """Tones with 40 partials that begin as suddenly as the clicks and ring on."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    since_s = np.mod(time_s, 0.5)
    partials = [np.sin(2 * np.pi * 220 * number * since_s) / number for number in range(1, 41)]
    return (0.2 * np.sum(partials, axis=0) * np.exp(-3 * since_s)).astype(np.float32)


def by_band(mono):
    """Return noisiness, highest noisiness, what is gone, and the product, one for each band."""
    return np.array(strokes_of(mono)).reshape(4, len(BANDS_HZ))


def test_strokes_are_noisy_and_over_soon_and_plucked_tones_are_neither():
    strokes, tones = by_band(clicks(120)), by_band(plucks())
    assert strokes[0, 1:].min() > 0.35 > 0.3 > tones[1, 1:].max()
    assert strokes[2].min() > 0.9 > 0.6 > tones[2, 1:].max()
    assert strokes[3, 1:].min() > 0.3 > 0.1 > tones[3, 1:].max()


def test_hiss_is_no_stroke():
    hiss = by_band(np.random.default_rng(1).standard_normal(6 * RATE_HZ).astype(np.float32))
    assert hiss[0].min() > 0.3 > hiss[3, 1:].max()


def test_strokes_are_over_soon_in_a_loud_tone_as_well():
    tone = 0.3 * np.sin(2 * np.pi * 3000 * np.arange(6 * RATE_HZ) / RATE_HZ)
    assert by_band((clicks(120) + tone).astype(np.float32))[2].min() > 0.9


def test_a_band_without_sound_has_no_strokes():
    swelling = np.sin(2 * np.pi * 300 * np.arange(3 * RATE_HZ) / RATE_HZ) * np.hanning(3 * RATE_HZ)
    assert not by_band(swelling.astype(np.float32))[:, 3:].any()


def test_evidence_of_another_version_is_read_without_what_it_lacks():
    assert Evidence.from_data({"chroma": [0.5, 0.5], "percussive": [0.1]}) == Evidence(chroma=(0.5, 0.5))


def test_evidence_survives_as_data():
    evidence = evidence_of(clicks(120))
    assert Evidence.from_data(evidence.as_data()) == evidence

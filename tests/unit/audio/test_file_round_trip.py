"""Sound to an image file and back, for whatever hypothesis thinks of."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.image_file import load_image, save_image
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.audio.write import write_audio
from riffusion_train.config.spectrogram import Channels, load_preset

PRESETS = ("riffusion_v1", "hifi", "hifi_stereo", "small", "tiny")
KINDS = ("silence", "tone", "noise", "constant", "clipped", "click")
CODECS = {preset: make_codec(load_preset(preset)) for preset in PRESETS}
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sound(kind: str, channels: int, samples: int, level: float) -> np.ndarray:
    rng = np.random.default_rng(samples)
    time = np.arange(samples)
    waves = {
        "silence": np.zeros((channels, samples)),
        "tone": np.sin(0.05 * time) * np.ones((channels, 1)),
        "noise": rng.standard_normal((channels, samples)) / 4,
        "constant": np.ones((channels, samples)),
        "clipped": np.clip(20 * np.sin(0.03 * time), -1, 1) * np.ones((channels, 1)),
        "click": (time == samples // 2) * np.ones((channels, 1)),
    }
    return (level * waves[kind]).astype(np.float32)


@few
@given(
    preset=st.sampled_from(PRESETS),
    kind=st.sampled_from(KINDS),
    channels=st.integers(1, 3),
    samples=st.integers(1, 12_000),
    rate_hz=st.sampled_from((8000, 22050, 44100, 48000, 192_000)),
    level=st.floats(1e-4, 4.0),
    suffix=st.sampled_from((".wav", ".flac")),
)
def test_any_sound_goes_through_files_and_comes_back(
    tmp_path: Path, preset: str, kind: str, channels: int, samples: int, rate_hz: int, level: float, suffix: str
):
    codec = CODECS[preset]
    written = sound(kind, channels, samples, level)
    write_audio(tmp_path / f"in{suffix}", written, rate_hz)
    wav, read_hz = read_audio(tmp_path / f"in{suffix}")
    assert wav.shape == written.shape
    encoded = codec.encode_long(resample(wav, read_hz, codec.rate_hz))
    save_image(tmp_path / "a.png", encoded, codec.config)
    loaded = load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded.image, _as_loaded(encoded.image))
    assert (loaded.config, loaded.max_value) == (codec.config, encoded.max_value)
    decoded = codec.decode(loaded.image, loaded.max_value, quality="draft")
    assert decoded.shape[0] == (1 if codec.config.channels is Channels.mono else 2)
    assert np.isfinite(decoded).all()
    if kind == "silence":
        assert not decoded.any()
    # No sound comes back much louder than it went in, whatever it was.
    assert float(np.abs(decoded).max()) <= 4 * float(np.abs(wav).max()) + 1e-3


@few
@given(
    preset=st.sampled_from(PRESETS),
    channels=st.sampled_from(list(Channels)),
    width=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    max_value=st.floats(0, 1e12),
    texts=st.dictionaries(
        st.from_regex(r"[a-z]{1,20}", fullmatch=True).filter(lambda key: key != "spectrogram"),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80),
        max_size=3,
    ),
)
def test_any_image_keeps_its_pixels_and_what_it_says_of_itself(
    tmp_path: Path, preset: str, channels: Channels, width: int, seed: int, max_value: float, texts: dict[str, str]
):
    from riffusion_train.audio.codec import EncodedClip

    config = dataclasses.replace(load_preset(preset), channels=channels)
    shape = (config.n_mels, width) if channels is Channels.mono else (config.n_mels, width, 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    save_image(tmp_path / "a.png", EncodedClip(image, max_value), config, texts)
    loaded = load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded.image, _as_loaded(image))
    assert (loaded.config, loaded.max_value, loaded.texts) == (config, pytest.approx(max_value, abs=0), texts)


def _as_loaded(image: np.ndarray) -> np.ndarray:
    """A colour image whose colours are all equal is read as the grey one that it is."""
    return image[..., 0] if image.ndim == 3 and bool((image[..., :1] == image).all()) else image

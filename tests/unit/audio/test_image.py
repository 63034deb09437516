import dataclasses
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from riffusion_train.audio.codec import EncodedClip, make_codec
from riffusion_train.audio.image_file import load_image, save_image
from riffusion_train.config.spectrogram import Channels, SpectrogramConfig, load_preset
from riffusion_train.runtime.errors import InputError

ORIGINAL_TAGS = {
    11000: 44100, 11005: 0, 11010: 10, 11020: 100, 11030: 400, 11040: 512, 11050: 0, 11060: 10000, 11070: 0.25,
    11080: 46801012.0,
}  # fmt: skip


def picture(height: int, channels: Channels = Channels.mono) -> np.ndarray:
    shape = (height, 20) if channels is Channels.mono else (height, 20, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_with_tags(path: Path, tags: dict[int, float]) -> None:
    exif = PIL.Image.Exif()
    exif.update(tags)
    PIL.Image.fromarray(picture(512)).convert("RGB").save(path, exif=exif)


@pytest.mark.parametrize("channels", list(Channels))
@pytest.mark.parametrize("preset", ["riffusion_v1", "hifi", "small"])
def test_a_saved_image_gives_back_pixels_codec_maximum_and_texts(tmp_path: Path, preset: str, channels: Channels):
    path = tmp_path / "clip.png"
    config = dataclasses.replace(load_preset(preset), channels=channels)
    encoded = EncodedClip(picture(config.n_mels, channels), 12345.678)
    texts = {"prompt": 'drums, "loud" & für ♫', "seed": "7"}
    save_image(path, encoded, config, texts)
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded.image, encoded.image)
    assert (loaded.config, loaded.max_value, loaded.texts) == (config, encoded.max_value, texts)


def test_the_png_text_is_the_json_of_the_codec(tmp_path: Path):
    path = tmp_path / "clip.png"
    save_image(path, EncodedClip(picture(128), 5.0), load_preset("small"))
    with PIL.Image.open(path) as file:
        data = json.loads(file.text["spectrogram"])
    assert data["max_value"] == 5.0
    assert data["spectrogram"]["n_mels"] == 128


def test_riffusion_v1_images_carry_the_tags_of_the_original(tmp_path: Path):
    path = tmp_path / "clip.png"
    save_image(path, EncodedClip(picture(512), 46801012.0), SpectrogramConfig())
    with PIL.Image.open(path) as file:
        assert dict(file.getexif()) == ORIGINAL_TAGS


@pytest.mark.parametrize("preset", ["hifi", "small"])
def test_presets_that_the_original_tags_cannot_express_carry_none(tmp_path: Path, preset: str):
    path = tmp_path / "clip.png"
    config = load_preset(preset)
    save_image(path, EncodedClip(picture(config.n_mels), 1.0), config)
    with PIL.Image.open(path) as file:
        assert dict(file.getexif()) == {}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_of_the_original_is_known_by_its_tags(tmp_path: Path, suffix: str):
    path = tmp_path / f"clip{suffix}"
    write_with_tags(path, {**ORIGINAL_TAGS, 11005: 1})
    loaded = load_image(path)
    assert loaded.config == dataclasses.replace(load_preset("riffusion_v1"), channels=Channels.stereo)
    assert loaded.max_value == 46801012.0


def test_other_parameters_in_the_tags_of_the_original_make_a_codec_that_works(tmp_path: Path):
    path = tmp_path / "clip.png"
    write_with_tags(path, {**ORIGINAL_TAGS, 11000: 22050, 11050: 10, 11060: 11000})
    config = load_image(path).config
    assert config is not None
    assert (config.rate_hz, config.hop_length, config.win_length, config.n_fft) == (22050, 220, 2205, 8820)
    assert make_codec(config).config.f_min_hz == 10.0


def test_an_image_that_says_nothing_gives_no_codec(tmp_path: Path):
    path = tmp_path / "bare.png"
    PIL.Image.fromarray(picture(512)).save(path)
    loaded = load_image(path)
    assert (loaded.config, loaded.max_value, loaded.texts) == (None, None, {})


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_file_that_is_no_image_is_one_line_with_its_name(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an image") as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_a_missing_image_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.png: No such file"):
        load_image(tmp_path / "absent.png")


def test_incomplete_tags_are_named(tmp_path: Path):
    path = tmp_path / "clip.png"
    write_with_tags(path, {11000: 44100})
    with pytest.raises(InputError, match="11000 to 11080 are incomplete"):
        load_image(path)

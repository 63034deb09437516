import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.sounds import tone

from riffusion_train.audio.codec.codec import make_codec
from riffusion_train.audio.vocoder import Vocoder, VocoderSize, write_vocoder
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.runtime.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_vocoder(tmp_path / "vocoder", Vocoder(load_preset("small"), VocoderSize(16, 32, 2)))
    return tmp_path / "vocoder"


def test_a_saved_vocoder_decodes_in_place_of_the_inverters(folder: Path):
    codec = make_codec(load_preset("small"), vocoder=folder)
    encoded = codec.encode_long(tone(440.0, 1.0, codec.rate_hz))
    wav = codec.decode(encoded.image, encoded.max_value)
    assert wav.shape == (1, (encoded.image.shape[1] - 1) * 882)
    assert wav.dtype == np.float32
    assert np.isfinite(wav).all()
    assert wav.any()
    np.testing.assert_array_equal(
        wav, make_codec(load_preset("small"), folder).decode(encoded.image, encoded.max_value)
    )
    assert not np.allclose(wav, make_codec(load_preset("small")).decode(encoded.image, encoded.max_value))


def test_white_is_silence_for_a_vocoder_too(folder: Path):
    codec = make_codec(load_preset("small"), vocoder=folder)
    assert not codec.decode(np.full((128, 20), 255, np.uint8)).any()


def test_the_width_of_a_clip_and_the_grid_of_the_inverters_do_not_matter(folder: Path):
    image = np.random.default_rng(0).integers(0, 256, (128, 20), np.uint8)
    mine = dataclasses.replace(load_preset("small"), width_px=256, decode_n_fft=8192, name="mine")
    heard = make_codec(mine, vocoder=folder).decode(image)
    np.testing.assert_array_equal(heard, make_codec(load_preset("small"), vocoder=folder).decode(image))


@pytest.mark.parametrize(
    ("preset", "part"),
    [
        ("tiny", r"trained for 'small' with hop_length=882 \(not 1764\), n_mels=128 \(not 64\)"),
        ("hifi", "scale=per_image"),
    ],
)
def test_a_vocoder_for_another_codec_is_refused(folder: Path, preset: str, part: str):
    with pytest.raises(InputError, match=part) as caught:
        make_codec(load_preset(preset), vocoder=folder)
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files_are_named(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"vocoder\.json: no such file"):
        make_codec(load_preset("small"), vocoder=tmp_path / "absent")
    (folder / "vocoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"vocoder\.safetensors: its weights are not those"):
        make_codec(load_preset("small"), vocoder=folder)
    (folder / "vocoder.safetensors").unlink()
    with pytest.raises(InputError, match=r"vocoder\.safetensors: no such file"):
        make_codec(load_preset("small"), vocoder=folder)

import dataclasses

import pytest

from riffusion_train.config.spectrogram import Channels, Scale, SpectrogramConfig, from_data, load_preset, to_data
from riffusion_train.runtime.errors import InputError

PRESETS = ("riffusion_v1", "hifi", "hifi_stereo", "small", "tiny")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_its_json_form(preset: str):
    config = load_preset(preset)
    assert from_data(to_data(config), "here") == config
    assert config.name == preset


def test_a_description_of_version_1_is_scaled_per_image():
    data = to_data(dataclasses.replace(load_preset("hifi"), name="old"))
    data["schema_version"] = 1
    for name in ("scale", "reference_value"):
        del data["spectrogram"][name]
    config = from_data(data, "here")
    assert (config.name, config.scale, config.win_length) == ("old", Scale.per_image, 1764)


def test_the_presets_for_published_models_and_the_demo_keep_their_scale_per_image():
    scales = {preset: load_preset(preset).scale for preset in PRESETS}
    assert [preset for preset, scale in scales.items() if scale is Scale.absolute] == ["hifi", "hifi_stereo"]
    assert load_preset("hifi_stereo").channels is Channels.stereo_phase


def test_the_preset_of_the_published_model_repeats_the_defaults():
    assert load_preset("riffusion_v1") == SpectrogramConfig()


def test_hifi_stereo_is_hifi_but_for_its_channels():
    stereo, mono = load_preset("hifi_stereo"), load_preset("hifi")
    assert dataclasses.replace(stereo, name=mono.name, channels=mono.channels) == mono
    assert (stereo.num_channels, mono.num_channels) == (2, 1)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"schema_version": 3}, "schema version 3 is not one of 1 to 2"),
        ({"schema_version": None}, "schema version None"),
        ({"spectrogram": [1]}, "must be an object"),
        ({"spectrogram": {"n_mels": 512}}, "unknown or missing fields: channels"),
    ],
)
def test_another_schema_or_missing_fields_are_refused(change: dict[str, object], part: str):
    with pytest.raises(InputError, match=part):
        from_data({**to_data(SpectrogramConfig()), **change}, "here")


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [("scale", "loud", "'loud' is not a valid Scale"), ("n_mels", "512", "n_mels must be a number, not '512'")],
)
def test_a_field_of_another_kind_is_named(field: str, value: object, part: str):
    data = to_data(SpectrogramConfig())
    data["spectrogram"][field] = value
    with pytest.raises(InputError, match=part):
        from_data(data, "here")

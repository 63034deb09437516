from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.ldm_layout import write_single_file
from support.worlds import NANO_MODEL, NANO_SPECTROGRAM

from riffusion_train.config.compose import compose
from riffusion_train.config.errors import InputError
from riffusion_train.config.model import ModelConfig
from riffusion_train.config.spectrogram import to_data
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.build import make_components
from riffusion_train.model.components import Components, load_components
from riffusion_train.model.single_file import load_single_file, read_metadata_spectrogram


@pytest.fixture(scope="module")
def sizes() -> ModelConfig:
    return compose("train", TrainConfig, ["dataset=x", *NANO_MODEL]).model


@pytest.fixture(scope="module")
def components(sizes: ModelConfig) -> Components:
    return make_components(sizes, seed=0)


def test_a_single_file_gives_back_every_weight(tmp_path: Path, sizes: ModelConfig, components: Components) -> None:
    write_single_file(tmp_path / "model.safetensors", components)
    parts = load_single_file(tmp_path / "model.safetensors", sizes)
    for name, module in components.modules.items():
        loaded = parts[name].state_dict()
        for key, tensor in module.state_dict().items():
            assert torch.equal(loaded[key], tensor), f"{name}.{key}"


def test_a_model_from_a_single_file_runs(tmp_path: Path, sizes: ModelConfig, components: Components) -> None:
    write_single_file(tmp_path / "model.safetensors", components)
    parts = load_single_file(tmp_path / "model.safetensors", sizes)
    ids = components.tokenizer("a band", padding="max_length", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = components.text_encoder(ids).last_hidden_state
        assert torch.equal(parts["text_encoder"](ids).last_hidden_state, expected)


def test_the_codec_is_read_from_the_metadata(tmp_path: Path) -> None:
    import json

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"spectrogram": json.dumps(to_data(NANO_SPECTROGRAM))})
    assert read_metadata_spectrogram(path) == NANO_SPECTROGRAM


def test_a_file_with_a_missing_key_is_refused_by_name(
    tmp_path: Path, sizes: ModelConfig, components: Components
) -> None:
    path = tmp_path / "model.safetensors"
    write_single_file(path, components)
    tensors = load_file(path)
    del tensors["cond_stage_model.transformer.text_model.final_layer_norm.weight"]
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"text encoder is not .* final_layer_norm\.weight"):
        load_single_file(path, sizes)


def test_a_file_of_another_architecture_is_refused(tmp_path: Path, components: Components) -> None:
    path = tmp_path / "model.safetensors"
    write_single_file(path, components)
    with pytest.raises(InputError, match=r"is not Stable Diffusion 1\.5's"):
        load_components(str(path))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("model.ckpt", b"pickle", "only .safetensors files are read"),
        ("model.safetensors", b"", "not a whole safetensors file"),
        ("model.safetensors", b"\x80\x04pickled", "not a whole safetensors file"),
    ],
)
def test_an_unreadable_file_is_one_line(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as error:
        load_components(str(tmp_path / name))
    assert "\n" not in str(error.value)

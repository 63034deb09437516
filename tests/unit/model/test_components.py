import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.nano import NANO_MODEL, NANO_SPECTROGRAM

from riffusion_train.config.compose import compose
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.loading import load_components, make_components
from riffusion_train.model.weights import as_lazy_model
from riffusion_train.runtime.errors import InputError


@pytest.fixture(scope="module")
def components() -> Components:
    built = make_components(compose("train", TrainConfig, ["dataset=x", *NANO_MODEL]).model, seed=0)
    built.spectrogram = NANO_SPECTROGRAM
    return built


def test_a_written_model_reads_back_bit_for_bit(tmp_path: Path, components: Components) -> None:
    write_model(tmp_path / "model", as_lazy_model(components))
    loaded = load_components(str(tmp_path / "model"))
    assert {name: fingerprint(m) for name, m in loaded.modules.items()} == {
        name: fingerprint(m) for name, m in components.modules.items()
    }
    assert loaded.spectrogram == NANO_SPECTROGRAM
    assert loaded.tokenizer("a band")["input_ids"] == components.tokenizer("a band")["input_ids"]


def test_the_pipeline_of_diffusers_opens_a_written_model(tmp_path: Path, components: Components) -> None:
    from diffusers import StableDiffusionPipeline

    write_model(tmp_path / "model", as_lazy_model(components))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a band", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (32, 32, 3)
    assert np.isfinite(image).all()


def test_the_same_seed_builds_the_same_weights_and_leaves_torch_alone(components: Components) -> None:
    model = compose("train", TrainConfig, ["dataset=x", *NANO_MODEL]).model
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again, other = make_components(model, seed=0), make_components(model, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert fingerprint(again.unet) == fingerprint(components.unet)
    assert fingerprint(other.unet) != fingerprint(components.unet)


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_components(str(tmp_path / "nothing"))


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model_index\.json"):
        load_components(str(tmp_path))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_truncated_part_is_named(tmp_path: Path, components: Components, part: str) -> None:
    write_model(tmp_path / "model", as_lazy_model(components))
    weights = next((tmp_path / "model" / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"cannot read its {part}") as error:
        load_components(str(tmp_path / "model"))
    assert "\n" not in str(error.value)


def test_a_part_without_safetensors_is_refused(tmp_path: Path, components: Components) -> None:
    write_model(tmp_path / "model", as_lazy_model(components))
    weights = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    torch.save(components.unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(InputError, match="cannot read its unet"):
        load_components(str(tmp_path / "model"))


def test_the_written_index_names_every_part(tmp_path: Path, components: Components) -> None:
    write_model(tmp_path / "model", as_lazy_model(components))
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        assert (tmp_path / "model" / part).is_dir()
        assert index[part][1]
    assert (tmp_path / "model" / "tokenizer" / "vocab.json").is_file()

from pathlib import Path

import pytest
import torch
from support.worlds import train_config, write_dataset

from riffusion_train.config.errors import InputError
from riffusion_train.export.folder import export_diffusers
from riffusion_train.model.adapt import add_lora, load_lora, merge_lora
from riffusion_train.model.build import make_components
from riffusion_train.model.components import fingerprint, load_components
from riffusion_train.training.setup import run_training

LORA = ["method=lora", "method.lora_alpha=8", "max_train_steps=3", "schedule=constant", "optimizer.lr=1e-2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    return run_training(train_config(write_dataset(folder / "dataset"), folder / "run", *LORA), [])


def predict(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noisy, states = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 16, generator=generator)
    with torch.no_grad():
        return unet(noisy, 500, states).sample


def test_merged_adapters_predict_what_the_adapters_predict(run: Path, tmp_path: Path) -> None:
    config = train_config(tmp_path, tmp_path, *LORA)
    components = make_components(config.model, config.seed)
    plain = predict(components.unet)
    load_lora(components.unet, str(run / "final"))
    adapted = predict(components.unet)
    merge_lora(components.unet)
    assert torch.allclose(predict(components.unet), adapted, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    assert not any("lora" in name for name in components.unet.state_dict())


def test_an_exported_lora_run_is_its_base_with_the_adapters_merged(run: Path, tmp_path: Path) -> None:
    export_diffusers(run, tmp_path / "model")
    config = train_config(tmp_path, tmp_path, *LORA)
    base = make_components(config.model, config.seed)
    exported = load_components(str(tmp_path / "model"))
    assert fingerprint(exported.vae) == fingerprint(base.vae)
    load_lora(base.unet, str(run / "final"))
    assert torch.allclose(predict(exported.unet), predict(base.unet), atol=1e-5)


def test_the_adapters_are_read_by_the_pipeline_of_diffusers(run: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    config = train_config(tmp_path, tmp_path, *LORA)
    base = make_components(config.model, config.seed)
    load_lora(base.unet, str(run / "final"))
    parts = make_components(config.model, config.seed)
    pipeline = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(str(run / "final"))
    assert torch.allclose(predict(pipeline.unet), predict(base.unet), atol=1e-6)


def test_adapters_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    config = train_config(tmp_path, tmp_path, "model.unet_block_out_channels=[32,32]")
    other = make_components(config.model, config.seed)
    with pytest.raises(InputError, match="do not fit the model"):
        load_lora(other.unet, str(run / "final"))


def test_an_unknown_layer_name_is_refused(tmp_path: Path) -> None:
    components = make_components(train_config(tmp_path, tmp_path).model, seed=0)
    with pytest.raises(InputError, match="no linear layer named to_nowhere"):
        add_lora(components.unet, rank=4, alpha=4, target_modules=["to_nowhere"])

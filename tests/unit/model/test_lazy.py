import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import nano_components

from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.loading import load_components, open_model
from riffusion_train.model.weights import as_lazy_model, lazy_fingerprint, load_lazy_model
from riffusion_train.runtime.errors import InputError


@pytest.fixture(scope="module")
def components() -> Components:
    return nano_components()


@pytest.fixture
def folder(tmp_path: Path, components: Components) -> Path:
    write_model(tmp_path / "model", as_lazy_model(components))
    return tmp_path / "model"


def test_the_text_encoder_is_written_as_transformers_4_names_it(folder: Path, components: Components) -> None:
    from transformers import CLIPTextModel

    keys = load_file(folder / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in keys)
    by_transformers_5 = CLIPTextModel.from_pretrained(folder / "text_encoder")
    assert fingerprint(by_transformers_5) == fingerprint(components.text_encoder)


def test_flat_names_and_a_saved_constant_of_the_text_encoder_are_understood(
    folder: Path, components: Components
) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    flat = {key.removeprefix("text_model."): tensor for key, tensor in load_file(path).items()}
    save_file(flat | {"embeddings.position_ids": torch.arange(77)[None]}, path)
    assert fingerprint(load_components(str(folder)).text_encoder) == fingerprint(components.text_encoder)


def test_the_vae_of_old_diffusers_is_understood(folder: Path, components: Components) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {}
    for key, tensor in load_file(path).items():
        for new, name in (
            (".to_q.", ".query."),
            (".to_k.", ".key."),
            (".to_v.", ".value."),
            (".to_out.0.", ".proj_attn."),
        ):
            key = key.replace(new, name)
        old[key] = tensor
    assert any(".proj_attn." in key for key in old)
    save_file(old, path)
    assert fingerprint(load_components(str(folder)).vae) == fingerprint(components.vae)


def test_a_sharded_part_is_put_together(folder: Path, components: Components) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    shards = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / "unet" / shard)
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()
    assert fingerprint(load_components(str(folder)).unet) == fingerprint(components.unet)


def test_a_pickled_part_is_read_only_where_it_is_allowed(folder: Path, components: Components) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(InputError, match=r"cannot read its unet .*allow_pickle=true"):
        open_model(str(folder))
    opened = open_model(str(folder), allow_pickle=True)
    assert fingerprint(load_lazy_model(opened).unet) == fingerprint(components.unet)


def test_a_folder_with_a_missing_key_is_refused_by_name(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"unet does not fit .* 1 missing: conv_in\.bias"):
        load_components(str(folder))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"cross_attention_dim": 1024}, "Stable Diffusion 2.x"),
        ({"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ({"in_channels": 9}, "inpainting"),
    ],
)
def test_folders_of_other_models_are_refused(folder: Path, changes: dict[str, object], complaint: str) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(InputError, match=complaint):
        open_model(str(folder))


def test_a_stored_model_has_the_fingerprint_of_the_network(folder: Path, components: Components) -> None:
    for model in (open_model(str(folder)), as_lazy_model(components)):
        for part, module in components.modules.items():
            assert lazy_fingerprint(model.tensors[part]) == fingerprint(module)


def test_replacing_an_unknown_weight_is_refused(components: Components) -> None:
    model = as_lazy_model(components)
    with pytest.raises(KeyError):
        model.replaced({"unet.nowhere": model.tensors["unet"]["conv_in.bias"]})

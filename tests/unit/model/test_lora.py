import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.models import nano_components, nano_lora, predict

from riffusion_train.model.components import Components, freeze
from riffusion_train.model.lora import (
    LORA_FILE,
    PEFT_FILE,
    Lora,
    LoraLayer,
    adapter_weights,
    add_lora,
    merge_lora,
    read_lora,
    write_diffusers_lora,
    write_kohya_lora,
)
from riffusion_train.model.weights import as_lazy_model, load_lazy_model
from riffusion_train.runtime.errors import InputError


@pytest.fixture(scope="module")
def base() -> Components:
    return nano_components()


@pytest.fixture(scope="module")
def lora(base: Components) -> Lora:
    return nano_lora(base, text=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, lora: Lora) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lora")
    write_diffusers_lora(folder / LORA_FILE, lora, extra={})
    write_kohya_lora(folder / "kohya.safetensors", lora, extra={})
    return {"diffusers": folder / LORA_FILE, "kohya": folder / "kohya.safetensors"}


def same(one: Lora, other: Lora) -> bool:
    return set(one.layers) == set(other.layers) and all(
        torch.equal(layer.down, other.layers[name].down)
        and torch.equal(layer.up, other.layers[name].up)
        and layer.alpha == other.layers[name].alpha
        for name, layer in one.layers.items()
    )


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_both_layouts_give_back_every_number_and_the_codec(
    layout: str, files: dict[str, Path], base: Components, lora: Lora
) -> None:
    read = read_lora(files[layout], base.modules)
    assert same(read, lora)
    assert read.layout == layout
    assert read.spectrogram == lora.spectrogram


def test_diffusers_to_kohya_and_back_predicts_the_same(
    files: dict[str, Path], base: Components, tmp_path: Path
) -> None:
    write_kohya_lora(tmp_path / "k.safetensors", read_lora(files["diffusers"], base.modules), extra={})
    write_diffusers_lora(tmp_path / LORA_FILE, read_lora(tmp_path / "k.safetensors", base.modules), extra={})
    outputs = []
    for path in (files["diffusers"], tmp_path / LORA_FILE):
        unet = nano_components().unet
        unet.load_lora_adapter(str(path.parent), weight_name=path.name, prefix="unet", use_safetensors=True)
        outputs.append(predict(unet))
    assert (outputs[0] - outputs[1]).abs().max() <= 1e-6
    assert not torch.allclose(outputs[0], predict(base.unet), atol=1e-3)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_the_pipeline_of_diffusers_reads_our_files_as_we_merge_them(
    layout: str, files: dict[str, Path], lora: Lora
) -> None:
    from diffusers import StableDiffusionPipeline

    parts = nano_components()
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    pipeline = StableDiffusionPipeline(
        **{name: getattr(parts, name) for name in names},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(str(files[layout].parent), weight_name=files[layout].name)
    ours = nano_components()
    weights = merge_lora(as_lazy_model(ours), lora)
    for part, module in ours.modules.items():
        module.load_state_dict({name: tensor.load() for name, tensor in weights.tensors[part].items()}, strict=True)
    assert torch.allclose(predict(pipeline.unet), predict(ours.unet), atol=1e-4)
    ids = parts.tokenizer("a band", padding="max_length", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = pipeline.text_encoder(ids).last_hidden_state
        assert torch.allclose(theirs, ours.text_encoder(ids).last_hidden_state, atol=1e-4)


def test_kohya_keeps_an_alpha_beside_every_layer(files: dict[str, Path], lora: Lora) -> None:
    tensors = load_file(files["kohya"])
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert float(tensors[f"{name}.alpha"]) == 3.0
    assert tensors[f"{name}.lora_down.weight"].shape == (2, 16)
    assert len(tensors) == 3 * len(lora.layers)
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in tensors
    with safe_open(files["kohya"], framework="pt") as file:
        assert file.metadata()["ss_network_dim"] == "2"


def test_layers_with_alphas_and_ranks_of_their_own_keep_them(base: Components, lora: Lora, tmp_path: Path) -> None:
    name = next(iter(lora.layers))
    size = lora.layers[name].size
    odd = LoraLayer(torch.randn(4, size[1]), torch.randn(size[0], 4), 1.5)
    write_diffusers_lora(
        tmp_path / "l.safetensors", dataclasses.replace(lora, layers=lora.layers | {name: odd}), extra={}
    )
    read = read_lora(tmp_path / "l.safetensors", base.modules)
    assert (read.layers[name].rank, read.layers[name].alpha) == (4, 1.5)
    assert {layer.alpha for other, layer in read.layers.items() if other != name} == {3.0}


def test_convolutions_are_merged(base: Components, tmp_path: Path) -> None:
    down, up = torch.randn(2, 16, 3, 3), torch.randn(16, 2, 1, 1)
    path = tmp_path / "conv.safetensors"
    name = "lora_unet_mid_block_resnets_0_conv1"
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}, path
    )
    changed = merge_lora(as_lazy_model(base), read_lora(path, base.modules), scale=0.5)
    added = (
        changed.tensors["unet"]["mid_block.resnets.0.conv1.weight"].load() - base.unet.mid_block.resnets[0].conv1.weight
    )
    x = torch.randn(1, 16, 5, 5)
    expected = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up) * 0.25
    assert torch.allclose(torch.nn.functional.conv2d(x, added, padding=1), expected, atol=1e-4)


def test_files_of_older_diffusers_are_read(base: Components, lora: Lora, tmp_path: Path) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    layer = lora.layers[f"unet.{name}.to_out.0"]
    for index, (down, up) in enumerate(
        [
            (f"unet.{name}.to_out.0.lora.down.weight", f"unet.{name}.to_out.0.lora.up.weight"),
            (f"unet.{name}.processor.to_out_lora.down.weight", f"unet.{name}.processor.to_out_lora.up.weight"),
            (f"{name}.processor.to_out_lora.down.weight", f"{name}.processor.to_out_lora.up.weight"),
        ]
    ):
        path = tmp_path / f"{index}.safetensors"
        save_file({down: layer.down, up: layer.up}, path)
        read = read_lora(path, base.modules)
        assert list(read.layers) == [f"unet.{name}.to_out.0"]
        assert read.layers[f"unet.{name}.to_out.0"].alpha == 2.0  # without a word about it: the rank


def test_a_lora_of_another_base_is_refused(files: dict[str, Path]) -> None:
    other = nano_components("model.unet_block_out_channels=[32,32]")
    for path in files.values():
        with pytest.raises(InputError, match="was trained on another base than my model") as error:
            read_lora(path, other.modules, "my model")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"lora_unet_nowhere.lora_down.weight": torch.zeros(2, 2)}, "1 unexpected keys: lora_unet_nowhere"),
        ({"lora_te1_text_model_x.lora_down.weight": torch.zeros(2, 2)}, "does not fit"),
        ({"a.hada_w1_a": torch.zeros(2, 2)}, "this is a LoHa adapter"),
        ({"conv_in.weight": torch.zeros(2, 2)}, "not a LoRA"),
        ({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": torch.zeros(2, 16, 3, 3)}, "only one half"),
    ],
)
def test_other_files_are_refused(
    tensors: dict[str, torch.Tensor], complaint: str, base: Components, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "l.safetensors")
    with pytest.raises(InputError, match=complaint):
        read_lora(tmp_path / "l.safetensors", base.modules)


def test_a_dora_is_refused(base: Components, files: dict[str, Path], tmp_path: Path) -> None:
    text = {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}
    save_file(load_file(files["diffusers"]), tmp_path / "l.safetensors", text)
    with pytest.raises(InputError, match="a DoRA"):
        read_lora(tmp_path / "l.safetensors", base.modules)


def test_the_merged_model_is_read_whole(base: Components, lora: Lora) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = lora.layers[f"unet.{name}"]
    before = base.unet.get_submodule(name).weight.clone()
    read = load_lazy_model(merge_lora(as_lazy_model(nano_components()), lora))
    expected = before + 1.5 * layer.up @ layer.down
    assert torch.allclose(read.unet.get_submodule(name).weight, expected, atol=1e-6)


def test_an_unknown_layer_name_is_refused() -> None:
    with pytest.raises(InputError, match="no linear layer named to_nowhere"):
        add_lora(nano_components().unet, rank=4, alpha=4, target_modules=["to_nowhere"], seed=0)


def test_new_adapters_are_a_function_of_the_seed() -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        parts = nano_components()
        freeze(parts)
        add_lora(parts.unet, rank=4, alpha=4, target_modules=["to_q", "to_v"], seed=seed, use_dora=True)
        return adapter_weights(parts)

    first, again, other = start(3), start(3), start(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    downs = [name for name in first if ".lora_A." in name]
    assert not any(torch.equal(first[name], other[name]) for name in downs)
    assert len({float(first[name].detach()[0, 0]) for name in downs}) == len(downs)
    assert 0.2 < float(torch.cat([first[name].detach().flatten() for name in downs]).std()) < 0.3


PEFT_KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"attn2.to_q": 2, r".*up_blocks.*attn1\.to_k": 6},
        "alpha_pattern": {"attn2.to_q": 3, r".*up_blocks.*attn1\.to_k": 5},
        "use_rslora": True,
    },
}


def peft_folder(folder: Path, network: torch.nn.Module, targets: Sequence[str], **options: Any) -> torch.nn.Module:
    """Put trained-looking adapters on a network with peft, save them as peft does, and return peft's network."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(network, LoraConfig(target_modules=list(targets), **options))
    draw = torch.Generator().manual_seed(5)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            shift = torch.randn(weight.shape, generator=draw).abs() * 0.1
            weight.data = weight.data + shift if "magnitude" in name else shift
    adapted.save_pretrained(str(folder))
    return adapted.eval()


def merged(path: Path) -> Components:
    ours = nano_components()
    return load_lazy_model(merge_lora(as_lazy_model(ours), read_lora(path, ours.modules)))


@pytest.mark.parametrize("kind", PEFT_KINDS)
def test_adapters_of_peft_are_merged_at_the_strength_that_peft_gives_them(kind: str, tmp_path: Path) -> None:
    base = nano_components()
    plain = predict(base.unet)
    targets = ["to_q", "to_k", "to_out.0", "conv1"]
    theirs = predict(peft_folder(tmp_path / "unet", base.unet, targets, **PEFT_KINDS[kind]))
    assert (theirs - plain).abs().max() > 0.05
    text = nano_components().text_encoder
    adapted = peft_folder(tmp_path / "text_encoder", text, ["q_proj", "fc1"], **PEFT_KINDS["rslora"])
    ours = merged(tmp_path)  # both folders at once, as diffusers' example of peft writes them
    assert (predict(ours.unet) - theirs).abs().max() <= 1e-5
    ids = torch.arange(77)[None]
    with torch.no_grad():
        difference = adapted(ids).last_hidden_state - ours.text_encoder(ids).last_hidden_state
    assert difference.abs().max() <= 1e-5
    alone = merged(tmp_path / "unet" / PEFT_FILE)  # the config is read beside the file
    assert (predict(alone.unet) - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (None, "does not say how strong its adapters are; put the adapter_config.json"),
        ("{", "adapter_config.json is not valid JSON"),
        ({"r": 4}, "has no lora_alpha"),
        ({"peft_type": "LOHA", "alpha": 4}, "these are LOHA adapters"),
        ({"lora_alpha": 8, "init_lora_weights": "pissa_niter_4"}, "has changed the base too"),
        ({"lora_alpha": 8, "alpha_pattern": {"(": 2}}, "cannot be read from its config"),
        ({"lora_alpha": 8, "use_dora": True}, "says that it is a DoRA"),
    ],
)
def test_adapters_of_peft_whose_strength_is_unknown_are_refused(
    config: Any, complaint: str, base: Components, lora: Lora, tmp_path: Path
) -> None:
    name = next(name for name in lora.layers if name.startswith("unet."))
    start = "base_model.model." + name.removeprefix("unet.")
    layer = lora.layers[name]
    save_file({f"{start}.lora_A.weight": layer.down, f"{start}.lora_B.weight": layer.up}, tmp_path / PEFT_FILE)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=complaint) as error:
        read_lora(tmp_path, base.modules)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3])
def test_adapters_that_are_not_numbers_are_refused(
    value: float, files: dict[str, Path], base: Components, tmp_path: Path
) -> None:
    tensors = load_file(files["kohya"])
    name = next(name for name in tensors if name.endswith("lora_up.weight"))
    tensors[name] = torch.full(tensors[name].shape, value)
    save_file(tensors, tmp_path / "l.safetensors")
    with pytest.raises(InputError, match=f"{name} (has values that are NaN or infinite|holds int64)"):
        read_lora(tmp_path / "l.safetensors", base.modules)

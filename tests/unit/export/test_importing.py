import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.models import nano_components, nano_lora
from support.nano import NANO_SPECTROGRAM

from riffusion_train.cli.model import main_doctor
from riffusion_train.config.model import ExportFormat, LoraLayout
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.export.describe import describe
from riffusion_train.export.write import import_model
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.loading import load_components, open_model
from riffusion_train.model.lora import LORA_FILE, Lora, write_diffusers_lora, write_kohya_lora
from riffusion_train.model.weights import as_lazy_model
from riffusion_train.runtime.errors import InputError


@pytest.fixture(scope="module")
def components() -> Components:
    return nano_components()


@pytest.fixture(scope="module")
def lora(components: Components) -> Lora:
    return nano_lora(components)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, components: Components, lora: Lora) -> Path:
    """A model and adapters in every format."""
    folder = tmp_path_factory.mktemp("shelf")
    components.spectrogram = None
    write_model(folder / "model", as_lazy_model(components))
    import_model(str(folder / "model"), folder / "model.safetensors", kind=ExportFormat.single_file)
    (folder / "lora").mkdir()
    write_diffusers_lora(folder / "lora" / LORA_FILE, lora, extra={})
    write_kohya_lora(folder / "kohya.safetensors", lora, extra={})
    (folder / "peft").mkdir()
    tensors = {
        name.replace("unet.", "base_model.model.", 1): one
        for name, one in load_file(folder / "lora" / LORA_FILE).items()
    }
    save_file(tensors, folder / "peft" / "adapter_model.safetensors")
    for name, end in (("loha", ".hada_w1_a"), ("lokr", ".lokr_w1_a"), ("full", ".diff")):
        save_file({f"lora_unet_mid_block_attentions_0_proj_in{end}": torch.zeros(2, 2)}, folder / f"{name}.safetensors")
    weights = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    (folder / "unet.safetensors").write_bytes(weights.read_bytes())
    return folder


def test_a_model_gets_the_codec_that_it_did_not_name(shelf: Path, tmp_path: Path) -> None:
    import_model(str(shelf / "model.safetensors"), tmp_path / "m", codec="riffusion_v1")
    assert open_model(str(tmp_path / "m")).skeleton.spectrogram == load_preset("riffusion_v1")


@pytest.mark.parametrize("source", ["lora", "kohya.safetensors"])
def test_a_lora_is_merged_into_any_base_and_brings_its_codec(
    source: str, shelf: Path, lora: Lora, components: Components, tmp_path: Path
) -> None:
    import_model(str(shelf / source), tmp_path / "m", base=str(shelf / "model.safetensors"), lora_scale=0.5)
    merged = load_components(str(tmp_path / "m"))
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    layer = lora.layers[f"unet.{name}"]
    expected = components.unet.get_submodule(name).weight + 0.5 * 1.5 * layer.up @ layer.down
    assert torch.allclose(merged.unet.get_submodule(name).weight, expected, atol=1e-6)
    assert merged.spectrogram == NANO_SPECTROGRAM


def test_a_lora_changes_its_layout(shelf: Path, tmp_path: Path) -> None:
    words = {"kind": ExportFormat.lora, "base": str(shelf / "model")}
    import_model(str(shelf / "lora"), tmp_path / "k.safetensors", layout=LoraLayout.kohya, **words)  # type: ignore[arg-type]
    words["layout"] = LoraLayout.diffusers
    import_model(str(tmp_path / "k.safetensors"), tmp_path / "back", **words)  # type: ignore[arg-type]
    before, after = load_file(shelf / "lora" / LORA_FILE), load_file(tmp_path / "back" / LORA_FILE)
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("source", "words", "complaint"),
    [
        ("lora", {}, "a LoRA is no whole model; give base=MODEL"),
        ("kohya.safetensors", {"kind": ExportFormat.lora}, "unexpected keys|another base"),
        ("model", {"kind": ExportFormat.lora}, "a whole model holds no adapters"),
        ("model", {"base": "x/y"}, "needs no base"),
        ("model", {"codec": "nonsense"}, "unknown spectrogram preset 'nonsense'"),
        ("nothing", {}, "no such file or folder"),
        ("nothing", {"base": "x/y"}, "nothing: no such file or folder"),
        ("./none.safetensors", {"base": "x/y"}, "none.safetensors: no such file or folder"),
        ("loha.safetensors", {"base": "model"}, "this is a LoHa adapter; of adapters, only LoRA and DoRA are read"),
        ("lokr.safetensors", {"base": "model"}, "this is a LoKr adapter; of adapters"),
        ("full.safetensors", {"base": "model"}, "this is a LyCORIS adapter of full matrices; of adapters"),
        ("peft", {}, "a LoRA is no whole model; give base=MODEL"),
        ("peft", {"base": "model"}, "does not say how strong its adapters are"),
        ("unet.safetensors", {}, "a UNet alone, in diffusers' layout; complete it .* base=MODEL"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
    source: str, words: dict[str, object], complaint: str, shelf: Path, tmp_path: Path
) -> None:
    layout = LoraLayout.diffusers
    if words.get("base") == "model":
        words = words | {"base": str(shelf / "model")}
    with pytest.raises(InputError, match=complaint) as error:
        import_model(str(shelf / source), tmp_path / "m", layout=layout, **words)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["diffusers", "ldm", "bare ldm"])
def test_a_unet_alone_is_completed_by_a_base(kind: str, shelf: Path, tmp_path: Path) -> None:
    other = nano_components(seed=5)
    other.spectrogram = None
    write_model(tmp_path / "other", as_lazy_model(other))
    if kind == "diffusers":
        path = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    else:
        import_model(str(tmp_path / "other"), tmp_path / "whole.safetensors", kind=ExportFormat.single_file)
        start = "model.diffusion_model."
        cut = len(start) if kind == "bare ldm" else 0
        tensors = load_file(tmp_path / "whole.safetensors")
        path = tmp_path / "unet.safetensors"
        save_file({name[cut:]: one for name, one in tensors.items() if name.startswith(start)}, path)
    assert "base=MODEL" in describe(str(path)).sampler
    import_model(str(path), tmp_path / "m", base=str(shelf / "model"))
    made, base = load_components(str(tmp_path / "m")), load_components(str(shelf / "model"))
    assert fingerprint(made.unet) == fingerprint(other.unet)
    assert fingerprint(made.vae) == fingerprint(base.vae) != fingerprint(other.vae)


def test_a_lora_given_as_a_model_says_what_to_do(shelf: Path) -> None:
    for name in ("lora", "kohya.safetensors"):
        with pytest.raises(InputError, match=f"riffusion sample BASE --lora .*{name} .*riffusion import") as error:
            open_model(str(shelf / name))
        assert "\n" not in str(error.value)
        assert "--lora" in describe(str(shelf / name)).sampler
    assert describe(str(shelf / "peft")).sampler.startswith(
        "no: it does not say how strong it is; put the adapter_config.json"
    )


def test_an_import_says_what_it_is(shelf: Path, tmp_path: Path) -> None:
    import_model(str(shelf / "lora"), tmp_path / "m", base=str(shelf / "model"), lora_scale=0.5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert re.search(r"\| imported from \| `lora`, a LoRA of \d+ layers \|", card)
    assert str(shelf) not in card
    assert "| base model | model |" in card
    assert "| strength of the LoRA | 0.5 |" in card
    import_model(str(shelf / "model"), tmp_path / "m.safetensors", kind=ExportFormat.single_file)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        texts = file.metadata()
    assert texts["modelspec.title"] == "m"
    assert texts["modelspec.architecture"] == "latent-diffusion-of-another-size"
    assert texts["modelspec.prediction_type"] == "epsilon"
    import_model(str(shelf / "kohya.safetensors"), tmp_path / "l", kind=ExportFormat.lora, base=str(shelf / "model"))
    assert "| base model | model |" in (tmp_path / "l" / "README.md").read_text()
    with safe_open(tmp_path / "l" / "l.safetensors", framework="pt") as file:
        assert file.metadata()["ss_output_name"] == "l"


def broken(shelf: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Copy the model, with other weights in its UNet."""
    shutil.copytree(shelf / "model", folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return folder


def test_a_weight_that_is_no_number_is_named_when_the_model_is_loaded(shelf: Path, tmp_path: Path) -> None:
    def make_nan(tensors: dict[str, torch.Tensor]) -> None:
        tensors["conv_in.weight"][0, 0, 0, 0] = float("nan")

    with pytest.raises(InputError, match=r"its unet: conv_in.weight has values that are NaN or infinite: .* earlier"):
        load_components(str(broken(shelf, tmp_path / "nan", make_nan)))


def test_weights_of_whole_numbers_are_refused_and_make_the_doctor_fail(shelf: Path, tmp_path: Path) -> None:
    def make_whole(tensors: dict[str, torch.Tensor]) -> None:
        tensors["conv_in.weight"] = tensors["conv_in.weight"].view(torch.int32)

    path = broken(shelf, tmp_path / "whole", make_whole)
    with pytest.raises(InputError, match=r"its unet holds int32 instead of floating-point numbers: conv_in.weight"):
        open_model(str(path))
    assert "holds int32" in str(describe(str(path)).fault)


def test_the_doctor_fails_for_weights_that_cannot_be_read(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shelf / "model", tmp_path / "m")
    (tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read its vae"):
        main_doctor([str(tmp_path / "m")])
    assert "as a diffusers folder" in capsys.readouterr().out
    main_doctor([str(shelf / "model")])


def test_every_file_describes_itself(shelf: Path, tmp_path: Path) -> None:
    folder, single = describe(str(shelf / "model")), describe(str(shelf / "model.safetensors"))
    assert folder.what.endswith("as a diffusers folder")
    assert single.what.endswith("as one file in the LDM layout")
    for found in (folder, single):
        assert (found.target, found.codec, found.dtype.split(",")[0]) == ("epsilon", "not said", "float32")
        assert found.sampler.startswith("yes, with riffusion_v1 assumed")
    adapters, kohya = describe(str(shelf / "lora")), describe(str(shelf / "kohya.safetensors"))
    assert adapters.what.startswith("a LoRA in diffusers' layout: 16 layers of rank 2") or "of rank 2" in adapters.what
    assert kohya.what.startswith("a LoRA in kohya's layout")
    assert kohya.base == "sd_v1"
    assert adapters.codec.startswith("nano: 32 x 32 px")
    assert adapters.sampler.startswith("not alone; use it with its base")


def test_other_models_are_named_and_not_usable(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for key, name in (
        ("conditioner.embedders.0.x", "Stable Diffusion XL"),
        ("cond_stage_model.model.x", "Stable Diffusion 2"),
    ):
        save_file({key: torch.zeros(1)}, path)
        found = describe(str(path))
        assert found.what.startswith(name)
        assert found.sampler.startswith("no: ")
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.ckpt")
    assert "allow_pickle=true" in describe(str(tmp_path / "x.ckpt")).sampler

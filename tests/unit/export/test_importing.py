from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import nano_components, nano_lora
from support.nano import NANO_SPECTROGRAM

from riffusion_train.config.export import ExportFormat, LoraLayout
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.export.describe import describe
from riffusion_train.export.write import import_model
from riffusion_train.model.components import Components
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.lazy import as_lazy_model
from riffusion_train.model.loading import load_components, open_model
from riffusion_train.model.lora import LORA_FILE, Lora, write_diffusers_lora, write_kohya_lora
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
    ],
)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
    source: str, words: dict[str, object], complaint: str, shelf: Path, tmp_path: Path
) -> None:
    layout = LoraLayout.diffusers
    with pytest.raises(InputError, match=complaint) as error:
        import_model(str(shelf / source), tmp_path / "m", layout=layout, **words)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


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
    assert adapters.sampler.startswith("not alone; merge it")


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

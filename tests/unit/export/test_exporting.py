import base64
import datetime
import hashlib
import io
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support.models import nano_components, predict
from support.nano import NANO_SPECTROGRAM, train_config

from riffusion_train.config.compose import write_config
from riffusion_train.config.model import ExportDtype, ExportFormat, ExportWeights, LoraLayout, ModelConfig, ModelName
from riffusion_train.export import write
from riffusion_train.export.write import export_run
from riffusion_train.model.components import fingerprint
from riffusion_train.model.loading import load_components, make_components, open_model
from riffusion_train.model.lora import LORA_FILE, read_lora
from riffusion_train.model.single_file import ldm_names
from riffusion_train.model.weights import LazyTensor, in_memory
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import safetensors_header
from riffusion_train.training.run import run_training


def fingerprints(path: Path) -> dict[str, str]:
    return {name: fingerprint(module) for name, module in load_components(str(path)).modules.items()}


def test_an_export_is_the_final_model_with_its_codec_and_target(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "models" / "mine")
    exported = load_components(str(tmp_path / "models" / "mine"))
    assert {name: fingerprint(module) for name, module in exported.modules.items()} == fingerprints(run / "final")
    assert exported.spectrogram == NANO_SPECTROGRAM
    assert exported.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(("weights", "file"), [(ExportWeights.ema, "ema"), (ExportWeights.raw, "trained")])
def test_any_checkpoint_is_exported_with_the_weights_that_were_asked_for(
    weights: ExportWeights, file: str, run: Path, tmp_path: Path
) -> None:
    export_run(run, tmp_path / "m", checkpoint="2", weights=weights)
    folder = run / "checkpoints" / "step-000002"
    saved = load_file(folder / f"{file}.safetensors")
    unet = load_file(tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors")
    assert set(saved) == {f"unet.{name}" for name in unet}
    assert all(torch.equal(saved[f"unet.{name}"], tensor) for name, tensor in unet.items())
    assert json.loads((tmp_path / "m" / "training.json").read_text())["step"] == 2
    assert load_components(str(tmp_path / "m")).scheduler.config.prediction_type == "v_prediction"


def test_raw_weights_of_the_end_and_the_folder_of_a_checkpoint_are_understood(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "raw", weights=ExportWeights.raw)
    export_run(run / "checkpoints" / "step-000004", tmp_path / "same", weights=ExportWeights.raw)
    assert fingerprints(tmp_path / "raw") == fingerprints(tmp_path / "same") != fingerprints(run / "final")


def test_a_single_file_says_how_it_came_to_be(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    export_run(run, path, kind=ExportFormat.single_file, dtype=ExportDtype.fp16)
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    summary = json.loads(texts["riffusion_train"])
    assert (summary["step"], summary["weights"], summary["base_model"]) == (4, "ema", "random weights, seed 0")
    assert texts["modelspec.prediction_type"] == "v"
    packed = texts["modelspec.thumbnail"].partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(packed))) as picture:
        assert picture.size == (32, 32)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16, torch.int64}
    loaded = load_components(str(path))
    assert loaded.spectrogram == NANO_SPECTROGRAM
    assert loaded.scheduler.config.prediction_type == "v_prediction"


def test_a_lora_run_is_exported_merged_or_alone(lora_run: Path, tmp_path: Path) -> None:
    export_run(lora_run, tmp_path / "merged")
    export_run(lora_run, tmp_path / "alone", kind=ExportFormat.lora, layout=LoraLayout.diffusers)
    base = nano_components()
    assert fingerprints(tmp_path / "merged")["vae"] == fingerprint(base.vae)
    plain = predict(base.unet)
    base.unet.load_lora_adapter(str(lora_run / "final"), prefix="unet", use_safetensors=True)
    adapted = predict(base.unet)
    assert torch.allclose(predict(load_components(str(tmp_path / "merged")).unet), adapted, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    again = nano_components()
    again.unet.load_lora_adapter(str(tmp_path / "alone"), prefix="unet", use_safetensors=True)
    assert (predict(again.unet) - adapted).abs().max() <= 1e-6
    assert (tmp_path / "alone" / "spectrogram.json").is_file()


def test_the_checkpoint_of_a_lora_run_holds_the_same_adapters_as_its_end(lora_run: Path, tmp_path: Path) -> None:
    layout = LoraLayout.diffusers
    export_run(lora_run, tmp_path / "final", kind=ExportFormat.lora, layout=layout)
    export_run(lora_run, tmp_path / "newest", kind=ExportFormat.lora, layout=layout, checkpoint="newest")
    one, other = (load_file(tmp_path / name / LORA_FILE) for name in ("final", "newest"))
    assert set(one) == set(other)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_lora_runs_with_one_seed_end_with_equal_adapters(lora_run: Path, dataset: Path, tmp_path: Path) -> None:
    words = json.loads((lora_run / "overrides.jsonl").read_text())["overrides"]
    again = run_training(train_config(dataset, tmp_path / "again", *words), words)
    assert (again / "final" / LORA_FILE).read_bytes() == (lora_run / "final" / LORA_FILE).read_bytes()


def test_a_kohya_file_has_the_alpha_of_the_run(lora_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "l.safetensors"
    export_run(lora_run, path, kind=ExportFormat.lora)
    tensors = load_file(path)
    assert {float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")} == {8.0}


def test_adapters_are_written_in_kohyas_layout_unless_asked_otherwise(lora_run: Path, tmp_path: Path) -> None:
    export_run(lora_run, tmp_path / "l.safetensors", kind=ExportFormat.lora, author="me")
    export_run(lora_run, tmp_path / "mine", kind=ExportFormat.lora)
    assert (tmp_path / "mine" / "README.md").is_file()
    inside = tmp_path / "mine" / "mine.safetensors"
    one, other = load_file(tmp_path / "l.safetensors"), load_file(inside)
    assert set(one) == set(other)
    assert all(torch.equal(one[key], other[key]) for key in one)
    base = nano_components()
    read = read_lora(tmp_path / "mine", base.modules)
    assert (read.layout, read.spectrogram) == ("kohya", NANO_SPECTROGRAM)
    with safe_open(inside, framework="pt") as file:
        texts = file.metadata()
    assert texts["ss_output_name"] == "mine"
    content = inside.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert texts["sshs_model_hash"] == hashlib.sha256(content[start:]).hexdigest()
    assert texts["ss_base_model_version"] == "latent-diffusion-of-another-size"
    with safe_open(tmp_path / "l.safetensors", framework="pt") as file:
        texts = file.metadata()
    assert texts["ss_output_name"] == "l"
    assert texts["modelspec.author"] == "me"
    assert texts["modelspec.architecture"] == "latent-diffusion-of-another-size/lora"
    assert datetime.datetime.fromisoformat(texts["modelspec.date"])
    assert "spectrogram" in texts["modelspec.tags"]


def test_a_lora_run_given_as_a_model_says_what_to_do(lora_run: Path) -> None:
    with pytest.raises(InputError, match=f"this is a LoRA, not a whole model; .* --lora {lora_run / 'final'}"):
        load_components(str(lora_run / "final"))
    with pytest.raises(InputError, match=f"a run, not a model; riffusion export run={lora_run}"):
        load_components(str(lora_run))


@pytest.mark.parametrize(
    ("marks", "yaml_beside", "expected"),
    [
        ((), "", ("epsilon", False)),
        (("v_pred",), "", ("v_prediction", False)),
        (("v_pred", "ztsnr"), "", ("v_prediction", True)),
        ((), 'model:\n  params:\n    parameterization: "v"\n', ("v_prediction", False)),
    ],
)
def test_what_other_programs_know_a_velocity_model_by_is_read(
    marks: tuple[str, ...], yaml_beside: str, expected: tuple[str, bool], tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    with torch.device("meta"):
        sd15 = make_components(ModelConfig(name=ModelName.random), seed=0)
    weights = {}
    for part, names in ldm_names(sd15.modules).items():
        for name, tensor in sd15.modules[part].state_dict().items():
            weights[names[name].key] = LazyTensor(tuple(tensor.shape), torch.float16, tensor.detach)
    weights |= {mark: in_memory(torch.empty(0)) for mark in marks}
    write_header(path, weights)
    if yaml_beside:
        path.with_suffix(".yaml").write_text(yaml_beside)
    scheduler = open_model(str(path)).skeleton.scheduler.config
    assert (scheduler.prediction_type, bool(scheduler.get("rescale_betas_zero_snr"))) == expected


def write_header(path: Path, weights: dict[str, LazyTensor]) -> None:
    """Write a safetensors file whose weights, gigabytes, are a hole."""
    entries = {
        name: ("F16" if one.shape != (0,) else "F32", one.shape, math.prod(one.shape) * 2)
        for name, one in weights.items()
    }
    header = safetensors_header(entries, {})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(size for _, _, size in entries.values()))


def test_a_file_of_a_velocity_model_brings_what_other_programs_know_it_by(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    export_run(run, path, kind=ExportFormat.single_file)
    config = yaml.safe_load((tmp_path / "m.yaml").read_text())["model"]["params"]
    assert config["parameterization"] == "v"
    assert config["unet_config"]["params"]["model_channels"] == nano_components().unet.config.block_out_channels[0]
    tensors = load_file(path)
    assert tensors["v_pred"].numel() == 0
    assert "ztsnr" not in tensors
    path.unlink()
    with pytest.raises(InputError, match=r"m.yaml: exists already, and A1111 and Forge would read it"):
        export_run(run, path, kind=ExportFormat.single_file)
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"kind": ExportFormat.lora}, "trains no adapters"),
        ({"checkpoint": "3"}, "no such checkpoint; it has: 2, 4"),
        ({"checkpoint": "nonsense"}, "no such checkpoint"),
        ({"kind": ExportFormat.single_file}, "end its name in .safetensors"),
        ({"push_to_hub": "nobody"}, "write user/name"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    words: dict[str, object], complaint: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        export_run(run, tmp_path / "deep" / "m", **words)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export_run(run, tmp_path / "model")


def test_an_unfinished_run_is_refused_and_told_of_its_checkpoints(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "manifest.json"):
        (tmp_path / "run" / name).write_text((run / name).read_text())
    with pytest.raises(InputError, match=r"not finished .* checkpoint=newest"):
        export_run(tmp_path / "run", tmp_path / "model")


def test_a_base_that_has_changed_since_is_refused(run: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("manifest.json", "checkpoints"):
        (tmp_path / "run" / name).symlink_to(run / name)
    write_config(
        tmp_path / "run" / "config.yaml", train_config(dataset, tmp_path / "run", "max_train_steps=4", "seed=1")
    )
    with pytest.raises(InputError, match=r"is not what it was trained from \(vae, text_encoder, unet"):
        export_run(tmp_path / "run", tmp_path / "model", checkpoint="2")


def test_a_failed_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_summary", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_run(run, tmp_path / "models" / "model")
    assert not list(tmp_path.iterdir())

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.nano import NANO_SPECTROGRAM, train_config, write_dataset

from riffusion_train.config.model import ExportWeights
from riffusion_train.dataset.layout import open_dataset_folder
from riffusion_train.dataset.spectrograms import SpectrogramDataset
from riffusion_train.model.loading import load_components
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.run import run_training
from riffusion_train.training.run_model import open_run_model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "words",
    [
        ["mixed_precision=bf16"],
        ["cache_latents=false", "cache_text_embeddings=false"],
        ["gradient_checkpointing=true"],
        ["objective.prediction_type=v_prediction", "objective.snr_gamma=5"],
        ["objective.noise_offset=0.1", "objective.input_perturbation=0.1"],
        ["objective=zero_snr"],
        ["ema.use_ema_warmup=true"],
        ["ema=none"],
        ["method=lora", "mixed_precision=bf16"],
        ["method=vae"],
        ["method=vae", "method.train_vae_encoder=true", "gradient_checkpointing=true"],
        ["method.train_text_encoder=true", "method.text_encoder_lr=1e-5"],
    ],
    ids=" ".join,
)
def test_every_way_of_training_ends_in_a_model(dataset: Path, tmp_path: Path, words: list[str]) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", "max_train_steps=3", *words), words)
    assert len(losses(run)) == 3
    assert all(math.isfinite(loss) for loss in losses(run))
    tensors = [tensor for file in (run / "final").rglob("*.safetensors") for tensor in load_file(file).values()]
    assert tensors
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert {str(tensor.dtype) for tensor in tensors} == {"torch.float32"}


def test_the_exported_scheduler_says_what_was_trained(dataset: Path, tmp_path: Path) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", "max_train_steps=1", "objective=zero_snr"), [])
    written = json.loads((run / "final" / "scheduler" / "scheduler_config.json").read_text())
    of_checkpoint = open_run_model(run, "newest", ExportWeights.raw).base.skeleton.scheduler.config
    for config in (written, of_checkpoint):
        assert config["prediction_type"] == "v_prediction"
        assert config["rescale_betas_zero_snr"] is True
        assert config["timestep_spacing"] == "trailing"
    index = json.loads((run / "final" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_a_dataset_of_another_codec_than_the_base_models_is_refused(dataset: Path, tmp_path: Path) -> None:
    base = run_training(train_config(dataset, tmp_path / "base", "max_train_steps=1", "ema=none"), []) / "final"
    other = dataclasses.replace(NANO_SPECTROGRAM, f_max_hz=7000.0)
    folder = write_dataset(tmp_path / "other", spectrogram=other)
    words = ["max_train_steps=1", "ema=none", f"model={base}"]
    with pytest.raises(InputError, match=r"differs from the base model's codec: f_max_hz is 7000\.0, not 8000\.0"):
        run_training(train_config(folder, tmp_path / "run", *words), [])
    assert not (tmp_path / "run").exists()
    run_training(train_config(folder, tmp_path / "run", *words, "allow_other_spectrogram=true"), [])


def test_training_overfits_a_single_slice(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", num_train=1, num_validation=0)
    words = ["max_train_steps=150", "schedule=constant", "optimizer.lr=1e-2", "objective.proportion_empty_prompts=0"]
    found = losses(run_training(train_config(dataset, tmp_path / "run", *words), []))
    assert sum(found[-20:]) / 20 < 0.5 * sum(found[:5]) / 5


def test_a_trained_vae_says_the_scale_of_its_latents(dataset: Path, tmp_path: Path) -> None:
    words = ["max_train_steps=3", "method=vae", "method.train_vae_encoder=true", "method.latent_std=0.25"]
    run = run_training(train_config(dataset, tmp_path / "run", *words), [])
    vae = load_components(str(run / "final")).vae
    table = SpectrogramDataset(open_dataset_folder(dataset), "train")
    with torch.no_grad():
        latents = torch.cat([vae.encode(table.pixels(index)[None]).latent_dist.mode() for index in range(len(table))])
    assert float(latents.std()) * vae.config.scaling_factor == pytest.approx(0.25, rel=1e-3)


def test_only_what_the_method_names_is_trained(dataset: Path, tmp_path: Path) -> None:
    words = ["max_train_steps=2", "ema=none"]
    for method, trained in (("full", {"unet"}), ("vae", {"vae"})):
        run = run_training(train_config(dataset, tmp_path / method, f"method={method}", *words), [])
        before = json.loads((run / "manifest.json").read_text())["base_model"]["fingerprints"]
        from riffusion_train.model.components import fingerprint

        after = load_components(str(run / "final")).modules
        assert {name for name in before if fingerprint(after[name]) != before[name]} == trained


def test_the_manifest_and_the_command_lines_are_kept(dataset: Path, tmp_path: Path) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", "max_train_steps=1"), ["seed=0", "name=x"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["versions"]["torch"]
    assert manifest["world_size"] == 1
    assert json.loads((run / "overrides.jsonl").read_text())["overrides"] == ["seed=0", "name=x"]


def test_fp16_without_a_gpu_is_one_line(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mixed_precision=fp16 needs a GPU"):
        run_training(train_config(dataset, tmp_path / "run", "max_train_steps=1", "mixed_precision=fp16"), [])


def test_images_that_do_not_fit_the_model_are_refused(dataset: Path, tmp_path: Path) -> None:
    words = ["model.unet_block_out_channels=[16,16,16,16,16]", "model.unet_attention_levels=[true,true,true,true,true]"]
    with pytest.raises(InputError, match="its images are 32 x 32, the model needs multiples of 64"):
        run_training(train_config(dataset, tmp_path / "run", *words), [])


def test_a_hub_id_that_cannot_be_fetched_is_one_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="nobody/nothing: cannot") as error:
        run_training(train_config(dataset, tmp_path / "run", "model=nobody/nothing"), [])
    assert "\n" not in str(error.value)

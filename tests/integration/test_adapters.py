"""Runs of adapters of every kind: what was trained is what is exported, merged and read back."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.nano import NANO_MODEL, train_arguments, train_config, write_dataset

from riffusion_train.config.compose import compose
from riffusion_train.config.model import ExportFormat, ExportWeights, LoraLayout
from riffusion_train.config.train import TrainConfig
from riffusion_train.export.write import export_run
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.loading import load_components, make_components
from riffusion_train.model.lora import LORA_FILE, add_lora, merge_lora, read_lora
from riffusion_train.model.weights import as_lazy_model, load_lazy_model
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.run import run_training
from riffusion_train.training.run_model import open_run_model

KINDS = {
    "rslora": ["method.lora_use_rslora=true"],
    "dora": ["method.lora_use_dora=true"],
    "text": ["method.train_text_encoder=true", "method.text_encoder_lr=1e-2"],
    "blocks": ["method.lora_target_blocks=[mid_block,up_blocks.1]"],
}
WORDS = [
    "method=lora",
    "method.lora_rank=4",
    "method.lora_alpha=8",
    "max_train_steps=3",
    "ema=none",
    "optimizer.lr=1e-2",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_trained_is_what_is_merged_and_exported(dataset: Path, tmp_path: Path, kind: str) -> None:
    config = train_config(dataset, tmp_path / "run", *WORDS, *KINDS[kind])
    run = run_training(config, [])
    base = make_components(config.model, config.seed)
    live = make_components(config.model, config.seed)
    method = config.method
    options = {
        "rank": 4,
        "alpha": 8.0,
        "use_dora": method.lora_use_dora,
        "use_rslora": method.lora_use_rslora,
        "seed": 0,
    }
    add_lora(live.unet, target_modules=method.lora_target_modules, target_blocks=method.lora_target_blocks, **options)
    if method.train_text_encoder:
        add_lora(live.text_encoder, target_modules=method.lora_text_encoder_target_modules, **options)
    trained = load_file(run / "checkpoints" / "step-000003" / "trained.safetensors")
    for name, tensor in trained.items():
        part, _, rest = name.partition(".")
        live.modules[part].get_parameter(rest).data.copy_(tensor)
    expected = predict(live)
    assert (expected - predict(base)).abs().max() > 1e-4
    export_run(run, tmp_path / "whole")
    export_run(run, tmp_path / "kohya.safetensors", kind=ExportFormat.lora, layout=LoraLayout.kohya)
    stored = as_lazy_model(base)
    for found in (
        load_components(str(tmp_path / "whole")),
        load_lazy_model(open_run_model(run, "newest", ExportWeights.raw).whole()),
        load_lazy_model(merge_lora(stored, read_lora(run / "final" / LORA_FILE, base.modules))),
        load_lazy_model(merge_lora(stored, read_lora(tmp_path / "kohya.safetensors", base.modules))),
    ):
        assert torch.allclose(predict(found), expected, atol=1e-5)
    if kind == "text":
        return
    # diffusers, reading the file that the run left
    plain = make_components(config.model, config.seed)
    plain.unet.load_lora_adapter(str(run / "final"), weight_name=LORA_FILE, prefix="unet", use_safetensors=True)
    assert torch.allclose(predict(plain), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["rslora", "dora", "text"])
def test_a_run_goes_on_from_adapters(dataset: Path, tmp_path: Path, kind: str) -> None:
    words = [*WORDS, *KINDS[kind]]
    first = run_training(train_config(dataset, tmp_path / "first", *words), [])
    few_steps = [*words, "max_train_steps=2"]
    base = tmp_path / "base"
    write_model(base, as_lazy_model(make_components(train_config(dataset, first).model, 0)))
    export_run(first, tmp_path / "kohya.safetensors", kind=ExportFormat.lora, layout=LoraLayout.kohya)
    runs = []
    for number, start in enumerate(
        ([f"model={first}"], [f"model={first / 'final'}"], [f"model={first / 'checkpoints' / 'step-000003'}"],
         [f"model={tmp_path / 'kohya.safetensors'}", f"model.base={base}"])
    ):  # fmt: skip
        arguments = [word for word in train_arguments(dataset, tmp_path / f"{number}") if word not in NANO_MODEL]
        runs.append(run_training(compose("train", TrainConfig, [*arguments, *few_steps, *start]), []))
    results = [load_file(run / "final" / LORA_FILE) for run in runs]
    start_weights = load_file(first / "final" / LORA_FILE)
    for result in results:
        assert result.keys() == start_weights.keys()
        assert all(torch.allclose(weight, results[0][name], atol=1e-6) for name, weight in result.items())
    assert any(not weight.equal(start_weights[name]) for name, weight in results[0].items())
    assert all((weight - start_weights[name]).abs().max() < 0.05 for name, weight in results[0].items())
    export_run(runs[0], tmp_path / "whole")
    export_run(runs[3], tmp_path / "same")
    one, other = (load_components(str(tmp_path / name)) for name in ("whole", "same"))
    assert torch.allclose(predict(one), predict(other), atol=1e-5)


def test_a_full_run_starts_from_the_model_of_a_lora_run(dataset: Path, tmp_path: Path) -> None:
    first = run_training(train_config(dataset, tmp_path / "first", *WORDS), [])
    arguments = [word for word in train_arguments(dataset, tmp_path / "full") if word not in NANO_MODEL]
    words = [*arguments, "max_train_steps=1", "optimizer.lr=1e-9", "ema=none", f"model={first}"]
    run = run_training(compose("train", TrainConfig, words), [])
    expected = load_lazy_model(open_run_model(first, "final", ExportWeights.ema).whole())
    assert torch.allclose(predict(load_components(str(run / "final"))), predict(expected), atol=1e-5)
    export_run(run, tmp_path / "newest", checkpoint="newest", weights=ExportWeights.raw)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model={run}", "method.lora_rank=8"], "add method.lora_rank=4$"),
        (
            ["model={run}", "method.lora_alpha=4", "method.lora_use_dora=true"],
            "add method.lora_alpha=8 method.lora_use_dora=false",
        ),
        (
            ["model={run}", "method.lora_target_blocks=[mid_block]"],
            "adapts 32 layers, and this run 8, .*target_blocks",
        ),
        (["model={lora}"], r"is a LoRA; give the model that it is for with model.base=PATH"),
    ],
)
def test_adapters_that_a_run_would_not_train_are_refused(
    dataset: Path, tmp_path: Path, words: list[str], problem: str
) -> None:
    first = run_training(train_config(dataset, tmp_path / "first", *WORDS, "max_train_steps=1"), [])
    export_run(first, tmp_path / "lora", kind=ExportFormat.lora)
    arguments = [word for word in train_arguments(dataset, tmp_path / "run") if word not in NANO_MODEL]
    words = [word.format(run=first, lora=tmp_path / "lora") for word in words]
    config = compose("train", TrainConfig, [*arguments, *WORDS, *words])
    with pytest.raises(InputError, match=problem):
        run_training(config, [])
    assert not (tmp_path / "run").exists()


def test_adapters_stay_inside_the_blocks_they_were_given(dataset: Path, tmp_path: Path) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", *WORDS, *KINDS["blocks"], "max_train_steps=1"), [])
    keys = load_file(run / "final" / LORA_FILE)
    assert keys
    assert all(key.startswith(("unet.mid_block.", "unet.up_blocks.1.")) for key in keys)


def test_the_text_encoder_has_its_own_rate(dataset: Path, tmp_path: Path) -> None:
    run = run_training(train_config(dataset, tmp_path / "run", *WORDS, *KINDS["text"], "optimizer.lr=1e-3"), [])
    state = json.loads((run / "checkpoints" / "step-000003" / "state.json").read_text())
    groups = state["scalars"]["optimizer_groups"]
    assert [group["initial_lr"] for group in groups] == [1e-3, 1e-2]
    assert any(key.startswith("text_encoder.text_model.encoder") for key in load_file(run / "final" / LORA_FILE))


@torch.no_grad()
def predict(components: object) -> torch.Tensor:
    """Return what the UNet says to a caption of the text encoder."""
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 4, 8, 8, generator=generator)
    states = components.text_encoder.eval()(torch.arange(77)[None]).last_hidden_state  # type: ignore[attr-defined]
    return components.unet.eval()(noisy, 500, states).sample  # type: ignore[attr-defined]

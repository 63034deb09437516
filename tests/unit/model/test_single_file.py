from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.models import nano_components, pipeline_image, sample_image, velocity_scheduler
from support.nano import NANO_MODEL, NANO_SPECTROGRAM

from riffusion_train.config.compose import compose
from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.config.train import TrainConfig
from riffusion_train.model import single_file
from riffusion_train.model.components import Components, fingerprint, trained_scheduler
from riffusion_train.model.diffusers_folder import write_model
from riffusion_train.model.loading import load_components, make_components, open_model
from riffusion_train.model.single_file import CONFIGS_KEY, ldm_config, open_single_file, write_single_file
from riffusion_train.model.weights import as_lazy_model, lazy_fingerprint
from riffusion_train.runtime.errors import InputError

PREFIX = "cond_stage_model.transformer.text_model."


@pytest.fixture(scope="module")
def components() -> Components:
    return nano_components()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, components: Components) -> Path:
    path = tmp_path_factory.mktemp("model") / "folder"
    write_model(path, as_lazy_model(components))
    return path


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_single_file(path, open_model(str(folder)))
    return path


def rewritten(source: Path, path: Path, *, metadata: bool = True, **changes: object) -> Path:
    """Copy a single file with keys renamed or dropped by `rename`, added by `add`."""
    with safe_open(source, framework="pt") as file:
        texts = file.metadata() if metadata else None
    rename = changes.get("rename", lambda key: key)
    tensors = {rename(key): tensor for key, tensor in load_file(source).items() if rename(key)}  # type: ignore[operator]
    save_file(tensors | changes.get("add", {}), path, texts)  # type: ignore[operator]
    return path


def test_folder_to_single_file_to_folder_is_bit_identical(folder: Path, single: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "back", open_single_file(single))
    for weights in folder.rglob("*.safetensors"):
        back = tmp_path / "back" / weights.relative_to(folder)
        before, after = load_file(weights), load_file(back)
        assert list(before) == list(after)
        assert all(before[key].numpy().tobytes() == after[key].numpy().tobytes() for key in before)
    assert (tmp_path / "back" / "spectrogram.json").read_bytes() == (folder / "spectrogram.json").read_bytes()


def test_clip_keys_are_those_of_transformers_4_and_the_vae_attends_by_convolutions(single: Path) -> None:
    tensors = load_file(single)
    clip = [key for key in tensors if key.startswith("cond_stage_model.")]
    assert all(key.startswith(PREFIX) for key in clip)
    assert tensors[PREFIX + "embeddings.position_ids"].dtype == torch.int64
    assert tensors["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (8, 8, 1, 1)


def test_diffusers_draws_the_same_picture_from_file_and_folder_as_our_sampler(folder: Path, single: Path) -> None:
    from diffusers import StableDiffusionPipeline

    ours = sample_image(folder)
    assert np.array_equal(sample_image(single), ours)
    opened = StableDiffusionPipeline.from_pretrained(folder)
    from_file = StableDiffusionPipeline.from_single_file(str(single), config=str(folder), local_files_only=True)
    for pipeline in (opened, from_file):
        drawn = pipeline_image(pipeline)
        assert np.abs(drawn.astype(int) - ours.astype(int)).max() <= 1
    assert ours.std() > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read_as_fp32(dtype: torch.dtype, components: Components, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_single_file(path, as_lazy_model(components), dtype=dtype)
    assert {tensor.dtype for tensor in load_file(path).values()} == {dtype, torch.int64}
    loaded = load_components(str(path))
    for name, tensor in components.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], tensor.to(dtype).float())


def test_codec_and_target_travel_in_the_metadata(components: Components, tmp_path: Path) -> None:
    import dataclasses

    path = tmp_path / "model.safetensors"
    trained = dataclasses.replace(components, scheduler=velocity_scheduler())
    write_single_file(path, as_lazy_model(trained), metadata={"modelspec.title": "mine"})
    loaded = load_components(str(path))
    assert loaded.spectrogram == NANO_SPECTROGRAM
    assert loaded.scheduler.config.prediction_type == "v_prediction"


def test_flat_clip_keys_and_old_schedule_buffers_are_understood(
    single: Path, components: Components, tmp_path: Path
) -> None:
    flat = rewritten(
        single,
        tmp_path / "flat.safetensors",
        rename=lambda key: key.replace("transformer.text_model.", "transformer."),
        add={"betas": torch.zeros(1000), "model_ema.decay": torch.tensor(0.9)},
    )
    loaded = load_components(str(flat))
    assert fingerprint(loaded.text_encoder) == fingerprint(components.text_encoder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"rename": lambda key: "" if key.endswith("final_layer_norm.weight") else key},
            r"text encoder does not fit .* 1 missing: final_layer_norm\.weight",
        ),
        ({"add": {"model.diffusion_model.lost": torch.zeros(1)}}, r"unet does not fit .* 1 unexpected: .*lost"),
        ({"add": {"something.else": torch.zeros(1)}}, r"1 unexpected keys: something\.else"),
        ({"add": {"model.diffusion_model.out.2.bias": torch.zeros(9)}}, r"1 of another shape: conv_out\.bias"),
        ({"metadata": False}, "does not fit Stable Diffusion 1.x"),
        ({"add": {"conditioner.embedders.0.x": torch.zeros(1)}}, "this is Stable Diffusion XL"),
        ({"add": {"cond_stage_model.model.ln_final.bias": torch.zeros(1)}}, "this is Stable Diffusion 2.x"),
    ],
)
def test_what_does_not_fit_is_listed_and_refused(
    single: Path, tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    path = rewritten(single, tmp_path / "odd.safetensors", **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=complaint) as error:
        load_components(str(path))
    assert "\n" not in str(error.value)


def test_unusable_configs_in_the_metadata_are_one_line(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for text, complaint in (("{", "not valid JSON"), ("{}", "cannot be used")):
        save_file(load_file(single), path, {CONFIGS_KEY: text})
        with pytest.raises(InputError, match=complaint):
            load_components(str(path))


def test_a_ckpt_is_read_only_where_it_is_allowed(single: Path, components: Components, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": load_file(single), "global_step": 3}, path)
    with pytest.raises(InputError, match=r"pickle that can run code\); riffusion import … allow_pickle=true"):
        open_model(str(path))
    with pytest.raises(InputError, match="does not fit"):  # a .ckpt cannot say its sizes, so it has to be SD 1.5
        open_model(str(path), allow_pickle=True)


def test_a_ckpt_and_a_file_without_metadata_give_back_every_weight(
    single: Path, components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nano = compose("train", TrainConfig, ["dataset=x", *NANO_MODEL]).model
    monkeypatch.setattr(single_file, "_SD15", nano)  # the sizes that a file has to have which does not say them
    tensors = load_file(single)
    torch.save({"state_dict": tensors | {"betas": torch.zeros(1000)}, "global_step": 3}, tmp_path / "model.ckpt")
    save_file(tensors, tmp_path / "bare.safetensors", {"modelspec.prediction_type": "v"})
    for path in (tmp_path / "model.ckpt", tmp_path / "bare.safetensors"):
        opened = open_model(str(path), allow_pickle=True)
        for part, module in components.modules.items():
            assert lazy_fingerprint(opened.tensors[part]) == fingerprint(module)
        assert opened.skeleton.spectrogram is None
    assert opened.skeleton.scheduler.config.prediction_type == "v_prediction"


def test_a_pickle_of_more_than_tensors_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "trap": Trap()}, path)
    with pytest.raises(InputError, match="a pickle of more than tensors, which is not read"):
        open_model(str(path), allow_pickle=True)
    assert not (tmp_path / "ran").exists()


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


def test_the_config_for_other_programs_is_that_of_stable_diffusion() -> None:
    with torch.device("meta"):
        sd15 = make_components(ModelConfig(name=ModelName.random), seed=0)
    assert ldm_config(sd15) is None
    sd15.scheduler = trained_scheduler(sd15.scheduler, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    params = yaml.safe_load(str(ldm_config(sd15)))["model"]["params"]
    unet, vae = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    assert (params["parameterization"], params["linear_start"], params["linear_end"]) == ("v", 0.00085, 0.012)
    assert (params["scale_factor"], params["timesteps"], unet["num_heads"]) == (0.18215, 1000, 8)
    assert (unet["model_channels"], unet["channel_mult"], unet["context_dim"]) == (320, [1, 2, 4, 4], 768)
    assert (unet["attention_resolutions"], unet["num_res_blocks"]) == ([4, 2, 1], 2)
    assert (vae["ch"], vae["ch_mult"], vae["num_res_blocks"]) == (128, [1, 2, 4, 4], 2)


def test_a_zero_snr_file_is_marked_and_diffusers_still_opens_it(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    parts = nano_components()
    parts.scheduler = trained_scheduler(parts.scheduler, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    write_model(tmp_path / "m", as_lazy_model(parts))
    write_single_file(tmp_path / "m.safetensors", as_lazy_model(parts))
    assert {"v_pred", "ztsnr"} < set(load_file(tmp_path / "m.safetensors"))
    config = str(tmp_path / "m")
    pipeline = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "m.safetensors"), config=config, local_files_only=True
    )
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert fingerprint(pipeline.unet) == fingerprint(parts.unet)
    assert load_components(str(tmp_path / "m.safetensors")).scheduler.config.rescale_betas_zero_snr

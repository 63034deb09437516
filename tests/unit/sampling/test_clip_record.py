"""Clips that are made again: every option that can change one is recorded, and none is silently ignored."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import nano_components

from riffusion_train.config.denoising import GuidanceName, SchedulerName, TimestepSpacing
from riffusion_train.config.sample import Dtype
from riffusion_train.config.spectrogram import Quality
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.clip import ClipRecord, load_record
from riffusion_train.sampling.modes.long import LongRequest
from riffusion_train.sampling.sampler import Sampler

OPTIONS: dict[str, Any] = {"num_inference_steps": 2, "quality": Quality.draft}

SCHEMA_2 = {
    "schema_version": 2,
    "mode": "long",
    "prompt": "a",
    "negative_prompt": "",
    "seed": 3,
    "guidance_scale": 7.0,
    "duration_s": 4.0,
    "schedule": [[2.0, "b"]],
    "energy": [[0.0, 0.2], [4.0, 1.0]],
    "num_inference_steps": 20,
    "scheduler": "dpmsolver",
    "quality": "normal",
    "target_lufs": -14.0,
    "lane": 4,
    "dtype": "bf16",
    "model": "model",
    "model_fingerprint": "f",
    "loras": ["x:0.5"],
    "assumed_spectrogram": False,
}
"""A record of version 0.1.0."""


def sampler(**options: Any) -> Sampler:
    return Sampler(nano_components(), **{**OPTIONS, **options})


OTHERS = {
    "num_inference_steps": 3,
    "scheduler": SchedulerName.ddim,
    "timesteps": TimestepSpacing.karras,
    "guidance": GuidanceName.apg,
    "guidance_interval": (300.0, 1000.0),
    "guidance_rescale": 0.7,
    "apg_momentum": -0.5,
    "apg_norm_threshold": 15.0,
    "apg_eta": 1.0,
    "quality": Quality.normal,
    "target_lufs": None,
    "unet_batch_size": 2,
    "dtype": Dtype.bf16,
    "channels_last": True,
    "compile": True,
    "attention_slicing": True,
}


def test_every_option_of_the_sampler_is_known_here() -> None:
    arguments = set(inspect.signature(Sampler).parameters)
    # The strength of guidance is the request's; the guide has a test of its own.
    assert arguments - {"components", "loras", "guidance_scale", "device", "guide"} == OTHERS.keys()


@pytest.mark.parametrize("name", OTHERS)
def test_a_clip_is_made_again_only_with_the_options_it_was_made_with(name: str, tmp_path: Path) -> None:
    request = Sampler.record(sampler(**{name: OTHERS[name]}), LongRequest(prompt="a"))
    loaded = ClipRecord.from_data(request.as_data())
    assert loaded == request
    assert getattr(loaded.sampler, name) == OTHERS[name]
    if name != "dtype":  # then the weights differ too, which is what is reported
        with pytest.raises(InputError, match=rf"clip\.json: was made with {name}="):
            sampler().check(loaded, "clip.json")
    with pytest.raises(InputError):
        sampler().check(loaded, "clip.json")


def test_a_clip_with_the_layout_of_tensor_cores_is_made_again_exactly(tmp_path: Path) -> None:
    options = {"channels_last": True, "attention_slicing": True, "dtype": "bf16", "unet_batch_size": 2}
    first = sampler(**options).text_to_audio("a", seed=3)
    file = first.save(tmp_path / "clip")[0]
    record = load_record(file)
    assert record.sampler.channels_last and record.sampler.attention_slicing and record.sampler.device == "cpu"
    again = sampler(**options).again(file)
    assert np.array_equal(again.audio, first.audio) and np.array_equal(again.image, first.image)
    with pytest.raises(InputError, match="channels_last=True, not channels_last=False"):
        sampler(**{**options, "channels_last": False}).again(file)


def test_a_clip_with_another_number_of_steps_records_them() -> None:
    clip = sampler().make(LongRequest(prompt="a", duration_s=1.0), num_inference_steps=1)
    assert clip.record.sampler.num_inference_steps == 1


def test_an_option_that_contradicts_a_record_is_refused_with_both_values() -> None:
    record = ClipRecord.from_data(SCHEMA_2)
    record.check("clip.json", {"num_inference_steps": 20, "seed": 3, "scheduler": SchedulerName.dpmsolver})
    with pytest.raises(InputError, match="was made with num_inference_steps=20, not num_inference_steps=5"):
        record.check("clip.json", {"num_inference_steps": 5})
    with pytest.raises(InputError, match="num_variations= has no effect"):
        record.check("clip.json", {"num_variations": 2})


def test_a_record_of_version_0_1_0_is_read() -> None:
    record = ClipRecord.from_data(SCHEMA_2)
    assert record.sampler.unet_batch_size == 4
    assert record.request == LongRequest(
        prompt="a", seed=3, duration_s=4.0, schedule=((2.0, "b"),), volume=((0.0, 0.2), (4.0, 1.0))
    )
    assert record.sampler.dtype is Dtype.bf16 and record.sampler.channels_last is False
    assert record.sampler.timesteps is TimestepSpacing.karras  # as that version sampled


@pytest.mark.parametrize("name", ["dpmsolver", "unipc", "euler", "ddim"])
def test_a_record_from_before_options_of_guidance_gives_the_same_clip(name: str) -> None:
    """Records of schema 3 do not say where the steps are: they were where 0.1.0 put them."""
    made = sampler(scheduler=name, num_inference_steps=12).record(LongRequest(prompt="a", guidance_scale=3.0))
    new = ("timesteps", "apg_momentum", "apg_norm_threshold", "apg_eta", "guide", "guide_fingerprint")
    old = {
        key: value
        for key, value in made.as_data().items()
        if key not in new and (key == "guidance_scale" or not key.startswith("guidance"))
    }
    assert ClipRecord.from_data({**old, "schema_version": 3}) == made


def test_the_weaker_model_is_recorded_by_path_and_fingerprint(tmp_path: Path) -> None:
    guide, other = nano_components(seed=1), nano_components(seed=2)
    clip = sampler(guide=guide).text_to_audio("a", seed=3)
    file = clip.save(tmp_path / "clip")[2]
    record = load_record(file)
    assert record.sampler.guide == guide.source and record.sampler.guide_fingerprint
    again = sampler(guide=nano_components(seed=1)).again(file)
    assert np.array_equal(again.audio, clip.audio)
    for wrong in (sampler(guide=other), sampler()):
        with pytest.raises(InputError, match="guide_fingerprint"):
            wrong.again(file)

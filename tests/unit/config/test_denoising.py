"""Whose choice counts: the user's, the model's, or the usual one."""

from typing import Any

import pytest

from riffusion_train.config.compose import compose
from riffusion_train.config.denoising import (
    GuidanceName,
    RecommendedConfig,
    SchedulerName,
    TimestepSpacing,
    choose_denoising,
    read_recommended,
    recommended_data,
)
from riffusion_train.config.model import ExportConfig
from riffusion_train.config.sample import SampleConfig
from riffusion_train.runtime.errors import InputError

MODEL = {"guidance_scale": 2.0, "scheduler": "euler", "num_inference_steps": 8, "guidance_interval": [300, 1000]}


def test_the_user_comes_before_the_model_and_the_model_before_what_is_usual() -> None:
    config = compose("sample", SampleConfig, ["out=x", "num_inference_steps=12", "guidance_interval=[0,500]"])
    chosen = choose_denoising(vars(config), read_recommended(MODEL, "training.json"))
    assert (chosen["num_inference_steps"], chosen["guidance_interval"]) == (12, (0.0, 500.0))
    assert (chosen["guidance_scale"], chosen["scheduler"]) == (2.0, SchedulerName.euler)
    assert (chosen["guidance"], chosen["guidance_rescale"]) == (GuidanceName.cfg, 0.0)


def test_a_model_that_says_nothing_is_sampled_as_stable_diffusion_usually_is() -> None:
    chosen = choose_denoising({}, {})
    assert (chosen["scheduler"], chosen["num_inference_steps"], chosen["guidance_scale"]) == (
        SchedulerName.dpmsolver,
        20,
        7.0,
    )
    assert chosen["guidance_interval"] == (0.0, 1000.0)


def test_places_of_steps_that_a_model_recommends_are_for_its_own_solver() -> None:
    recommended = read_recommended({"scheduler": "dpmsolver", "timesteps": "ays"}, "training.json")
    assert choose_denoising({}, recommended)["timesteps"] is TimestepSpacing.ays
    assert choose_denoising({"scheduler": SchedulerName.ddim}, recommended)["timesteps"] is None


def test_what_export_is_told_is_what_the_model_recommends() -> None:
    words = ["run=r", "out=m", "recommended.guidance_scale=2", "recommended.scheduler=euler"]
    config = compose("export", ExportConfig, [*words, "recommended.guidance_interval=[300,1000]"])
    data = recommended_data(config.recommended)
    assert data == {"scheduler": "euler", "guidance_interval": (300.0, 1000.0), "guidance_scale": 2.0}
    assert read_recommended(data, "training.json")["scheduler"] is SchedulerName.euler
    assert recommended_data(RecommendedConfig()) == {} and read_recommended(None, "training.json") == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"guidance": "more"}, "m/training.json: guidance=more: is unknown; choose from: cfg, apg"),
        ({"steps": 3}, "m/training.json: recommends the unknown option 'steps'"),
        ({"guidance_interval": [900, 100]}, "guidance_interval=.*give two timesteps, the smaller first"),
        ({"guidance_interval": 3}, "guidance_interval=3: give two timesteps"),
        ({"guidance_rescale": 2}, "guidance_rescale=2: must be a number from 0 to 1"),
        ({"num_inference_steps": 0}, "num_inference_steps=0: must be a number from 1 to 1000"),
        ([], "must be an object"),
    ],
)
def test_a_recommendation_that_cannot_be_used_names_file_and_option(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recommended(data, "m/training.json")

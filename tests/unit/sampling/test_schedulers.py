"""Where the steps of the solvers are, and the noise that they add."""

import itertools

import numpy as np
import pytest
import torch
from support.models import nano_components

from riffusion_train.config.denoising import SchedulerName, TimestepSpacing, usual_timesteps
from riffusion_train.model.components import build_scheduler
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.sampler import Sampler
from riffusion_train.sampling.schedulers import ays_timesteps, make_scheduler, set_steps
from riffusion_train.sampling.sources import step_noise


def timesteps(name: SchedulerName, spacing: TimestepSpacing, steps: int) -> list[float]:
    scheduler = make_scheduler(name, build_scheduler(), spacing)
    set_steps(scheduler, steps, spacing)
    return [float(one) for one in scheduler.timesteps]


def test_ten_aligned_steps_are_those_that_nvidia_published() -> None:
    ten = timesteps(SchedulerName.euler, TimestepSpacing.ays, 10)
    published = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    assert np.abs(np.subtract(ten, published)).max() <= 2  # the noise levels were rounded to three digits
    twenty = timesteps(SchedulerName.dpmsolver, TimestepSpacing.ays, 20)
    assert np.abs(np.subtract(twenty[::2], published)).max() <= 2


@pytest.mark.parametrize("steps", [1, 4, 7, 50, 200])
def test_aligned_steps_fall_for_any_number_of_them(steps: int) -> None:
    places = ays_timesteps(build_scheduler_squares(), steps)
    assert len(places) == steps and places[0] == 999
    assert all(one > other for one, other in itertools.pairwise(places))


def build_scheduler_squares() -> torch.Tensor:
    return build_scheduler().alphas_cumprod


def test_trailing_steps_begin_at_pure_noise_and_leading_ones_below() -> None:
    assert timesteps(SchedulerName.ddim, TimestepSpacing.trailing, 4) == [999, 749, 499, 249]
    assert timesteps(SchedulerName.ddim, TimestepSpacing.leading, 4) == [751, 501, 251, 1]
    assert timesteps(SchedulerName.ddim, TimestepSpacing.model, 4) == [751, 501, 251, 1]  # as Stable Diffusion 1.5 says


@pytest.mark.parametrize(
    ("name", "spacing"),
    [("ddim", "karras"), ("ddim", "ays"), ("unipc", "ays"), ("euler_a", "ays"), ("lcm", "trailing")],
)
def test_places_that_a_solver_cannot_take_are_refused_with_those_that_can(name: str, spacing: str) -> None:
    with pytest.raises(
        InputError, match=f"timesteps={spacing}: scheduler={name} cannot; choose a scheduler from: .*dpm"
    ):
        Sampler(nano_components(), scheduler=name, timesteps=spacing)


def test_few_steps_are_not_spent_on_the_nearly_finished_image() -> None:
    assert usual_timesteps(SchedulerName.dpmsolver, 20) is TimestepSpacing.karras
    assert usual_timesteps(SchedulerName.dpmsolver, 4) is TimestepSpacing.trailing
    assert usual_timesteps(SchedulerName.euler, 4) is TimestepSpacing.model


def test_noise_of_a_step_is_a_function_of_seed_step_and_column() -> None:
    wide = step_noise(3, 5, (4, 8, 8), 20)
    assert torch.equal(wide[..., :8], step_noise(3, 5, (4, 8, 8), 8))
    assert not torch.equal(wide, step_noise(3, 6, (4, 8, 8), 20)) and not torch.equal(
        wide, step_noise(4, 5, (4, 8, 8), 20)
    )
    assert float(wide.std()) == pytest.approx(1.0, abs=0.1)


def test_the_stochastic_solver_adds_noise_and_repeats_itself() -> None:
    options = {"num_inference_steps": 4, "quality": "draft", "timesteps": "trailing"}
    plain, one, other = (
        Sampler(nano_components(), scheduler=name, **options).text_to_audio("a band").image
        for name in ("dpmsolver", "dpmsolver_sde", "dpmsolver_sde")
    )
    assert np.array_equal(one, other) and not np.array_equal(plain, one)

import pytest
import torch
from diffusers import DDPMScheduler

from riffusion_train.config.denoising import SchedulerName
from riffusion_train.model.components import build_scheduler, trained_scheduler
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.schedulers import make_scheduler


def rescaled() -> object:
    return trained_scheduler(build_scheduler(), prediction_type="v_prediction", rescale_betas_zero_snr=True)


def test_the_config_says_the_target() -> None:
    for target in ("epsilon", "v_prediction"):
        kept = trained_scheduler(build_scheduler(), prediction_type=target, rescale_betas_zero_snr=False)
        assert type(kept) is type(build_scheduler())
        assert kept.config.prediction_type == target
        assert kept.config.steps_offset == 1


def test_pure_noise_at_the_last_timestep_is_written_and_read_back(tmp_path: object) -> None:
    from diffusers import DDIMScheduler

    rescaled().save_pretrained(tmp_path)  # type: ignore[attr-defined]
    read = DDIMScheduler.from_pretrained(tmp_path)
    assert read.config.rescale_betas_zero_snr is True
    assert read.config.timestep_spacing == "trailing"
    assert read.config.prediction_type == "v_prediction"
    assert read.config.clip_sample is False
    assert float(read.alphas_cumprod[-1]) == 0
    trained_on = DDPMScheduler.from_config(read.config)
    assert torch.equal(trained_on.alphas_cumprod, read.alphas_cumprod)


def test_what_a_model_predicts_stays_where_nothing_else_is_asked_for() -> None:
    kept = trained_scheduler(rescaled(), prediction_type=None, rescale_betas_zero_snr=None)
    assert (kept.config.prediction_type, kept.config.rescale_betas_zero_snr) == ("v_prediction", True)
    usual = trained_scheduler(build_scheduler(), prediction_type=None, rescale_betas_zero_snr=None)
    assert dict(usual.config) == dict(build_scheduler().config)


@pytest.mark.parametrize(("target", "zero_snr"), [(None, True), ("epsilon", True), ("epsilon", None)])
def test_epsilon_is_not_predicted_from_pure_noise(target: str | None, zero_snr: bool | None) -> None:
    scheduler = build_scheduler() if zero_snr else rescaled()
    with pytest.raises(InputError, match=r"take objective\.prediction_type=v_prediction"):
        trained_scheduler(scheduler, prediction_type=target, rescale_betas_zero_snr=zero_snr)


def test_a_rescaled_base_that_is_trained_as_usual_says_so() -> None:
    back = trained_scheduler(rescaled(), prediction_type="epsilon", rescale_betas_zero_snr=False)
    assert back.config.rescale_betas_zero_snr is False
    assert back.config.timestep_spacing == "leading"
    assert float(back.alphas_cumprod[-1]) > 0


@pytest.mark.parametrize("name", list(SchedulerName))
def test_every_solver_starts_from_the_pure_noise_that_was_trained(name: SchedulerName) -> None:
    """A perfect model of one image: its velocity is known, and the solver must arrive at the image."""
    solver = make_scheduler(name, rescaled())
    solver.set_timesteps(20)
    assert int(solver.timesteps[0]) == 999
    image, noise = torch.full((1, 4, 4, 4), 0.5), torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    schedule = DDPMScheduler.from_config(rescaled().config)  # type: ignore[attr-defined]
    latents = noise * solver.init_noise_sigma
    for timestep in solver.timesteps:
        seen = solver.scale_model_input(latents, timestep)
        signal = schedule.alphas_cumprod[int(timestep)].sqrt()
        deviation = (1 - signal**2).sqrt()
        velocity = signal * (seen - signal * image) / deviation.clamp(min=1e-4) - deviation * image
        latents = solver.step(velocity, timestep, latents).prev_sample
    assert (latents - image).abs().max() < 0.1  # DDIM ends a little before the image

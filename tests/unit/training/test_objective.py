import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from support.models import nano_components
from torch import nn

from riffusion_train.training.objective import DiffusionObjective, VaeObjective, encode_moments, sample_moments

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class ConstantUnet(nn.Module):
    """Predicts a fixed tensor, so that the loss is known by hand."""

    def __init__(self, prediction: torch.Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> object:
        return type("Output", (), {"sample": self.prediction.expand_as(noisy)})()


class Text(nn.Module):
    def forward(self, ids: torch.Tensor) -> object:
        return type("Output", (), {"last_hidden_state": torch.zeros(len(ids), 77, 4)})()


class Vae:
    config = type("Config", (), {"scaling_factor": 2.0})()


def objective(prediction_type: str, snr_gamma: float | None) -> DiffusionObjective:
    scheduler = DDPMScheduler(**BETAS, prediction_type=prediction_type)
    unet = ConstantUnet(torch.zeros(1))
    return DiffusionObjective(unet, Text(), Vae(), scheduler, snr_gamma=snr_gamma, train_text_encoder=False)


def batch(timestep: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "moments": torch.cat([torch.randn(2, 4, 4, 4, generator=generator), torch.full((2, 4, 4, 4), -60.0)], dim=1),
        "latent_noise": torch.randn(2, 4, 4, 4, generator=generator),
        "noise": torch.randn(2, 4, 4, 4, generator=generator),
        "timestep": torch.tensor([timestep, timestep]),
        "input_ids": torch.zeros(2, 77, dtype=torch.long),
    }


def test_epsilon_is_compared_with_the_noise() -> None:
    data = batch(500)
    assert objective("epsilon", None)(data).item() == pytest.approx(data["noise"].square().mean().item())


def test_v_prediction_is_compared_with_the_velocity_of_the_scaled_latents() -> None:
    data = batch(500)
    target = objective("v_prediction", None)
    latents = sample_moments(data["moments"], data["latent_noise"]) * 2.0
    velocity = target.noise_scheduler.get_velocity(latents, data["noise"], data["timestep"])
    assert target(data).item() == pytest.approx(velocity.square().mean().item())


@pytest.mark.parametrize("timestep", [5, 100, 500, 999])
def test_min_snr_weighs_as_in_the_paper(timestep: int) -> None:
    snr = float(compute_snr(DDPMScheduler(**BETAS), torch.tensor([timestep])))
    for prediction_type, divisor in (("epsilon", snr), ("v_prediction", snr + 1)):
        plain, weighted = objective(prediction_type, None), objective(prediction_type, 5.0)
        data = batch(timestep)
        assert float(weighted(data) / plain(data)) == pytest.approx(min(snr, 5.0) / divisor, rel=1e-5)


def test_sampled_moments_have_the_mean_and_deviation_they_say() -> None:
    moments = torch.cat(
        [torch.full((1, 4, 64, 64), 3.0), torch.full((1, 4, 64, 64), 2 * torch.log(torch.tensor(0.5)))], 1
    )
    samples = sample_moments(moments, torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert samples.mean().item() == pytest.approx(3.0, abs=0.02)
    assert samples.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("snr_gamma", [None, 5.0])
def test_pure_noise_at_the_last_timestep_has_a_finite_loss_and_gradient(snr_gamma: float | None) -> None:
    scheduler = DDPMScheduler(**BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    unet = ConstantUnet(torch.zeros(1, requires_grad=True))
    network = DiffusionObjective(unet, Text(), Vae(), scheduler, snr_gamma=snr_gamma, train_text_encoder=False)
    for timestep in (0, 998, 999):
        loss = network(batch(timestep))
        (gradient,) = torch.autograd.grad(loss, unet.prediction)
        assert loss.isfinite()
        assert gradient.isfinite()
    if snr_gamma is not None:
        assert float(loss) == 0  # min(SNR, gamma) / (SNR + 1), where the SNR is zero


def test_a_perturbed_input_does_not_move_the_target() -> None:
    class Listening(ConstantUnet):
        def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> object:
            self.noisy = noisy
            return super().forward(noisy, timesteps, states)

    plain, perturbed = batch(500), batch(500) | {"input_noise": batch(500)["noise"] + 0.1}
    network = objective("epsilon", None)
    network.unet = Listening(torch.zeros(1))
    loss, seen = float(network(plain)), network.unet.noisy
    assert float(network(perturbed)) == loss
    deviation = (1 - network.noise_scheduler.alphas_cumprod[500]).sqrt()
    assert torch.allclose(network.unet.noisy - seen, 0.1 * deviation.expand_as(seen), atol=1e-5)


def test_the_loss_of_each_item_knows_no_weights() -> None:
    data = batch(500)
    each = objective("epsilon", 5.0)(data, each=True)
    assert torch.allclose(each, data["noise"].square().mean(dim=(1, 2, 3)))


@torch.no_grad()
def test_the_decoder_learns_clean_images_of_latents_with_noise_in_the_scale_of_the_unet() -> None:
    vae = nano_components().vae
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    noise, added = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    loss = VaeObjective(vae, kl_weight=0.0, train_encoder=False)(
        {"pixels": pixels, "latent_noise": noise, "added_noise": added}
    )
    latents = sample_moments(encode_moments(vae, pixels), noise) * vae.config.scaling_factor  # as the UNet has them
    decoded = vae.decode((latents + added) / vae.config.scaling_factor).sample
    assert loss.item() == pytest.approx((decoded - pixels).abs().mean().item(), rel=1e-5)
    assert loss.item() != pytest.approx(
        VaeObjective(vae, kl_weight=0.0, train_encoder=False)({"pixels": pixels, "latent_noise": noise}).item(),
        rel=1e-4,
    )

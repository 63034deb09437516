import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler
from support.nano import NANO_MODEL

from riffusion_train.config.compose import compose
from riffusion_train.config.model import ModelConfig
from riffusion_train.config.train import TrainConfig
from riffusion_train.model.components import build_components
from riffusion_train.training.distillation import DistillationObjective
from riffusion_train.training.objective import Batch

STEPS, C = 50, 1e-3


class Ema:
    """Averages that differ from the weights."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        self.shadow_params = [weight.detach() * 0.9 for weight in weights]


class KnowsTheImage(torch.nn.Module):
    """Predicts exactly the noise in a noised image, the only one there is."""

    def __init__(self, latents: torch.Tensor, scheduler: DDPMScheduler, error: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.latents, self.squares, self.error = latents, scheduler.alphas_cumprod, error

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> object:
        square = self.squares[timesteps].view(-1, 1, 1, 1)
        image = self.latents[: len(noisy)] if len(noisy) == len(self.latents) else self.latents.repeat(2, 1, 1, 1)
        noise = (noisy - square.sqrt() * image) / (1 - square).sqrt()
        return type("Output", (), {"sample": noise + self.error * noisy})()


def model_config() -> ModelConfig:
    return compose("train", TrainConfig, ["dataset=none", *NANO_MODEL]).model


def noise_scheduler(prediction_type: str) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )


def batch(timestep: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(timestep)
    return {
        "moments": torch.cat([torch.randn(2, 4, 8, 8, generator=generator), torch.full((2, 4, 8, 8), -60.0)], dim=1),
        "latent_noise": torch.zeros(2, 4, 8, 8),
        "noise": torch.randn(2, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([timestep, timestep]),
        "hidden_states": torch.randn(2, 77, 16, generator=generator),
        "guidance_scale": torch.tensor([3.0, 5.0]),
    }


class Vae(torch.nn.Module):
    config = type("Config", (), {"scaling_factor": 1.0})()


def objective(unet: torch.nn.Module, scheduler: DDPMScheduler, ema: Ema | None = None) -> DistillationObjective:
    empty = torch.zeros(1, 77, 16)
    return DistillationObjective(
        unet, None, Vae(), scheduler, empty_states=empty, guidance=1.0, num_steps=STEPS, huber_c=C, ema=ema
    )


def as_diffusers_computes_it(
    unet: torch.nn.Module, target: torch.nn.Module, scheduler: DDPMScheduler, data: Batch, start: int
) -> torch.Tensor:
    """Return the loss of each item by diffusers' schedulers: DDIM for the teacher, LCM's scalings for the student."""
    end = max(start - 1000 // STEPS, 0)
    noisy = scheduler.add_noise(data["moments"][:, :4], data["noise"], torch.tensor([start, start]))
    states = data["hidden_states"]
    conditional = unet(noisy, start, states).sample
    unconditional = unet(noisy, start, torch.zeros(2, 77, 16)).sample
    guided = unconditional + data["guidance_scale"].view(-1, 1, 1, 1) * (conditional - unconditional)
    ddim = DDIMScheduler.from_config(scheduler.config, set_alpha_to_one=False, clip_sample=False)
    ddim.set_timesteps(STEPS)
    nearer = ddim.step(guided, start, noisy).prev_sample
    images = [image_at(*at, scheduler, states) for at in ((unet, noisy, start), (target, nearer, end))]
    return (((images[0] - images[1]).square() + C**2).sqrt() - C).mean(dim=(1, 2, 3))


def image_at(
    unet: torch.nn.Module, noisy: torch.Tensor, timestep: int, scheduler: DDPMScheduler, states: torch.Tensor
) -> torch.Tensor:
    output = unet(noisy, timestep, states).sample
    alpha, sigma = scheduler.alphas_cumprod[timestep].sqrt(), (1 - scheduler.alphas_cumprod[timestep]).sqrt()
    velocity = scheduler.config.prediction_type == "v_prediction"
    image = alpha * noisy - sigma * output if velocity else (noisy - sigma * output) / alpha
    skip, out = LCMScheduler.from_config(scheduler.config).get_scalings_for_boundary_condition_discrete(timestep)
    return skip * noisy + out * image


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("timestep", "start"), [(0, 19), (19, 19), (20, 39), (500, 519), (999, 999)])
def test_the_loss_is_what_the_schedulers_of_diffusers_give(prediction_type: str, timestep: int, start: int) -> None:
    scheduler, data = noise_scheduler(prediction_type), batch(timestep)
    unet, target = (build_components(model_config(), seed=0).unet.requires_grad_(True) for _ in range(2))
    average = Ema(list(unet.parameters()))
    with torch.no_grad():
        for weight, mean in zip(target.parameters(), average.shadow_params, strict=True):
            weight.copy_(mean)
        expected = as_diffusers_computes_it(unet, target, scheduler, data, start)
    ours = objective(unet, scheduler, average)(data, each=True)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("timestep", [20, 300, 999])
def test_a_model_that_is_consistent_has_no_loss(timestep: int) -> None:
    scheduler, data = noise_scheduler("epsilon"), batch(timestep)
    knows = KnowsTheImage(data["moments"][:, :4], scheduler)
    assert float(objective(knows, scheduler)(data)) < 1e-4
    assert float(objective(KnowsTheImage(data["moments"][:, :4], scheduler, 0.1), scheduler)(data)) > 1e-3


def test_the_teacher_stays_what_the_model_was_and_only_the_student_gets_gradients() -> None:
    scheduler, data = noise_scheduler("epsilon"), batch(500)
    unet = build_components(model_config(), seed=0).unet.requires_grad_(True)
    average = Ema(list(unet.parameters()))
    network = objective(unet, scheduler, average)
    before = network(data).item()
    with torch.no_grad():
        for weight in unet.parameters():
            weight.mul_(0.5)
    trained = network(data)
    trained.backward()
    assert trained.item() != pytest.approx(before, rel=1e-3)
    assert all(weight.grad is not None and weight.grad.any() for weight in (unet.conv_in.weight, unet.conv_out.weight))
    assert not any(weight.requires_grad for weight in average.shadow_params)
    # A second objective takes the halved weights for its teacher, and so has another target.
    assert objective(unet, scheduler, average)(data).item() != pytest.approx(trained.item(), rel=1e-3)

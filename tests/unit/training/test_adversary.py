from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.audio.codec import SpectrogramCodec
from riffusion_train.audio.read import read_audio, resample
from riffusion_train.listening.embedder import N_FFT, RATE_HZ, LogMel
from riffusion_train.training.objective import (
    Adversary,
    PatchDiscriminator,
    TaggerLoss,
    local_deviation,
    perceptual_loss,
    texture_loss,
)

CLIPS = Path(__file__).parents[3] / "docs" / "media" / "laptop"


def alone(tensor: Tensor) -> Tensor:
    return tensor


def make_adversary(start_step: int = 0, weight: float = 0.5) -> Adversary:
    return Adversary(PatchDiscriminator(3, 8, 2, seed=0), lr=1e-3, weight=weight, start_step=start_step)


def images(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class LastLayer(nn.Module):
    """A decoder of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        nn.init.dirac_(self.layer.weight)
        assert self.layer.bias is not None
        nn.init.zeros_(self.layer.bias)

    def losses(self, adversary: Adversary, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the reconstruction and what the adversary adds."""
        decoded = self.layer(0.5 * batch)
        reconstruction = (decoded - batch).abs().mean()
        return reconstruction, adversary.loss(reconstruction, decoded, batch, self.layer.weight)

    def train_step(self, adversary: Adversary, step: int, batches: list[Tensor]) -> None:
        adversary.begin(step)
        for batch in batches:
            self.losses(adversary, batch)
        adversary.update(alone)


def test_the_adversary_adds_nothing_before_its_step() -> None:
    adversary, decoder = make_adversary(start_step=3), LastLayer()
    before = [weight.clone() for weight in adversary.network.parameters()]
    decoder.train_step(adversary, 2, [images(0)])
    adversary.begin(2)
    assert decoder.losses(adversary, images(0))[1].item() == 0
    assert all(weight.equal(old) for weight, old in zip(adversary.network.parameters(), before, strict=True))
    decoder.train_step(adversary, 3, [images(0)])
    assert not all(weight.equal(old) for weight, old in zip(adversary.network.parameters(), before, strict=True))


def test_its_gradient_at_the_last_layer_is_a_part_of_the_reconstructions() -> None:
    """The part is `weight`, once both were measured; the discriminator is left as it was in between."""
    adversary, decoder = make_adversary(weight=0.5), LastLayer()
    for group in adversary._optimizer.param_groups:
        group["lr"] = 0.0
    decoder.train_step(adversary, 0, [images(0)])
    adversary.begin(1)
    reconstruction, added = decoder.losses(adversary, images(0))
    weight = decoder.layer.weight
    (of_both,) = torch.autograd.grad(reconstruction, weight, retain_graph=True)
    (of_adversary,) = torch.autograd.grad(added, weight)
    assert (of_adversary.norm() / of_both.norm()).item() == pytest.approx(0.5, rel=0.02)


def test_its_loss_has_the_value_and_the_slope_of_the_discriminators_score() -> None:
    adversary, decoder = make_adversary(), LastLayer()
    decoder.train_step(adversary, 0, [images(0)])
    adversary.begin(1)
    _, added = decoder.losses(adversary, images(1))
    decoded = decoder.layer(0.5 * images(1))
    direct = -adversary._weight * adversary.network(decoded).mean()
    assert added.item() == pytest.approx(direct.item(), rel=1e-5)
    for ours, theirs in zip(
        *(torch.autograd.grad(loss, decoder.layer.weight) for loss in (added, direct)), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_it_learns_to_tell_decoded_images_from_real_ones() -> None:
    adversary, decoder = make_adversary(), LastLayer()
    for step in range(60):
        decoder.train_step(adversary, step, [images(step)])
    with torch.no_grad():
        real, decoded = (
            adversary.network(images(1000)).mean(),
            adversary.network(decoder.layer(0.5 * images(1001))).mean(),
        )
    assert real > 0.5 > -0.5 > decoded


def test_two_halves_of_a_batch_train_it_as_the_whole_batch_does() -> None:
    """In two forward passes, or on two ranks whose mean is taken: its norms see one image at a time."""
    whole, halves = make_adversary(), make_adversary()
    decoder, batch = LastLayer(), images(0, count=4)
    decoder.train_step(whole, 0, [batch])
    decoder.train_step(halves, 0, [batch[:2], batch[2:]])
    assert halves._weight.item() == pytest.approx(whole._weight.item(), rel=1e-4)
    pairs = zip(whole.network.parameters(), halves.network.parameters(), strict=True)
    apart = torch.cat([(one - other).abs().flatten() for one, other in pairs])
    # The first step of AdamW is the sign of the gradient, which rounding decides where that is next to nothing.
    assert (apart < 1e-5).float().mean() > 0.995


def test_a_forward_pass_outside_of_training_is_forgotten() -> None:
    adversary, other, decoder = make_adversary(), make_adversary(), LastLayer()
    adversary.begin(0)
    decoder.losses(adversary, images(7))
    for one in (adversary, other):
        decoder.train_step(one, 0, [images(0)])
    assert all(a.equal(b) for a, b in zip(adversary.network.parameters(), other.network.parameters(), strict=True))


def test_a_restored_adversary_goes_on_bit_for_bit() -> None:
    adversary, decoder = make_adversary(), LastLayer()
    for step in range(3):
        decoder.train_step(adversary, step, [images(step)])
    tensors, scalars = adversary.state()
    restored = make_adversary()
    restored.restore({name: tensor.clone() for name, tensor in tensors.items()}, scalars)
    for step in range(3, 6):
        for one in (adversary, restored):
            decoder.train_step(one, step, [images(step)])
    assert restored._weight.equal(adversary._weight)
    assert all(a.equal(b) for a, b in zip(adversary.network.parameters(), restored.network.parameters(), strict=True))


def test_the_discriminator_depends_on_its_seed_alone() -> None:
    torch.manual_seed(5)
    drawn = torch.random.get_rng_state()
    one, other, third = (PatchDiscriminator(3, 8, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.random.get_rng_state().equal(drawn)
    assert one[0].weight.equal(other[0].weight) and not one[0].weight.equal(third[0].weight)


def test_the_perceptual_loss_is_zero_for_the_same_image_and_sees_blur_more_than_another_level() -> None:
    real = images(0)
    assert perceptual_loss(real, real).item() == 0
    blurred = nn.functional.avg_pool2d(real, 3, stride=1, padding=1)
    lifted = real + (blurred - real).abs().mean()  # as far from it by the mean absolute error
    assert perceptual_loss(blurred, real) > 5 * perceptual_loss(lifted, real)


def test_the_perceptual_loss_prefers_noise_of_the_right_strength_to_an_even_grey() -> None:
    """The mean absolute error prefers the grey."""
    real, other, grey = images(0), images(1), torch.zeros(2, 3, 32, 32)
    assert (grey - real).abs().mean() < (other - real).abs().mean()
    assert (local_deviation(other) - local_deviation(real)).abs().mean() < local_deviation(real).mean() / 4
    assert local_deviation(grey).max() < 0.01


def test_the_texture_loss_prefers_other_noise_of_the_right_strength_to_an_even_grey() -> None:
    real, other, grey = images(0), images(1), torch.zeros(2, 3, 32, 32)
    assert texture_loss(real, real).item() == 0
    assert texture_loss(other, real) < texture_loss(grey, real) / 3
    assert texture_loss(real / 2, real) > 2 * texture_loss(other, real)


def test_equal_pixels_have_a_finite_slope() -> None:
    flat = torch.zeros(2, 3, 32, 32, requires_grad=True)
    perceptual_loss(flat, images(0)).backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def composed_images() -> torch.Tensor:
    """Two clips of the base model's documentation, as images (2, 3, 160, 192) in [-1, 1]."""
    codec = SpectrogramCodec.from_preset("laptop")
    clips = [read_audio(path) for path in sorted(CLIPS.glob("*.opus"))[:2]]
    grey = [torch.from_numpy(codec.encode(resample(wav, rate, codec.rate_hz)).image) for wav, rate in clips]
    return (torch.stack(grey).float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def test_the_taggers_image_of_an_image_is_that_of_its_sound() -> None:
    wav, rate = read_audio(next(iter(sorted(CLIPS.glob("*.opus")))))
    sound = LogMel()(F.pad(torch.from_numpy(resample(wav, rate, RATE_HZ)), (N_FFT // 2, N_FFT // 2)))[0]
    image = TaggerLoss(SpectrogramCodec.from_preset("laptop").config).log_mel(composed_images()[:1])[0]
    frames = min(len(sound), len(image))
    assert abs(len(sound) - len(image)) <= 3
    levels = torch.stack([sound[:frames].flatten(), image[:frames].flatten()])
    assert torch.corrcoef(levels)[0, 1] > 0.85
    assert abs(levels[0].mean() - levels[1].mean()) < 0.4


def test_to_the_tagger_the_same_image_is_zero_away_and_another_clip_further_than_a_blurred_one() -> None:
    real = composed_images()
    loss = TaggerLoss(SpectrogramCodec.from_preset("laptop").config)
    blurred = F.avg_pool2d(real, 3, stride=1, padding=1).requires_grad_()
    assert loss(real, real).item() < 1e-9
    distance = loss(blurred, real)
    assert 0.001 < distance < loss(real.flip(0), real) / 2
    distance.backward()
    assert blurred.grad is not None and blurred.grad.isfinite().all() and blurred.grad.abs().max() > 0

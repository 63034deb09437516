"""Guidance against its formulas, and where it costs nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from support.models import nano_components
from torch import Tensor

from riffusion_train.config.denoising import GuidanceName, TimestepSpacing
from riffusion_train.player.clips import ClipMaker
from riffusion_train.player.settings import ClipSpec
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.denoise import Guidance, NoiseLevel, adaptive_projected, classifier_free, guide, rescaled
from riffusion_train.sampling.modes.base import ModeOptions
from riffusion_train.sampling.modes.walk import WalkRequest, make_loops
from riffusion_train.sampling.sampler import Sampler


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Two predictions, (2, 4, 8, 8)."""
    generator = torch.Generator().manual_seed(0)
    away, towards = torch.randn(2, 2, 4, 8, 8, generator=generator)
    return away, towards


class Counted:
    """Counts the calls of a UNet, and how many windows each has."""

    def __init__(self, unet: Any) -> None:
        self.batches: list[int] = []
        unet.register_forward_pre_hook(lambda module, arguments: self.batches.append(len(arguments[0])))


def make_sampler(**options: Any) -> Sampler:
    return Sampler(nano_components(), **{"num_inference_steps": 4, "scheduler": "euler", "quality": "draft", **options})


def test_classifier_free_guidance_extrapolates(pair: tuple[Tensor, Tensor]) -> None:
    away, towards = pair
    assert torch.equal(classifier_free(away, towards, 0.0), away)
    assert torch.allclose(classifier_free(away, towards, 1.0), towards, atol=1e-6)
    assert torch.allclose(classifier_free(away, towards, 3.0), 3 * towards - 2 * away, atol=1e-5)


def test_rescaling_gives_the_spread_of_the_unguided_prediction(pair: tuple[Tensor, Tensor]) -> None:
    _, towards = pair
    guided = 5 * towards + 1
    whole = rescaled(guided, towards, 1.0)
    assert torch.allclose(whole.std((1, 2, 3)), towards.std((1, 2, 3)), rtol=1e-5)
    assert torch.equal(rescaled(guided, towards, 0.0), guided)
    assert torch.allclose(rescaled(guided, towards, 0.7), 0.7 * whole + 0.3 * guided, atol=1e-5)


def test_projected_guidance_without_bound_momentum_and_projection_is_classifier_free(
    pair: tuple[Tensor, Tensor],
) -> None:
    away, towards = pair
    guided, average = adaptive_projected(away, towards, 4.0, None, momentum=0.0, norm_threshold=0.0, eta=1.0)
    assert torch.allclose(guided, classifier_free(away, towards, 4.0), atol=1e-5)
    assert torch.equal(average, towards - away)


def test_projected_guidance_moves_at_right_angles_to_the_image_and_no_further_than_its_bound(
    pair: tuple[Tensor, Tensor],
) -> None:
    away, towards = pair
    guided, _ = adaptive_projected(away, towards, 2.0, None, momentum=0.0, norm_threshold=1.6, eta=0.0)
    update = (guided - towards).double()
    assert float((update * towards).sum((1, 2, 3)).abs().max()) < 1e-4
    # A bound of 1.6 for 4 x 64 x 64 elements is an eighth of it for 4 x 8 x 8; what is along the image was taken away.
    assert float(torch.linalg.vector_norm(update, dim=(1, 2, 3)).max()) <= 0.2 + 1e-5
    assert float(torch.linalg.vector_norm(update, dim=(1, 2, 3)).min()) > 0.1  # the two are at about 45 degrees


def test_momentum_adds_a_share_of_the_earlier_steps(pair: tuple[Tensor, Tensor]) -> None:
    away, towards = pair
    _, first = adaptive_projected(away, towards, 2.0, None, momentum=-0.5, norm_threshold=0.0, eta=1.0)
    guided, second = adaptive_projected(away, towards, 2.0, first, momentum=-0.5, norm_threshold=0.0, eta=1.0)
    assert torch.allclose(second, 0.5 * (towards - away), atol=1e-6)
    assert torch.allclose(guided, towards + second, atol=1e-5)


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
def test_a_prediction_means_the_image_that_it_was_made_of(target: str, pair: tuple[Tensor, Tensor]) -> None:
    image, noise = pair
    squares = torch.linspace(0.99, 0.01, 1000)
    level = NoiseLevel.at(squares, 400.5, target)
    assert level.alpha**2 == pytest.approx(float(squares[400] + squares[401]) / 2, abs=1e-5)
    x = level.alpha * image + level.sigma * noise
    known = {"epsilon": noise, "v_prediction": level.alpha * noise - level.sigma * image, "sample": image}[target]
    assert torch.allclose(level.to_image(known, x), image, atol=1e-5)
    assert torch.allclose(level.from_image(image, x), known, atol=1e-5)


def test_projected_guidance_does_not_depend_on_the_target_of_the_model(pair: tuple[Tensor, Tensor]) -> None:
    image, noise = pair
    other = image.flip(0)
    squares, scale = torch.linspace(0.99, 0.01, 1000), torch.full((2, 1, 1, 1), 3.0)
    images = []
    for target in ("epsilon", "v_prediction", "sample"):
        level = NoiseLevel.at(squares, 500, target)
        x = level.alpha * image + level.sigma * noise
        away, towards = (level.from_image(one, x) for one in (other, image))
        guided, _ = guide(Guidance(name=GuidanceName.apg), away, towards, scale, x, level)
        images.append(level.to_image(guided, x))
    assert torch.allclose(images[0], images[2], atol=1e-4) and torch.allclose(images[1], images[2], atol=1e-4)


def test_outside_its_interval_guidance_costs_no_second_pass() -> None:
    sampler = make_sampler(guidance_interval=(400, 1000))
    timesteps = _timesteps(sampler)
    assert any(one < 400 for one in timesteps) and any(one >= 400 for one in timesteps)
    counted = Counted(sampler.components.unet)
    sampler.text_to_audio("a band")
    assert counted.batches == [2 if one >= 400 else 1 for one in timesteps]


def test_an_interval_without_any_step_is_sampling_without_guidance() -> None:
    nothing = make_sampler(guidance_interval=(0, 0)).text_to_audio("a band", guidance_scale=5)
    plain = make_sampler().text_to_audio("a band", guidance_scale=1)
    assert np.array_equal(nothing.image, plain.image)


@pytest.mark.parametrize(
    "options",
    [{"guidance": "apg"}, {"guidance_rescale": 0.7}, {"guidance_interval": (400, 1000)}, {"timesteps": "ays"}],
)
def test_every_option_changes_the_clip(options: dict[str, Any]) -> None:
    usual, other = (make_sampler(**one).text_to_audio("a band", guidance_scale=9) for one in ({}, options))
    assert not np.array_equal(usual.image, other.image)


def test_a_model_that_guides_itself_is_no_guidance_and_a_weaker_one_is() -> None:
    plain = make_sampler().text_to_audio("a band", guidance_scale=1)
    itself = make_sampler(guide=nano_components()).text_to_audio("a band", guidance_scale=5)
    weaker = make_sampler(guide=nano_components(seed=1)).text_to_audio("a band", guidance_scale=5)
    assert np.abs(itself.image.astype(int) - plain.image).max() <= 1  # sums of another order
    assert not np.array_equal(weaker.image, plain.image)


def test_a_guide_takes_the_place_of_the_negative_prompt_and_must_fit() -> None:
    with pytest.raises(InputError, match="negative prompt: guide= takes its place"):
        make_sampler(guide=nano_components(seed=1)).text_to_audio("a band", negative_prompt="noise")
    other = nano_components("model.latent_channels=8")
    with pytest.raises(InputError, match="take a checkpoint of the same run"):
        make_sampler(guide=other)


@pytest.mark.parametrize("scheduler", ["dpmsolver", "dpmsolver_sde", "euler"])
@pytest.mark.parametrize("guidance", ["cfg", "apg"])
def test_a_stream_whose_controls_do_not_change_draws_the_clips_of_the_batch(scheduler: str, guidance: str) -> None:
    """The player draws clip by clip, with other work in between; the walk draws them all in one go."""
    sampler = make_sampler(scheduler=scheduler, guidance=guidance, guidance_interval=(200, 1000))
    request = WalkRequest(prompt="a", prompts=("a", "b"), clips=2, seed=3, guidance_scale=4.0)
    batch = list(make_loops(sampler.pipeline, request, ModeOptions(4, sampler.quality)))
    maker = ClipMaker(sampler)
    spec = ClipSpec(prompt="a", prompt_to="b", seed=3, guidance_scale=4.0, num_inference_steps=4, guidance_from=200)
    stream = []
    for alpha in (0.0, 0.5):
        stream.append(maker.make(spec.model_copy(update={"alpha": alpha})).image)
        sampler.text_to_audio("something else", seed=9)  # must leave no trace in solver or guidance
    assert [np.array_equal(one, other) for one, other in zip(stream, batch[:2], strict=True)] == [True, True]


@pytest.mark.parametrize("options", [{"guidance": "apg"}, {"scheduler": "dpmsolver_sde"}, {"scheduler": "euler_a"}])
def test_a_clip_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    sampler = make_sampler(**options)
    texts = [("a band", "", 3), ("another", "", 4), ("a third", "", 5)]
    together = list(sampler.generate(texts, batch_size=3))
    for text, clip in zip(texts, together, strict=True):
        (alone,) = sampler.generate([text])
        assert np.array_equal(alone.image, clip.image)


def _timesteps(sampler: Sampler) -> list[float]:
    scheduler = sampler.pipeline.scheduler(sampler.num_inference_steps)
    scheduler.set_timesteps(sampler.num_inference_steps)
    assert sampler.pipeline.spacing(4) is TimestepSpacing.model
    return [float(one) for one in scheduler.timesteps]

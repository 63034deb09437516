"""Canvases wider than a window, and canvases that go round."""

import pytest
import torch
from support.models import nano_components

from riffusion_train.sampling.denoise import window_starts
from riffusion_train.sampling.pipeline import Pipeline, circular_along_time
from riffusion_train.sampling.sources import initial_noise, long_noise, slerp


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    parts = nano_components()
    for module in parts.modules.values():
        module.requires_grad_(False).eval()
    return Pipeline(parts)


def test_windows_cover_a_canvas_and_half_of_each_other() -> None:
    assert window_starts(8, 8) == [0]
    assert window_starts(24, 8) == [0, 4, 8, 12, 16]
    assert window_starts(10, 8) == [0, 2]
    covered = {(start + column) % 20 for start in window_starts(20, 8, circular=True) for column in range(8)}
    assert covered == set(range(20))


def test_longer_noise_begins_with_the_shorter() -> None:
    short, long = (long_noise(3, (4, 8, 8), width) for width in (11, 40))
    assert torch.equal(short, long[..., :11])
    assert torch.equal(long[..., :8], initial_noise(3, (4, 8, 8)))
    assert torch.equal(long_noise(3, (4, 8, 8), 9, first=13), long[..., 13:22])
    assert not torch.equal(long[..., :8], long[..., 8:16])


def test_slerp_keeps_the_length_and_has_its_ends() -> None:
    one, other = (initial_noise(seed, (4, 16, 16)) for seed in (0, 1))
    assert torch.equal(slerp(one, other, 0.0), one)
    assert torch.allclose(slerp(one, other, 1.0), other, atol=1e-5)
    assert float(slerp(one, other, 0.5).std()) == pytest.approx(1.0, abs=0.03)


def test_a_circular_network_keeps_a_rotation() -> None:
    parts = nano_components()
    noise, states = initial_noise(0, (4, 8, 8))[None], torch.zeros(1, 77, 16)
    with torch.no_grad():
        with circular_along_time(parts.unet, parts.vae):
            plain = parts.unet(noise, 500, states).sample
            turned = parts.unet(noise.roll(4, -1), 500, states).sample
            drawn, drawn_turned = (parts.vae.decode(x).sample for x in (noise, noise.roll(3, -1)))
        assert torch.allclose(plain.roll(4, -1), turned, atol=1e-5)
        assert torch.allclose(drawn.roll(12, -1), drawn_turned, atol=1e-5)
        usual = parts.unet(noise.roll(4, -1), 500, states).sample  # as it was once the context is left
        assert not torch.allclose(parts.unet(noise, 500, states).sample.roll(4, -1), usual, atol=1e-3)


def test_predictions_of_windows_are_blended_in_every_step(pipeline: Pipeline) -> None:
    condition = pipeline.texts.condition("a band")
    canvas = long_noise(0, pipeline.latent_shape, 20)[None]
    long = pipeline.denoise(canvas, condition, num_inference_steps=3)
    apart = torch.cat(
        [pipeline.denoise(canvas[..., at : at + 8], condition, num_inference_steps=3) for at in (0, 8)], -1
    )
    assert long.shape == (1, 4, 8, 20)
    assert not torch.allclose(long[..., :16], apart, atol=1e-2)

    def jump(latents: torch.Tensor, at: int) -> float:
        return float((latents[..., at] - latents[..., at - 1]).abs().mean())

    inside = [jump(long, at) for at in range(1, 20)]
    assert jump(long, 8) <= max(inside[:6] + inside[9:])


def test_long_images_come_in_chunks_that_join(pipeline: Pipeline) -> None:
    latents = long_noise(1, pipeline.latent_shape, 22)
    chunks = list(pipeline.decode_stream(latents))
    assert len(chunks) > 1
    assert sum(chunk.shape[1] for chunk in chunks) == 22 * pipeline.downsampling
    assert pipeline.decode(latents, circular=True).shape == (32, 88)


def test_a_image_goes_to_latents_of_its_width(pipeline: Pipeline) -> None:
    image = pipeline.decode(long_noise(1, pipeline.latent_shape, 22))
    assert pipeline.encode(image).shape == (4, 8, 22)
    assert pipeline.encode(image[:, :32]).shape == (4, 8, 8)


def test_a_row_does_not_depend_on_its_batch(pipeline: Pipeline) -> None:
    condition = pipeline.texts.condition("a band")
    rows = torch.stack([initial_noise(seed, pipeline.latent_shape) for seed in range(3)])
    together = pipeline.denoise(rows, condition, num_inference_steps=3, seeds=range(3))
    alone = [pipeline.denoise(rows[i : i + 1], condition, num_inference_steps=3, seeds=[i])[0] for i in range(3)]
    assert torch.equal(together, torch.stack(alone))


def test_a_unet_batch_that_is_not_full_gives_the_same(pipeline: Pipeline) -> None:
    wide = Pipeline(pipeline.components, unet_batch_size=4)
    condition = wide.texts.condition("a band")
    rows = torch.stack([initial_noise(seed, wide.latent_shape) for seed in range(3)])
    together = wide.denoise(rows, condition, num_inference_steps=3, seeds=range(3))
    alone = wide.denoise(rows[:1], condition, num_inference_steps=3, seeds=[0])
    assert torch.equal(together[:1], alone)

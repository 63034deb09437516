"""What the tests of the player share: clips made with the nano model."""

import pytest
from support.models import nano_components

from riffusion_train.player.clips import ClipMaker
from riffusion_train.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def maker() -> ClipMaker:
    return ClipMaker(Sampler(nano_components(), num_inference_steps=2, guidance_scale=1.0))

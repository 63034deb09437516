"""Load the model of `riffusion play` and build the application around it."""

import sys
from collections.abc import Sequence

from riffusion_train.cli.model import load_sampler
from riffusion_train.config.sample import PlayConfig, sampler_options
from riffusion_train.player.app import DEFAULT_PROMPT, create_app
from riffusion_train.player.security import Application
from riffusion_train.player.serve import is_loopback
from riffusion_train.player.settings import Limits, Settings, SettingsReader


def load_application(config: PlayConfig, model: str, loras: Sequence[str], limits: Limits) -> Application:
    """Return the application that plays a model.

    Raises:
        InputError: If the model or a value cannot be used.
    """
    chosen = {"num_inference_steps": config.num_inference_steps, "guidance_scale": config.guidance_scale}
    wanted = {**chosen, "prompt": config.prompt or DEFAULT_PROMPT, "seed_image": config.seed_image}
    defaults = SettingsReader(limits, lambda id: False).changed(Settings(), wanted)
    sampler = load_sampler(
        model,
        loras,
        config.num_threads,
        **sampler_options(config),
    )
    print("warming up: two short clips, which also measure this machine", file=sys.stderr)
    return create_app(
        sampler,
        limits=limits,
        most_streams=config.max_streams,
        defaults=defaults,
        loopback=is_loopback(config.host),
        origins=tuple(config.origins),
    )

"""`riffusion play [MODEL]`: the live player."""

import importlib.util
import sys
from collections.abc import Sequence

from riffusion_train.cli.arguments import DEFAULT_MODEL_NOTE, Command, Flag
from riffusion_train.config.denoising import check_denoising
from riffusion_train.config.sample import PlayConfig, sampler_options
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import check_source
from riffusion_train.runtime.pretrained import DEFAULT_MODEL

_COMMAND = Command(
    name="play",
    root=PlayConfig,
    usage="[MODEL] [--lora FILE[:WEIGHT]]",
    notes=DEFAULT_MODEL_NOTE,
    takes_positionals=True,
    flags=(Flag("--lora", "FILE[:WEIGHT]", "merge a LoRA into the model; repeat it for several", repeats=True),),
)
_REQUIRED = ("fastapi", "uvicorn", "websockets", "multipart")
"""Modules of the extra `play`."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        InputError: If the arguments, the model or the port cannot be used, or a package that the player needs is missing.
    """
    parsed = _COMMAND.parse(arguments)
    if parsed is None:
        return
    if len(parsed.positionals) > 1:
        raise InputError(f"{len(parsed.positionals)} models: riffusion play [MODEL] [key=value …]")
    model = parsed.positionals[0] if parsed.positionals else DEFAULT_MODEL
    check_source(model)
    if any(importlib.util.find_spec(module) is None for module in _REQUIRED):
        raise InputError('the player needs FastAPI, uvicorn and more: pip install "riffusion-train[play]"')
    _play(parsed.config, model, parsed.flags.lora)


def _play(config: PlayConfig, model: str, loras: Sequence[str]) -> None:
    from riffusion_train.player.serve import client_token, make_server, open_socket, page_address
    from riffusion_train.player.settings import Limits, make_settings

    # The port is taken before the model is loaded, so that one in use is reported at once.
    with open_socket(config.host, config.port) as listening:
        from riffusion_train.cli.model import load_sampler
        from riffusion_train.player.app import make_app

        token = client_token(config.token, config.host)
        limits = Limits(sockets_per_address=config.sockets_per_address)
        make_settings(config)  # refuses what cannot be used before the model is loaded
        check_denoising(config)
        sampler = load_sampler(model, loras, config.num_threads, **sampler_options(config))
        defaults = make_settings(config, sampler)
        print("warming up: two short clips, which also measure this machine", file=sys.stderr)
        application = make_app(config, sampler, defaults, limits, token)
        print(f"playing: open {page_address(config.host, listening, token)} in a browser; Ctrl-C ends it", flush=True)
        make_server(application, limits).run(sockets=[listening])
    print("stopped")

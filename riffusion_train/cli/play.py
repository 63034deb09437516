"""`riffusion play MODEL`: the live player."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from riffusion_train.cli.command import FlagParser, help_text
from riffusion_train.config.compose import compose, config_keys
from riffusion_train.config.sample import PlayConfig, sampler_options
from riffusion_train.runtime.errors import InputError

_FLAGS = "MODEL [--lora FILE[:WEIGHT]] "
_NEEDED = ("fastapi", "uvicorn", "websockets", "multipart")


def main(words: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        InputError: If the words, the model or the port cannot be used, or what the page needs is not installed.
    """
    if any(word in ("-h", "--help") for word in words):
        print(help_text("play", PlayConfig, _FLAGS))
        return
    parser = FlagParser(prog="riffusion play", add_help=False, allow_abbrev=False)
    parser.add_argument("--lora", action="append", default=[], metavar="FILE[:WEIGHT]")
    flags, rest = parser.parse_known_args(list(words))
    unknown = [word for word in rest if word.startswith("--")]
    if unknown:
        raise InputError(f"unknown flag {unknown[0]}; the flags are {_FLAGS.strip()}")
    keys = tuple(f"{key}=" for key in config_keys(PlayConfig))
    models = [word for word in rest if not word.startswith(keys) and (Path(word).exists() or "=" not in word)]
    config = compose("play", PlayConfig, [word for word in rest if word not in models])
    if len(models) != 1:
        raise InputError(f"{len(models) or 'no'} models: riffusion play MODEL [key=value …]")
    if any(importlib.util.find_spec(module) is None for module in _NEEDED):
        raise InputError('the player needs FastAPI and friends: pip install "riffusion-train[play]"')
    _play(config, models[0], flags.lora)


def _play(config: PlayConfig, model: str, loras: Sequence[str]) -> None:
    from riffusion_train.player.serve import make_server, open_socket, page_address
    from riffusion_train.player.settings import Limits, make_settings

    with open_socket(config.host, config.port) as listening:
        from riffusion_train.cli.loaded import load_sampler
        from riffusion_train.player.app import make_app

        limits = Limits(sockets_per_address=config.sockets_per_address)
        defaults = make_settings(config)
        sampler = load_sampler(model, loras, config.num_threads, **sampler_options(config))
        print("warming up: two short clips, which also measure this machine", file=sys.stderr)
        application = make_app(config, sampler, defaults, limits)
        print(f"playing: open {page_address(config.host, listening)} in a browser; Ctrl-C ends it", flush=True)
        make_server(application, limits).run(sockets=[listening])
    print("stopped")

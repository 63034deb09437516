"""The verbs for hearing a model at once: `riffusion play [MODEL]`, the live player, and `riffusion demo`.

The demo makes a model from nothing on this machine, with a page to listen to it.
"""

import importlib.util
import sys
from collections.abc import Sequence

from riffusion_train.cli.arguments import DEFAULT_MODEL_NOTE, Command, Flag
from riffusion_train.config.denoising import check_denoising
from riffusion_train.config.sample import DemoConfig, PlayConfig, sampler_options
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import DEFAULT_MODEL, check_source
from riffusion_train.runtime.provenance import usable_cores

_PLAY = Command(
    name="play",
    root=PlayConfig,
    usage="[MODEL] [--lora FILE[:WEIGHT]]",
    notes=DEFAULT_MODEL_NOTE,
    takes_positionals=True,
    flags=(Flag("--lora", "FILE[:WEIGHT]", "a LoRA as a fader; repeat it for several", repeats=True),),
)
_PLAY_NEEDS = ("fastapi", "uvicorn", "websockets", "multipart")
"""Modules of the extra `play`."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        InputError: If the arguments, the model or the port cannot be used, or a package that the player needs is missing.
    """
    parsed = _PLAY.parse(arguments)
    if parsed is None:
        return
    if len(parsed.positionals) > 1:
        raise InputError(f"{len(parsed.positionals)} models: riffusion play [MODEL] [key=value …]")
    model = parsed.positionals[0] if parsed.positionals else DEFAULT_MODEL
    check_source(model)
    if any(importlib.util.find_spec(module) is None for module in _PLAY_NEEDS):
        raise InputError('the player needs FastAPI, uvicorn and more: pip install "riffusion-train[play]"')
    _play(parsed.config, model, parsed.flags.lora)


def _play(config: PlayConfig, model: str, loras: Sequence[str]) -> None:
    from riffusion_train.player.serve import client_token, make_server, open_socket, page_address
    from riffusion_train.player.settings import Limits, make_settings

    # The port is taken before the model is loaded, so that one in use is reported at once.
    with open_socket(config.host, config.port) as listening:
        from riffusion_train.cli.model import load_sampler
        from riffusion_train.player.app import make_app
        from riffusion_train.player.faders import distilled_among, load_faders

        token = client_token(config.token, config.host)
        limits = Limits(sockets_per_address=config.sockets_per_address)
        make_settings(config)  # refuses what cannot be used before the model is loaded
        check_denoising(config)
        # A distilled LoRA decides how the model is sampled: it is merged.
        merged = distilled_among(model, loras)
        threads = config.num_threads or max(usable_cores() - 1, 1)
        sampler = load_sampler(model, merged, threads, **sampler_options(config))
        faders = load_faders(sampler.components, [lora for lora in loras if lora not in merged])
        defaults = make_settings(config, sampler)
        print("warming up: two short clips and changes, which also measure this machine", file=sys.stderr)
        application = make_app(config, sampler, defaults, limits, token, faders)
        print(f"playing: open {page_address(config.host, listening, token)} in a browser; Ctrl-C ends it", flush=True)
        make_server(application, limits).run(sockets=[listening])
    print("stopped")


_DEMO = Command(name="demo", root=DemoConfig, local_keys=("out",))
_DEMO_NEEDS = {"midirenderer": "midirenderer", "pretty_midi": "pretty_midi", "sklearn": "scikit-learn"}
"""Modules of the extra `demo`, and the packages that bring them: they compose the corpus and judge the clips made from it."""


def main_demo(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parsed = _DEMO.parse(arguments)
    if parsed is None:
        return
    composes = parsed.config.audio_dir is None
    missing = [package for module, package in _DEMO_NEEDS.items() if importlib.util.find_spec(module) is None]
    if composes and missing:
        raise InputError(f"the demo needs {', '.join(missing)}: pip install 'riffusion-train[demo]'")
    from riffusion_train.cli.model import quieten_libraries
    from riffusion_train.demo.run import run_demo

    quieten_libraries()
    page = run_demo(parsed.config, arguments)
    print(f"done: open {page.resolve()} in a browser")

"""The player's web application: the page, its interface, and one for scripts, around a loaded model."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from riffusion_train.config.sample import PlayConfig
from riffusion_train.player import routes, takes
from riffusion_train.player.bodies import ErrorAnswer
from riffusion_train.player.clips import ClipMaker
from riffusion_train.player.faders import LoraFaders
from riffusion_train.player.loop import RETRY_AFTER_S, BusyError, FullError, GenerationLoop
from riffusion_train.player.prompts import PromptQueue
from riffusion_train.player.security import Guard
from riffusion_train.player.serve import is_loopback
from riffusion_train.player.session import Timeouts
from riffusion_train.player.settings import Limits, Settings, describe_errors, first_prompt, settings_of
from riffusion_train.runtime import __version__
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.sampler import Sampler


def make_app(
    config: PlayConfig,
    sampler: Sampler,
    defaults: Settings,
    limits: Limits,
    token: str | None = None,
    loras: LoraFaders | None = None,
) -> Guard:
    """Return the application that `riffusion play` serves.

    Args:
        config: The command's options.
        sampler: The loaded model.
        defaults: The settings that sessions begin with; see `make_settings`.
        limits: How much clients may send and ask for.
        token: What every client must know; None serves everybody who can reach the port.
        loras: The faders of the model's LoRAs.
    """
    return create_app(
        sampler,
        limits=limits,
        max_streams=config.max_streams,
        defaults=defaults,
        loopback=is_loopback(config.host),
        origins=tuple(config.origins),
        token=token,
        loras=loras,
    )


def create_app(
    sampler: Sampler,
    *,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    max_streams: int | None = None,
    defaults: Settings | None = None,
    loopback: bool = True,
    origins: tuple[str, ...] = (),
    token: str | None = None,
    warm_up: bool = True,
    loras: LoraFaders | None = None,
) -> Guard:
    """Build the application around a loaded model.

    Args:
        sampler: The model.
        limits: How much clients may send and ask for.
        timeouts: How long streams are kept.
        max_streams: How many play at once; None derives it from the measured speed.
        defaults: The settings that sessions begin with.
        loopback: Whether only this machine is served.
        origins: Further origins whose pages may steer.
        token: What every client must know; None serves everybody who can reach the port.
        warm_up: Whether to make a few clips and changes first: `takes.warm_up`.
        loras: The faders of the model's LoRAs.

    Returns:
        An ASGI application; once it runs, the state of the FastAPI application inside it holds the generation `loop`.
    """
    maker = ClipMaker(sampler, loras=loras)
    maker.mark  # noqa: B018 - hashes the weights once, before a listener waits for it
    limits = limits or Limits()
    defaults = defaults or Settings(prompt=first_prompt(sampler), **settings_of(sampler))
    if warm_up:
        takes.warm_up(maker, PromptQueue(defaults).next().spec)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = GenerationLoop(maker, limits=limits, timeouts=timeouts, max_streams=max_streams)
        app.state.loop = loop
        task = asyncio.create_task(loop.run())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    app = FastAPI(
        title="riffusion play",
        version=__version__,
        description="Endless music from a model, steered while it plays; and single clips for scripts.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={400: {"model": ErrorAnswer}},
    )
    app.state.defaults = defaults
    app.state.model_name = Path(sampler.components.source).name
    app.include_router(routes.router)
    _answer_errors(app)
    _document_errors(app)
    return Guard(app, limits=limits, loopback=loopback, origins=origins, token=token)


def _document_errors(app: FastAPI) -> None:
    """Remove FastAPI's own form of an invalid request from the documentation: here it is a 400 like all others."""
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)


def _answer_errors(app: FastAPI) -> None:
    """Answer every error with one line of JSON."""

    @app.exception_handler(InputError)
    async def unusable(request: Request, error: InputError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _error(400, describe_errors(error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return _error(503, str(error), {"retry-after": "5"})

    @app.exception_handler(FullError)
    async def full(request: Request, error: FullError) -> Response:
        content = {
            "error": str(error),
            "position": error.position,
            "ticket": error.ticket,
            "retry_after_s": RETRY_AFTER_S,
        }
        return JSONResponse(content, 503, {"retry-after": f"{RETRY_AFTER_S:.0f}"})

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        return _error(500, "internal error of the player; see its log")


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)

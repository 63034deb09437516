"""The player's web application: a page, an interface for it, and one for scripts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from riffusion_train.player import routes
from riffusion_train.player.clips import ClipMaker
from riffusion_train.player.loop import BusyError, FullError, GenerationLoop
from riffusion_train.player.security import Guard
from riffusion_train.player.session import Timeouts
from riffusion_train.player.settings import ErrorAnswer, Limits, Settings
from riffusion_train.runtime import __version__
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.sampler import Sampler

DEFAULT_PROMPT = "a slow piano in an empty house, rain outside"


def create_app(
    sampler: Sampler,
    *,
    limits: Limits | None = None,
    patience: Timeouts | None = None,
    most_streams: int | None = None,
    defaults: Settings | None = None,
    loopback: bool = True,
    origins: tuple[str, ...] = (),
    warm_up: bool = True,
) -> Guard:
    """Build the application around a loaded model.

    Args:
        sampler: The model.
        limits: How much is taken from outside.
        patience: How long streams are kept.
        most_streams: How many play at once; None leaves it to what the machine can do.
        defaults: What a session begins with where nothing is said.
        loopback: Whether only this machine is served.
        origins: Further origins whose pages may steer.
        warm_up: Whether to make two clips first, which compiles what is compiled and measures the machine.

    Returns:
        An ASGI application; once it runs, the state of the FastAPI application inside it holds the `studio`.
    """
    maker = ClipMaker(sampler)
    steps = maker.default_steps
    begin = defaults or Settings(
        prompt=DEFAULT_PROMPT, guidance_scale=sampler.guidance_scale, num_inference_steps=steps
    )
    taken = limits or Limits()
    if warm_up:
        maker.warm_up()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        studio = GenerationLoop(maker, limits=taken, patience=patience, most_streams=most_streams)
        app.state.studio = studio
        task = asyncio.create_task(studio.run())
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
    app.state.defaults = begin
    app.state.model_name = Path(sampler.components.source).name
    for router in (routes.pages_router, routes.clips_router, routes.sessions_router):
        app.include_router(router)
    _answer_errors(app)
    _document(app)
    return Guard(app, limits=taken, loopback=loopback, origins=origins)


def _document(app: FastAPI) -> None:
    """Leave FastAPI's own form of an invalid request out of the documentation: here it is a 400 like all others."""
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)


def _answer_errors(app: FastAPI) -> None:
    """Let every error be one line of JSON."""

    @app.exception_handler(InputError)
    async def wrong(request: Request, error: InputError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = dict(error.errors()[0])
        place = ".".join(str(part) for part in first["loc"][1:])[:80] or "the body"
        return _error(400, f"{place}: {first['msg']}; see /openapi.json")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return _error(503, str(error), {"retry-after": "5"})

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return _error(500, "a fault of the player; its log says more")

    @app.exception_handler(FullError)
    async def full(request: Request, error: FullError) -> Response:
        content = {"error": str(error), "position": error.position, "ticket": error.ticket, "retry_after_s": 5.0}
        return JSONResponse(content, 503, {"retry-after": "5"})


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)

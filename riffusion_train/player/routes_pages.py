"""The page and what belongs to it, and how the player does."""

from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.player.studio import Studio
from riffusion_train.player.words import BUILDER, DICE, SEED_IMAGE_WORDS
from riffusion_train.sampling.seed_images import SEED_IMAGES
from riffusion_train.sampling.sources import band_of

router = APIRouter()

_FOLDER = Path(__file__).parent / "static"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_FILES = {path.name: path for path in _FOLDER.glob("*") if path.suffix in _KINDS}
"""All that is served from disk: whatever the client asks for is looked up here, and is never a path."""


def studio_of(request: Request) -> Studio:
    """Return the studio of a request's application."""
    studio: Studio = request.app.state.studio
    return studio


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    return _file("page.html")


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> Response:
    """Return a file of the page."""
    return _file(name)


@router.get("/healthz", tags=["state"])
async def healthz() -> dict[str, str]:
    """Say that the player is there."""
    return {"status": "ok"}


@router.get("/metrics", tags=["state"])
async def metrics(request: Request) -> dict[str, Any]:
    """Return how the player does."""
    return studio_of(request).metrics()


@router.get("/api/choices", tags=["sessions"])
async def choices(request: Request) -> dict[str, Any]:
    """Return what a listener can choose from."""
    studio, state = studio_of(request), request.app.state
    config = studio.maker.sampler.codec.config
    named = {name: SEED_IMAGE_WORDS.get(name, (name.replace("_", " ").capitalize(), "")) for name in SEED_IMAGES}
    return {
        "model": state.model_name,
        "rate_hz": config.rate_hz,
        "channels": studio.maker.channels,
        "segment_s": studio.maker.segment_s,
        "settings": state.defaults.public(),
        "seed_images": [{"id": id, "name": name, "about": about} for id, (name, about) in named.items()],
        "dice": list(DICE),
        "builder": {part: list(words) for part, words in BUILDER.items()},
        "limits": {
            "prompt_chars": studio.limits.prompt_chars,
            "queue": studio.limits.queue,
            "upload_bytes": studio.limits.upload_bytes,
            "upload_s": studio.limits.upload_s,
            "recording_s": studio.patience.ring_s,
        },
        "steps": {"min": 1, "max": studio.limits.most_steps, "default": studio.maker.default_steps},
        "hop_length": config.hop_length,
        "planes": config.channels.value,
        "row_hz": row_frequencies(config),
    }


def row_frequencies(config: SpectrogramConfig) -> list[float]:
    """Return the frequency in the middle of each row of a picture, from the bottom."""
    hz = np.linspace(config.f_min_hz, config.f_max_hz, 1 << 14)
    return [round(float(one), 2) for one in np.interp(np.arange(config.n_mels), band_of(hz, config), hz)]


def _file(name: str) -> Response:
    path = _FILES.get(name)
    if path is None:
        raise HTTPException(404, "there is no such file")
    return Response(path.read_bytes(), media_type=_KINDS[path.suffix], headers={"cache-control": "no-cache"})

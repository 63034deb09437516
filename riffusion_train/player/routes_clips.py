"""Single clips, uploads, and the original server's one route."""

import asyncio
import functools
import json
import secrets
from typing import Any

from fastapi import APIRouter, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from riffusion_train.player.oneshot import clip_request, make_clip, original_request, run_original
from riffusion_train.player.routes_pages import studio_of
from riffusion_train.player.schemas import ClipAnswer, ClipBody, ErrorAnswer, OriginalAnswer, OriginalBody, UploadAnswer
from riffusion_train.player.uploads import read_upload
from riffusion_train.runtime.errors import InputError

router = APIRouter()

_NAME_CHARS = 80


@router.post("/api/clips", tags=["clips"], response_model=ClipAnswer, responses={503: {"model": ErrorAnswer}})
async def clip(request: Request, body: ClipBody) -> dict[str, Any]:
    """Make one clip of a prompt; the answer holds sound and picture as data URIs."""
    studio = studio_of(request)
    wanted, steps, audio_format = clip_request(body.given(), studio.reader, studio.maker.default_steps)
    return await studio.do(functools.partial(make_clip, studio.maker, wanted, steps, audio_format, studio.report))


@router.post("/api/uploads", tags=["sessions"], status_code=201, response_model=UploadAnswer)
async def upload(request: Request, file: UploadFile) -> dict[str, Any]:
    """Take a sound to riff on; the first clip of it becomes the seed image of sessions that name its id."""
    studio = studio_of(request)
    limits, maker = studio.limits, studio.maker
    data = await file.read(limits.upload_bytes + 1)
    if len(data) > limits.upload_bytes:
        raise HTTPException(413, f"file: is larger than {limits.upload_bytes // 2**20} MB; give a shorter one")
    rate_hz = maker.sampler.codec.rate_hz
    async with studio.large:
        wav = await asyncio.to_thread(read_upload, data, rate_hz, maker.channels, limits.upload_s)
    id = secrets.token_urlsafe(9)
    await studio.do(functools.partial(maker.keep_upload, id, wav), jumps=True)
    name = "".join(character for character in file.filename or "" if character.isprintable())[:_NAME_CHARS]
    studio.uploads[id] = name
    while len(studio.uploads) > limits.uploads:
        oldest, _ = studio.uploads.popitem(last=False)
        maker.forget_upload(oldest)
    return {"id": id, "name": name, "duration_s": wav.shape[1] / rate_hz}


@router.post(
    "/run_inference/",
    tags=["clips"],
    response_model=OriginalAnswer,
    responses={400: {"content": {"text/plain": {}}, "model": None}},
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": OriginalBody.model_json_schema()}}}},
)
async def run_inference(request: Request) -> Response:
    """Answer as the original Riffusion server did, so that its web app and other clients can point here."""
    studio = studio_of(request)
    try:
        wanted = original_request(json.loads(await request.body()), studio.reader)
    except (ValueError, RecursionError):
        return PlainTextResponse("Invalid JSON data", 400)
    except InputError as error:
        return PlainTextResponse(str(error), 400)
    return JSONResponse(await studio.do(functools.partial(run_original, studio.maker, wanted, studio.report)))

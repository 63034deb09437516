"""The player's interface: the page, sessions, uploads, single clips, and the original Riffusion server's one route."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Query, Request, UploadFile, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from riffusion_train.audio.write import encode_audio
from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.player.bodies import (
    Change,
    ChangeAnswer,
    ClipAnswer,
    ClipBody,
    ErrorAnswer,
    FullAnswer,
    NewSession,
    OriginalAnswer,
    OriginalBody,
    SessionAnswer,
    UploadAnswer,
)
from riffusion_train.player.faders import NamedLora
from riffusion_train.player.loop import GenerationLoop
from riffusion_train.player.oneshot import (
    MIME_TYPES,
    clip_request,
    make_clip,
    original_request,
    run_original,
)
from riffusion_train.player.prompts import BUILDER, DICE, SEED_IMAGE_TEXTS
from riffusion_train.player.security import read_upload
from riffusion_train.player.segments import Segment, encode_png, image_between, samples_between
from riffusion_train.player.session import GUARD_S, Session
from riffusion_train.player.settings import (
    MAX_MIXED,
    MAX_PROMPT_CHARS,
    MAX_STEPS,
    MOMENT,
    Settings,
    apply_changes,
    settings_schema,
)
from riffusion_train.player.stream import serve_socket
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.sources import SEED_IMAGES, band_of

router = APIRouter()

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_FILES = {path.name: path for path in (Path(__file__).parent / "static").glob("*") if path.suffix in _MEDIA_TYPES}
"""All files that are served: a name from a client is looked up here, and is never a path."""
_NAME_CHARS = 80
_INDEX_DIGITS = 12
_QUEUE_CHANGES = ("remove", "next", "prompt", "now")
_SILENT = ("clips", "num_inference_steps")
"""Settings that nobody hears at once: they hold from the next segment on."""
_GONE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer}}


def _loop(request: Request) -> GenerationLoop:
    """Return the generation loop of a request's application."""
    loop: GenerationLoop = request.app.state.loop
    return loop


# The page, and the state of the player.


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    return _file("page.html")


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> Response:
    """Return a file of the page."""
    return _file(name)


def _file(name: str) -> Response:
    path = _FILES.get(name)
    if path is None:
        raise HTTPException(404, "there is no such file")
    return Response(path.read_bytes(), media_type=_MEDIA_TYPES[path.suffix], headers={"cache-control": "no-cache"})


@router.get("/healthz", tags=["state"])
async def healthz() -> dict[str, str]:
    """Answer that the player runs."""
    return {"status": "ok"}


@router.get("/metrics", tags=["state"])
async def metrics(request: Request) -> dict[str, Any]:
    """Return figures about the running player."""
    return _loop(request).metrics()


@router.get("/api/choices", tags=["sessions"])
async def choices(request: Request) -> dict[str, Any]:
    """Return what a listener can choose from."""
    loop, state = _loop(request), request.app.state
    config = loop.maker.sampler.codec.config
    texts = {name: SEED_IMAGE_TEXTS.get(name, (name.replace("_", " ").capitalize(), "")) for name in SEED_IMAGES}
    return {
        "model": state.model_name,
        "rate_hz": config.rate_hz,
        "channels": loop.maker.channels,
        "segment_s": loop.maker.segment_s,
        "settings": state.defaults.public(),
        "delay_s": loop.maker.turn_cost.of(loop.maker.default_steps) + GUARD_S,
        "schema": settings_schema(),
        "seed_images": [{"id": id, "name": name, "about": about} for id, (name, about) in texts.items()],
        "dice": list(loop.maker.sampler.components.prompts or DICE),
        "builder": {part: list(choices) for part, choices in BUILDER.items()},
        "limits": {
            "prompt_chars": MAX_PROMPT_CHARS,
            "queue": loop.limits.queue,
            "mix": MAX_MIXED,
            "upload_bytes": loop.limits.upload_bytes,
            "upload_s": loop.limits.upload_s,
            "recording_s": loop.timeouts.buffer_s,
        },
        "steps": {"min": 1, "max": MAX_STEPS, "default": loop.maker.default_steps},
        "loras": [{"name": one.name, "scale": one.scale} for one in _loras(loop)],
        "hop_length": config.hop_length,
        "planes": config.channels.value,
        "row_hz": row_frequencies(config),
    }


def _loras(loop: GenerationLoop) -> tuple[NamedLora, ...]:
    return () if loop.maker.loras is None else loop.maker.loras.loras


def row_frequencies(config: SpectrogramConfig) -> list[float]:
    """Return the center frequency in Hz of each row of an image, from the bottom."""
    hz = np.linspace(config.f_min_hz, config.f_max_hz, 1 << 14)
    return [round(float(one), 2) for one in np.interp(np.arange(config.n_mels), band_of(hz, config), hz)]


# Single clips.


@router.post("/api/clips", tags=["clips"], response_model=ClipAnswer, responses={503: {"model": ErrorAnswer}})
async def clip(request: Request, body: ClipBody) -> dict[str, Any]:
    """Make one clip of a prompt; the answer holds audio and image as data URIs."""
    loop = _loop(request)
    text_request, steps, audio_format = clip_request(body, loop.maker.default_steps)
    return await loop.submit(functools.partial(make_clip, loop.maker, text_request, steps, audio_format, loop.report))


@router.post(
    "/run_inference/",
    tags=["clips"],
    response_model=OriginalAnswer,
    responses={400: {"content": {"text/plain": {}}, "model": None}},
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": OriginalBody.model_json_schema()}}}},
)
async def run_inference(request: Request) -> Response:
    """Answer as the original Riffusion server did, so that its web app and other clients can point here."""
    loop = _loop(request)
    try:
        original = original_request(json.loads(await request.body()))
    except (ValueError, RecursionError):
        return PlainTextResponse("Invalid JSON data", 400)
    except InputError as error:
        return PlainTextResponse(str(error), 400)
    return JSONResponse(await loop.submit(functools.partial(run_original, loop.maker, original, loop.report)))


# Sessions.


@router.post("/api/uploads", tags=["sessions"], status_code=201, response_model=UploadAnswer)
async def upload(request: Request, file: UploadFile) -> dict[str, Any]:
    """Keep audio to riff on; its first seconds become the seed image of sessions that name its id."""
    loop = _loop(request)
    limits, maker = loop.limits, loop.maker
    data = await file.read(limits.upload_bytes + 1)
    if len(data) > limits.upload_bytes:
        raise HTTPException(413, f"file: is larger than {limits.upload_bytes // 2**20} MB; send a shorter one")
    rate_hz = maker.sampler.codec.rate_hz
    async with loop.large:
        wav = await asyncio.to_thread(read_upload, data, rate_hz, maker.channels, limits.upload_s)
    name = "".join(filter(str.isprintable, file.filename or ""))[:_NAME_CHARS]
    return {"id": await loop.add_upload(name, wav), "name": name, "duration_s": wav.shape[1] / rate_hz}


@router.post(
    "/api/sessions",
    tags=["sessions"],
    status_code=201,
    response_model=SessionAnswer,
    responses={503: {"model": FullAnswer}},
)
async def begin(request: Request, body: NewSession) -> dict[str, Any]:
    """Begin a session; what is left out has the default that `/api/choices` names."""
    loop = _loop(request)
    data = body.given()
    ticket = data.pop("ticket", None)
    settings = apply_changes(request.app.state.defaults, data, loop.has_upload)
    session = loop.open(_known(loop, settings), ticket)
    return {"id": session.id, "token": session.token, **_settings_and_queue(session)}


@router.patch(
    "/api/sessions/{id}", tags=["sessions"], response_model=ChangeAnswer, responses={403: {"model": ErrorAnswer}}
)
async def change(request: Request, id: str, body: Change) -> dict[str, Any]:
    """Change a session; needs its token as `Authorization: Bearer TOKEN`."""
    loop, session = _loop(request), _session(request, id)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not session.authorised(token.strip()):
        raise HTTPException(403, "only who began this session can steer it; begin one of your own")
    data = body.given()
    if any(key in data for key in MOMENT):
        raise InputError(f"{', '.join(MOMENT)}: are for new sessions only")
    played_sample = data.pop("played_sample", None)
    queue_changes = {key: data.pop(key) for key in _QUEUE_CHANGES if key in data}
    prompts = session.prompts
    settings = _known(loop, apply_changes(prompts.settings, data, loop.has_upload))
    if queue_changes.get("remove") is not None:
        prompts.remove(queue_changes["remove"])
    if queue_changes.get("next") is not None:
        prompts.put_first(queue_changes["next"])
    if "prompt" in queue_changes:
        prompts.add(queue_changes["prompt"])
    if queue_changes.get("now") is not None:
        prompts.replace(queue_changes["now"])
    heard = any(getattr(settings, key) != getattr(prompts.settings, key) for key in data if key not in _SILENT)
    prompts.change(settings)
    if played_sample is not None:
        session.note_position(played_sample)
    if heard or queue_changes.get("now") is not None or ("prompt" in queue_changes and session.begins_now()):
        session.ask_for_turn()
    session.note_activity()
    session.send_queue()
    loop.wake()
    return {
        **_settings_and_queue(session),
        "takes_effect_at": session.takes_effect_at,
        "change": session.next_change,
        "delay_s": round(session.delay_s, 3),
    }


@router.get("/api/sessions/{id}", tags=["sessions"], responses=_GONE)
async def state(request: Request, id: str) -> dict[str, Any]:
    """Return the state of a session."""
    session = _session(request, id)
    return {
        **_settings_and_queue(session),
        "listeners": len(session.listeners),
        "first_segment": session.buffer.first_index,
        "next_segment": session.buffer.next_index,
        "playing_segment": session.playing_index,
    }


@router.websocket("/api/sessions/{id}/stream")
async def listen(socket: WebSocket, id: str) -> None:
    """Listen to a session."""
    loop: GenerationLoop = socket.app.state.loop
    await serve_socket(socket, loop, loop.sessions.get(id))


def _session(request: Request, id: str) -> Session:
    session = _loop(request).sessions.get(id)
    if session is None or session.closed is not None:
        raise HTTPException(404, "there is no such session (any more); begin a new one")
    return session


def _known(loop: GenerationLoop, settings: Settings) -> Settings:
    """Return settings whose LoRAs the player has."""
    if settings.loras:
        if loop.maker.loras is None:
            raise InputError("loras: the player was started without --lora; leave them out")
        loop.maker.loras.check([fader.name for fader in settings.loras])
    return settings


def _settings_and_queue(session: Session) -> dict[str, Any]:
    return {"settings": session.prompts.settings.public(), "queue": session.queue()}


# What was played.


@router.get("/api/sessions/{id}/segments/{name}", tags=["sessions"], responses=_GONE)
async def segment(request: Request, id: str, name: str) -> Response:
    """Return one segment: `INDEX.png`, `INDEX.wav` or `INDEX.json`."""
    session = _session(request, id)
    number, _, kind = name.partition(".")
    segment = session.buffer.get(int(number)) if number.isdecimal() and len(number) < _INDEX_DIGITS else None
    if segment is None or kind not in ("png", "wav", "json"):
        raise HTTPException(404, "there is no such segment (any more)")
    if kind == "json":
        return Response(segment.announcement(discontinuity=False), media_type="application/json")
    if kind == "png":
        return Response(segment.png, media_type="image/png")
    audio = await _audio(request, [segment], segment.start_sample, segment.end_sample, "wav")
    return Response(audio, media_type=MIME_TYPES["wav"])


@router.get("/api/sessions/{id}/recording.{kind}", tags=["sessions"], responses=_GONE)
async def recording(
    request: Request,
    id: str,
    kind: str,
    last_s: float = Query(60.0, gt=0, le=3600, description="Seconds; exactly so many, or as many as were played."),
    to_sample: int | None = Query(None, ge=0, description="Where it ends; if left out, what is heard now."),
) -> Response:
    """Return the last seconds of what was played, as `wav`, `mp3`, `flac`, `ogg`, `opus` or `png`."""
    session = _session(request, id)
    if kind != "png" and kind not in MIME_TYPES:
        raise HTTPException(404, f"recording.{kind[:10]}: choose from: png, {', '.join(MIME_TYPES)}")
    sampler = _loop(request).maker.sampler
    config = sampler.codec.config
    stop = min(session.played_sample if to_sample is None else to_sample, session.buffer.end_sample)
    start = max(stop - round(last_s * config.rate_hz), session.buffer.first_sample)
    if stop <= start:
        raise HTTPException(404, "nothing of that was played; let it play for a moment")
    segments = session.buffer.between(start, stop)
    disposition = {"content-disposition": f'attachment; filename="riffusion-{start}-{stop}.{kind}"'}
    if kind == "png":
        async with _loop(request).large:
            png = await asyncio.to_thread(
                lambda: encode_png(image_between(segments, start, stop, config.hop_length), _loop(request).maker.mark)
            )
        return Response(png, media_type="image/png", headers=disposition)
    audio = await _audio(request, segments, start, stop, kind)
    return Response(audio, media_type=MIME_TYPES[kind], headers=disposition)


async def _audio(request: Request, segments: list[Segment], start: int, stop: int, audio_format: str) -> bytes:
    """Return a range of samples as a file; written with the numbers that were sent to listeners."""
    loop = _loop(request)
    sampler, channels = loop.maker.sampler, loop.maker.channels

    def encode() -> bytes:
        pcm = samples_between(segments, start, stop, channels)
        wav = np.ascontiguousarray(pcm.T.astype(np.float32) / 32768)
        return encode_audio(wav, sampler.codec.rate_hz, audio_format, _loop(request).maker.mark)

    async with loop.large:
        return await asyncio.to_thread(encode)

"""What the tests of the live page do over and over: wait, press play, read its figures."""

import io
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
QUICK: dict[str, Any] = {"num_inference_steps": 1, "quality": "draft"}
"""A player that is in time also on a machine that runs other tests beside it."""
LINK_RIGHTS = ["clipboard-read", "clipboard-write"]


def wait(page: Any, condition: str | Callable[[], Any], timeout_s: float = 60) -> Any:
    """Wait for a condition of the page or of the test; playwright's own waiting needs `eval`, which the page forbids."""
    for _ in range(int(timeout_s / 0.025)):
        result = page.evaluate(condition) if isinstance(condition, str) else condition()
        if result:
            return result
        page.wait_for_timeout(25)
    raise AssertionError(f"never became true: {condition}; the page says: {page.inner_text('main')[:600]}")


def open_player(opened: Callable[..., Any], address: str, **options: Any) -> Any:
    """Open the page and wait until it is ready."""
    page = opened(address, **options)
    wait(page, "document.body.dataset.ready === 'true'")
    return page


def report(page: Any) -> Any:
    """Return the newest figures of the audio thread."""
    return json.loads(page.evaluate("document.getElementById('figures').dataset.report || '{}'"))


def press_play(page: Any) -> None:
    """Press the large button and wait for sound."""
    page.click("#start")
    hear(page)


def hear(page: Any, seconds: float = 0.1) -> None:
    """Wait until so much more was played."""
    before = report(page).get("played", 0)
    wait(page, lambda: report(page).get("played", 0) > before + seconds * report(page).get("rate", 0) > 0)


def frames_of(page: Any) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Record what the sockets of a page bring from now on: announcements of segments, and their frames."""
    announced: list[dict[str, Any]] = []
    frames: list[bytes] = []

    def take(payload: str | bytes) -> None:
        if isinstance(payload, bytes):
            frames.append(payload)
        elif json.loads(payload)["type"] == "segment":
            announced.append(json.loads(payload))

    page.on("websocket", lambda socket: socket.on("framereceived", take))
    return announced, frames


def pcm_of(frame: bytes) -> np.ndarray:
    """Return the audio of a frame."""
    return np.frombuffer(frame, np.int16, int.from_bytes(frame[8:12], "little") // 2, 16)


def pcm_in_order(announced: list[dict[str, Any]], frames: list[bytes]) -> np.ndarray:
    """Return the audio of a whole mono stream: a segment replaces everything from its first sample on."""
    pcm = np.zeros(0, np.int16)
    for one, frame in zip(announced, frames, strict=False):
        pcm = np.concatenate([pcm[: one["start_sample"]], pcm_of(frame)])
    return pcm


def png_of(frame: bytes) -> bytes:
    """Return the image of a frame."""
    return frame[16 + int.from_bytes(frame[8:12], "little") :]


def wav_of(path: Path | str) -> np.ndarray:
    """Return the samples of a wav file, 16 bit."""
    with wave.open(io.BytesIO(Path(path).read_bytes())) as sound:
        return np.frombuffer(sound.readframes(sound.getnframes()), np.int16)

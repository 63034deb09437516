"""The live player: time to the first sound, its page, how soon changes are heard, many listeners, and random messages.

The server runs in its own process.
"""

import asyncio
import contextlib
import json
import multiprocessing
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from benchmarks.play_load import Received, fuzz, listen
from benchmarks.play_page import change_rows, page_rows
from benchmarks.report import Goal, Row
from riffusion_train.runtime.hub import DEFAULT_MODEL, has_pretrained

LISTENERS = 50
LOAD_S = 60.0
PAGE_S = 30.0
CHANGES_S = 120.0
CHANGES_STEPS = 2
RANDOM_MESSAGES = 10_000
_PROMPT = "solo piano with soft drums"
_SETTLED_S = 20.0
"""After this time the server's memory should not grow any more."""


def run(*, quick: bool = False, max_clips: int | None = None, model: str | None = None) -> list[Row]:
    """Measure a player with a model of the demo's size and random weights, and changes with a larger one.

    Args:
        quick: Few steps, repeats, listeners and seconds, to show that it runs.
        max_clips: Repeats of the first sounds.
        model: What changes are measured with, with the sampling that it recommends; None takes what `riffusion play` takes, or
            random weights of that size, in few steps and without guidance, where these weights are not installed.
    """
    repeats = 2 if quick else max_clips or 9
    with run_player(steps=2 if quick else 20) as (address, process_id):
        rows = _first_sounds(address, repeats)
        rows += page_rows(address, 2.0 if quick else PAGE_S)
        rows += _load(address, process_id, 5 if quick else LISTENERS, 4.0 if quick else LOAD_S)
        rows.append(_fuzz(address, 500 if quick else RANDOM_MESSAGES))
    usual = DEFAULT_MODEL if has_pretrained() else _LAPTOP
    model = model or (_SMALL if quick else usual)
    what = f"{'random weights' if model in _RANDOM else Path(model).name}: changes every 3 s"
    with run_player(steps=CHANGES_STEPS, model=model) as (address, _):
        opened = f"{Path(model).name}: from pressing play to the first segment"
        rows.append(Row(opened, "s", [_segment_times(address, {})[0][0]], (), Goal.ours_at_most, 0.5))
        rows += change_rows(address, what, 10.0 if quick else CHANGES_S)
    return rows


@contextlib.contextmanager
def run_player(steps: int, model: str = "tiny") -> Iterator[tuple[str, int]]:
    """Run a player; yields its address and process id.

    Args:
        steps: Denoising steps of random weights.
        model: `tiny`, `laptop_random` and such, random weights of a preset; or where a model is.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, steps, model))
    process.start()
    try:
        assert process.pid is not None
        yield f"http://127.0.0.1:{ours.recv()}", process.pid
    finally:
        process.terminate()  # the server stops cleanly on this signal
        process.join(20)
        assert process.exitcode == 0, f"the player ended with exit code {process.exitcode}"


_SMALL, _LAPTOP = "tiny", "laptop_random"
_RANDOM = {_SMALL: "tiny", _LAPTOP: "laptop"}
"""Presets of models with random weights, and the spectrograms that belong to them."""


def _serve(pipe: Connection, steps: int, model: str) -> None:
    import torch

    from riffusion_train.config.compose import compose
    from riffusion_train.config.spectrogram import load_preset
    from riffusion_train.config.train import TrainConfig
    from riffusion_train.model.components import freeze
    from riffusion_train.model.loading import make_components
    from riffusion_train.player.app import create_app
    from riffusion_train.player.serve import make_server, open_socket
    from riffusion_train.player.settings import Limits
    from riffusion_train.sampling.sampler import Sampler

    if model in _RANDOM:
        components = make_components(compose("train", TrainConfig, ["dataset=x", f"model={model}"]).model, seed=0)
        components.spectrogram = load_preset(_RANDOM[model])
        freeze(components)
        options: dict[str, Any] = {"scheduler": "lcm", "guidance_scale": 1.0} if model == _LAPTOP else {}
        sampler = Sampler(components, num_inference_steps=steps, **options)
    else:
        sampler = Sampler.load(model, device="cpu")
    torch.set_num_threads(1)  # the page draws on the other core
    application = create_app(sampler, max_streams=1000)
    with open_socket("127.0.0.1", 0) as socket:
        pipe.send(socket.getsockname()[1])
        make_server(application, Limits()).run(sockets=[socket])


def _first_sounds(address: str, repeats: int) -> list[Row]:
    """Time the first segment of a session, the one after it, and the first of a shared link, alternating."""
    first, second, linked, answers_ms = [], [], [], []
    for seed in range(repeats):
        times, messages, answered_s = _segment_times(address, {"prompt": _PROMPT, "seed": 1000 * seed})
        first.append(times[0])
        second.append(times[1])
        answers_ms.append(1000 * answered_s)
        share = messages[1]["share"]
        # Other seeds, so that none of its clips has been generated already.
        share["seed"] = share["before"]["seed"] = 1000 * seed + 500
        linked.append(_segment_times(address, share)[0][0])
    return [
        Row("time to the first segment, against one segment", "s", first, second, Goal.ratio_at_most, 2, True),
        Row("time from a shared link to its segment, against one segment", "s", linked, second, median=True),
        Row("response time of a change during generation", "ms", answers_ms, (), Goal.ours_at_most, 100, True),
    ]


def _segment_times(address: str, settings: dict[str, Any]) -> tuple[list[float], list[dict[str, Any]], float]:
    """Time the first two segments of a session, and a change of its settings while the second is generated.

    Returns:
        The seconds of each segment, the messages about them, and the seconds until the change was answered.
    """
    start = time.perf_counter()
    session = _ask(address, "POST", "/api/sessions", settings)
    times, messages = [], []
    stream = f"{address.replace('http', 'ws', 1)}/api/sessions/{session['id']}/stream"
    with connect(stream, max_size=None, proxy=None) as socket:
        for segment in range(2):
            socket.send(json.dumps({"type": "credit", "ahead": 1, "played_sample": 0}))
            if segment:
                changed = time.perf_counter()
                _ask(address, "PATCH", f"/api/sessions/{session['id']}", {"clips": 5}, session["token"])
                answered_s = time.perf_counter() - changed
            while isinstance(message := socket.recv(), str):
                data = json.loads(message)
                messages += [data] if data["type"] == "segment" else []
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    return times, messages, answered_s


def _load(address: str, process_id: int, listeners: int, seconds: float) -> list[Row]:
    """Connect many listeners to one stream in real time."""
    session = _ask(address, "POST", "/api/sessions", {"prompt": _PROMPT})
    stream = f"{address.replace('http', 'ws', 1)}/api/sessions/{session['id']}/stream"
    received, growth_mb = asyncio.run(_listen_together(stream, address, process_id, listeners, seconds))
    complete = [float(sum(one.is_complete for one in received))]
    fewest = min(len(one.indices) for one in received)
    silent_s = max(one.silent_s for one in received)
    return [
        Row(f"of {listeners} listeners: received every segment in order", "listeners", complete, (), Goal.ours_at_least,
            listeners),
        Row(f"fewest segments of a listener in {seconds:g} s", "segments", [float(fewest)]),
        Row("longest time that a listener had nothing to play", "s", [silent_s], (), Goal.ours_at_most, 0),
        Row("growth of the server's memory, without the ring buffers", "MB", [growth_mb], (), Goal.ours_at_most, 10),
    ]  # fmt: skip


async def _listen_together(
    stream: str, address: str, process_id: int, listeners: int, seconds: float
) -> tuple[list[Received], float]:
    tasks = [asyncio.create_task(listen(stream, seconds)) for _ in range(listeners)]
    await asyncio.sleep(min(_SETTLED_S, seconds / 2))
    before = await asyncio.to_thread(_memory_mb, address, process_id)
    received = list(await asyncio.gather(*tasks))
    return received, await asyncio.to_thread(_memory_mb, address, process_id) - before


def _memory_mb(address: str, process_id: int) -> float:
    """Return the server's resident memory in MiB without its ring buffers, which grow for five minutes by design."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    ring_mb = _ask(address, "GET", "/metrics")["ring_bytes"] / 2**20
    return int(status.split("VmRSS:")[1].split()[0]) / 1024 - float(ring_mb)


def _fuzz(address: str, count: int) -> Row:
    """Send random messages; the server must read them all and still play."""
    session = _ask(address, "POST", "/api/sessions", {"prompt": _PROMPT})
    stream = f"{address.replace('http', 'ws', 1)}/api/sessions/{session['id']}/stream"
    before = _ask(address, "GET", "/metrics")["messages"]

    def num_read() -> int:
        return int(_ask(address, "GET", "/metrics")["messages"]) - int(before)

    asyncio.run(fuzz(stream, lambda: num_read() >= count))
    _segment_times(address, {"prompt": _PROMPT, "seed": 1})
    return Row(
        "random messages read, with the player still working",
        "messages",
        [float(num_read())],
        (),
        Goal.ours_at_least,
        count,
    )


def _ask(address: str, method: str, path: str, data: Any = None, token: str = "") -> dict[str, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, body, headers, method=method)) as answer:
        return dict(json.load(answer))

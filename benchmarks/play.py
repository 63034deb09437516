"""The live player: how soon it sounds, how its page plays, how it bears listeners and noise. The server is its own process."""

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

from benchmarks.play_load import Heard, fuzz, listen
from benchmarks.play_page import page_rows
from benchmarks.report import Goal, Row

LISTENERS = 50
LOAD_S = 60.0
PAGE_S = 30.0
ODD_MESSAGES = 10_000
_PROMPT = "solo piano with soft drums"
_SETTLED_S = 20.0
"""After this the server's memory should stay what it is."""


def run(*, quick: bool = False, most_clips: int | None = None) -> list[Row]:
    """Measure a player of the demo's model size with random weights, on this machine."""
    repeats = 2 if quick else most_clips or 9
    with served(steps=2 if quick else 20) as (address, process_id):
        rows = _first_sounds(address, repeats)
        rows += page_rows(address, 2.0 if quick else PAGE_S)
        rows += _load(address, process_id, 5 if quick else LISTENERS, 4.0 if quick else LOAD_S)
        rows.append(_fuzzed(address, 500 if quick else ODD_MESSAGES))
    return rows


@contextlib.contextmanager
def served(steps: int) -> Iterator[tuple[str, int]]:
    """Run a player; yields its address and the number of its process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, steps))
    process.start()
    try:
        assert process.pid is not None
        yield f"http://127.0.0.1:{ours.recv()}", process.pid
    finally:
        process.terminate()  # the server takes it as a wish and ends in peace
        process.join(20)
        assert process.exitcode == 0, f"the player ended with {process.exitcode}"


def _serve(pipe: Connection, steps: int) -> None:
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

    torch.set_num_threads(1)
    components = make_components(compose("train", TrainConfig, ["dataset=x", "model=tiny"]).model, seed=0)
    components.spectrogram = load_preset("tiny")
    freeze(components)
    application = create_app(Sampler(components, num_inference_steps=steps), max_streams=1000)
    with open_socket("127.0.0.1", 0) as socket:
        pipe.send(socket.getsockname()[1])
        make_server(application, Limits()).run(sockets=[socket])


def _first_sounds(address: str, repeats: int) -> list[Row]:
    """Time the first segment of a session, of a link, and the one after it, in turn."""
    first, second, linked, answers = [], [], [], []
    for seed in range(repeats):
        times, said, answered_s = _times(address, {"prompt": _PROMPT, "seed": 1000 * seed})
        first.append(times[0])
        second.append(times[1])
        answers.append(1000 * answered_s)
        share = said[1]["share"]  # with other seeds, so that nothing of it is made already
        share["seed"] = share["before"]["seed"] = 1000 * seed + 500
        linked.append(_times(address, share)[0][0])
    return [
        Row("from the wish to the first segment; beside one segment", "s", first, second, Goal.ratio_at_most, 2, True),
        Row("from a shared moment to its segment; beside one segment", "s", linked, second, median=True),
        Row("a change is answered while a segment is made", "ms", answers, (), Goal.ours_at_most, 100, True),
    ]


def _times(address: str, settings: dict[str, Any]) -> tuple[list[float], list[dict[str, Any]], float]:
    """Return the seconds of the first two segments of a session, what was said of them, and of a change in between."""
    began = time.perf_counter()
    session = _ask(address, "POST", "/api/sessions", settings)
    times, said = [], []
    stream = f"{address.replace('http', 'ws', 1)}/api/sessions/{session['id']}/stream"
    with connect(stream, max_size=None, proxy=None) as socket:
        for turn in range(2):
            socket.send(json.dumps({"type": "credit", "ahead": 1, "played_sample": 0}))
            if turn:
                changed = time.perf_counter()
                _ask(address, "PATCH", f"/api/sessions/{session['id']}", {"clips": 5}, session["token"])
                answered_s = time.perf_counter() - changed
            while isinstance(message := socket.recv(), str):
                word = json.loads(message)
                said += [word] if word["type"] == "segment" else []
            times.append(time.perf_counter() - began)
            began = time.perf_counter()
    return times, said, answered_s


def _load(address: str, process_id: int, listeners: int, seconds: float) -> list[Row]:
    """Let many listen to one stream in real time."""
    session = _ask(address, "POST", "/api/sessions", {"prompt": _PROMPT})
    stream = f"{address.replace('http', 'ws', 1)}/api/sessions/{session['id']}/stream"
    heard, grown_mb = asyncio.run(_together(stream, address, process_id, listeners, seconds))
    whole = [float(sum(one.in_order for one in heard))]
    least = min(len(one.indices) for one in heard)
    late_s = max(one.late_s for one in heard)
    return [
        Row(f"of {listeners} listeners: got every segment in order", "listeners", whole, (), Goal.ours_at_least, listeners),
        Row(f"fewest segments of a listener in {seconds:g} s", "segments", [float(least)]),
        Row("the longest that one of them had nothing to play", "s", [late_s], (), Goal.ours_at_most, 0),
        Row("the server's memory grew meanwhile, beside the ring", "MB", [grown_mb], (), Goal.ours_at_most, 10),
    ]  # fmt: skip


async def _together(
    stream: str, address: str, process_id: int, listeners: int, seconds: float
) -> tuple[list[Heard], float]:
    crowd = [asyncio.create_task(listen(stream, seconds)) for _ in range(listeners)]
    await asyncio.sleep(min(_SETTLED_S, seconds / 2))
    before = await asyncio.to_thread(_memory_mb, address, process_id)
    heard = list(await asyncio.gather(*crowd))
    return heard, await asyncio.to_thread(_memory_mb, address, process_id) - before


def _memory_mb(address: str, process_id: int) -> float:
    """Return the server's resident memory without its rings, which grow for five minutes by design."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    ring_mb = _ask(address, "GET", "/metrics")["ring_bytes"] / 2**20
    return int(status.split("VmRSS:")[1].split()[0]) / 1024 - float(ring_mb)


def _fuzzed(address: str, count: int) -> Row:
    """Send odd messages; the server must hear them all and still play."""
    session = _ask(address, "POST", "/api/sessions", {"prompt": _PROMPT})
    stream = f"{address.replace('http', 'ws', 1)}/api/sessions/{session['id']}/stream"
    before = _ask(address, "GET", "/metrics")["messages"]

    def heard() -> int:
        return int(_ask(address, "GET", "/metrics")["messages"]) - int(before)

    asyncio.run(fuzz(stream, lambda: heard() >= count))
    _times(address, {"prompt": _PROMPT, "seed": 1})
    return Row(
        "odd messages that it heard, and still played", "messages", [float(heard())], (), Goal.ours_at_least, count
    )


def _ask(address: str, method: str, path: str, data: Any = None, token: str = "") -> dict[str, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, body, headers, method=method)) as answer:
        return dict(json.load(answer))

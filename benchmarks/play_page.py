"""The live page, played in headless Chromium: frames, underruns, playback against the clock, and how soon changes are heard."""

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.report import Goal, Row
from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
_START_TIMEOUT_S = 60.0
_POLL_MS = 100
_CHANGE_EVERY_S = 3.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Returns the milliseconds between the frames that the page could draw.
_COUNT_FRAMES = """(seconds) => new Promise((resolve) => {
  const times = [];
  const count = (now) => {
    times.push(now);
    if (now - times[0] < 1000 * seconds) requestAnimationFrame(count);
    else resolve(times.slice(1).map((time, index) => time - times[index]));
  };
  requestAnimationFrame(count);
})"""


_NOTE_KEYS = "document.addEventListener('keydown', (event) => { window.pressedMs = event.timeStamp; }, true)"


@contextmanager
def open_chromium() -> Iterator["Browser"]:
    """Start the system's Chromium with software rendering, driven by playwright.

    Raises:
        InputError: If no Chromium is installed.
    """
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        raise InputError(f"no Chromium is installed (looked for {', '.join(_BROWSERS)}): apt-get install chromium")
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not start for root, which is the user of most containers.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*sandbox, "--disable-gpu"])
        yield browser
        browser.close()


def page_rows(address: str, seconds: float) -> list[Row]:
    """Play the page of a server for a number of seconds at each size.

    Raises:
        InputError: If no Chromium is installed, or the page does not start to play.
    """
    rows = []
    with open_chromium() as browser:
        for size, viewport in SIZES.items():
            page = browser.new_context(viewport=viewport).new_page()  # type: ignore[arg-type]
            page.goto(address)
            rows += _measure_page(page, size, seconds)
            page.close()
    return rows


def _press_play(page: "Page") -> None:
    page.locator("#start").click()
    end = time.monotonic() + _START_TIMEOUT_S
    while _report(page).get("played", 0) == 0:
        if time.monotonic() > end:
            raise InputError(f"the page did not start to play within {_START_TIMEOUT_S:g} s")
        page.wait_for_timeout(_POLL_MS)


def _measure_page(page: "Page", size: str, seconds: float) -> list[Row]:
    _press_play(page)
    page.wait_for_timeout(1000)
    lag_before_s = _smallest_lag(page)
    intervals_ms = page.evaluate(_COUNT_FRAMES, seconds)
    drift_ms = 1000 * abs(_smallest_lag(page) - lag_before_s)
    report = _report(page)
    fps = 1000 * len(intervals_ms) / sum(intervals_ms)
    slowest_ms = sorted(intervals_ms)[int(0.99 * len(intervals_ms))]
    what = f"the page at {size} size, {seconds:g} s"
    return [
        Row(f"{what}: frames", "1/s", [fps], (), Goal.ours_at_least, 59),
        Row(f"{what}: 99th percentile of the frame times", "ms", [slowest_ms]),
        Row(f"{what}: underruns", "times", [float(report["underruns"])], (), Goal.ours_at_most, 0),
        Row(f"{what}: drift of playback against the clock", "ms", [drift_ms], (), Goal.ours_at_most, 50),
    ]


def change_rows(address: str, what: str, seconds: float) -> list[Row]:
    """Change something every few seconds while the page plays, and time each change from the key to the loudspeaker.

    By turns a prompt is entered and the knob of the strength is turned. The time ends where the first sample that a change has
    changed comes out, by the output's own clock.

    Args:
        address: Of the server.
        what: What plays, for the rows.
        seconds: For how long.

    Raises:
        InputError: If no Chromium is installed, or the page does not start to play.
    """
    with open_chromium() as browser:
        page = browser.new_context(viewport=SIZES["desktop"]).new_page()  # type: ignore[arg-type]
        page.goto(address)
        _press_play(page)
        page.click("#show-mixer")
        page.evaluate(_NOTE_KEYS)
        page.wait_for_timeout(1000 * _CHANGE_EVERY_S)
        delays_s, missed = [], 0
        before = _report(page)
        end = time.monotonic() + seconds
        for number in itertools.count():
            next_s = time.monotonic() + _CHANGE_EVERY_S
            if next_s > end:
                break
            changes = _report(page)["changes"]
            _change(page, number)
            pressed_ms = page.evaluate("window.pressedMs")
            while (now := _report(page))["changes"] == changes and time.monotonic() < next_s:
                page.wait_for_timeout(_POLL_MS / 4)
            if now["changes"] > changes:
                delays_s.append((now["changeMs"] - pressed_ms) / 1000)
            else:
                missed += 1
            page.wait_for_timeout(max(1000 * (next_s - time.monotonic()), 0))
        after = _report(page)
        page.close()
    if not delays_s:
        raise InputError(
            f"{what}: no change was heard within {_CHANGE_EVERY_S:g} s; the machine is too slow for this model"
        )
    ranked = sorted(delays_s)
    steps = ([after["changeStep"]], [after["insideStep"]])
    return [
        Row(f"{what}: from a key to the first changed sample, median", "s", [ranked[len(ranked) // 2]], (),
            Goal.ours_at_most, 0.6),
        Row(f"{what}: from a key to the first changed sample, 95th percentile", "s",
            [ranked[math.ceil(0.95 * len(ranked)) - 1]], (), Goal.ours_at_most, 1.0),
        Row(f"{what}: changes not heard within {_CHANGE_EVERY_S:g} s", "changes", [float(missed)], (), Goal.ours_at_most, 0),
        Row(f"{what}: changes heard", "changes", [float(len(delays_s))]),
        Row(f"{what}: changes later than the server meant", "changes", [float(after["late"] - before["late"])]),
        Row(f"{what}: underruns in {seconds:g} s", "times", [float(after["underruns"] - before["underruns"])], (),
            Goal.ours_at_most, 0),
        Row(f"{what}: largest step near changes, against inside clips", "full scale", *steps, Goal.ratio_at_most, 1),
    ]  # fmt: skip


def _change(page: "Page", number: int) -> None:
    """Enter a prompt, or turn the knob of the strength."""
    if number % 2:
        page.focus("#knob-strength")
        page.keyboard.press("ArrowLeft" if number % 4 == 1 else "ArrowRight")
    else:
        page.fill("#prompt", f"music number {number}")
        page.keyboard.press("Enter")


def _report(page: "Page") -> dict[str, Any]:
    return dict(json.loads(page.evaluate("document.getElementById('figures').dataset.report || '{}'")))


def _smallest_lag(page: "Page") -> float:
    """Return the wall time minus the time played, in seconds: the minimum of thirty reports, to exclude delays of reports."""
    lags = []
    for _ in range(30):
        now = _report(page)
        lags.append(now["wall"] / 1000 - now["played"] / now["rate"])
        page.wait_for_timeout(_POLL_MS / 3)
    return min(lags)

"""The live page, played in headless Chromium: frames per second, underruns, and playback against the clock."""

import json
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


def _measure_page(page: "Page", size: str, seconds: float) -> list[Row]:
    page.locator("#start").click()
    end = time.monotonic() + _START_TIMEOUT_S
    while _report(page).get("played", 0) == 0:
        if time.monotonic() > end:
            raise InputError(f"the page at {size} size did not start to play within {_START_TIMEOUT_S:g} s")
        page.wait_for_timeout(_POLL_MS)
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

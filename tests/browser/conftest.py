from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.auditions import make_site
from support.chromium import open_chromium

from riffusion_train.audition.site import write_site

RECORDER = """
window.heard = [];
window.Audio = class extends Audio { constructor(...words) { super(...words); window.heard.push(this); } };
window.sounding = () => window.heard.filter((audio) => !audio.paused);
"""
"""Lets a test see the players of a page."""


# A module's own browser: playwright keeps an event loop running, which tests of notebooks could not share.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def audition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audition")
    return write_site(folder, make_site(folder))


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens an address; the test fails where its page reports an error or goes elsewhere."""
    contexts, faults = [], []

    def open_page(address: str | Path, *, allow: str = "nothing", **options: Any) -> Any:
        address = address.as_uri() if isinstance(address, Path) else address
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(RECORDER)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda message: _note(faults, message, allow))
        home = address.split("#")[0].rpartition("/")[0]
        page.on(
            "request", lambda request: request.url.startswith((home, "blob:")) or faults.append(f"asked {request.url}")
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _note(faults: list[str], message: Any, allow: str) -> None:
    if message.type in ("error", "warning") and allow not in message.text:
        faults.append(f"{message.type}: {message.text}")

"""The live page when something goes wrong: it says so, and goes on as soon as it can."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.play_page import QUICK, frames_of, hear, open_player, press_play, report, wait
from support.player import Player, served_player

from riffusion_train.player.session import Timeouts

pytestmark = [pytest.mark.browser, pytest.mark.real_time]

Open = Callable[..., Any]
BANNER = "document.getElementById('banner').textContent"
STATUS = "document.getElementById('status').textContent"


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with served_player(**QUICK, max_streams=12) as player:
        yield player


def trouble(page: Any) -> str:
    """Return what the page says is wrong, but for what a busy machine makes it say."""
    banner = page.evaluate(BANNER)
    return "" if banner.startswith(("The machine is behind", "The next clip is late")) else banner


class Wire:
    """The socket between page and server, which a test can cut.

    Args:
        page: The page.
    """

    def __init__(self, page: Any) -> None:
        self.up = True
        self._ends: list[tuple[Any, Any]] = []
        page.route_web_socket(re.compile("/stream$"), self._take)

    def cut(self) -> None:
        self.up = False
        for end, server in self._ends:
            end.close(code=1001)
            server.close()
        self._ends.clear()

    def _take(self, end: Any) -> None:
        if self.up:
            self._ends.append((end, end.connect_to_server()))
        else:
            end.close(code=1001)


def test_a_socket_lost_for_a_moment_costs_no_sample(opened: Open, player: Player) -> None:
    page = opened("about:blank")
    wire = Wire(page)
    page.goto(player.address)
    wait(page, "document.body.dataset.ready === 'true'")
    press_play(page)
    wait(page, lambda: report(page)["buffered"] > 2 * 0.8 * report(page)["rate"])
    session = page.evaluate("sessionStorage.getItem('riffusion-player.session')")
    wire.cut()
    wait(page, f"{BANNER}.includes('connection is lost')")
    wire.up = True
    wait(page, lambda: trouble(page) == "")
    hear(page, 4)
    now = report(page)
    assert now["position"] == now["played"]
    assert page.evaluate("sessionStorage.getItem('riffusion-player.session')") == session


def test_a_socket_lost_for_long_lets_the_sound_fade_and_come_back(opened: Open, player: Player) -> None:
    page = opened("about:blank")
    wire = Wire(page)
    page.goto(player.address)
    wait(page, "document.body.dataset.ready === 'true'")
    press_play(page)
    hear(page, 0.5)
    wire.cut()
    wait(page, lambda: report(page)["starving"])
    first = report(page)
    page.wait_for_timeout(1000)
    assert report(page)["held"] > first["held"]
    assert "connection is lost" in page.evaluate(BANNER)
    wire.up = True
    page.evaluate("window.dispatchEvent(new Event('online'))")
    hear(page, 2)
    now = report(page)
    assert now["underruns"] >= 1
    # What was played when it was lost is not played again.
    assert now["position"] >= now["played"]


def test_a_session_that_is_gone_is_replaced(opened: Open, player: Player) -> None:
    page = opened("about:blank")
    kept = json.dumps(json.dumps({"id": "nothing", "token": "t"}))
    page.add_init_script(
        f"try {{ if (!sessionStorage.length) sessionStorage.setItem('riffusion-player.session', {kept}) }} catch {{}}"
    )
    page.goto(player.address)
    wait(page, "document.body.dataset.ready === 'true'")
    press_play(page)
    hear(page, 1)
    assert json.loads(page.evaluate("sessionStorage.getItem('riffusion-player.session')"))["id"] != "nothing"
    assert page.is_enabled("#prompt") and trouble(page) == ""


def test_a_session_that_ended_while_nobody_was_connected_continues_where_it_was_heard_last(opened: Open) -> None:
    with served_player(**QUICK, timeouts=Timeouts(alone_s=0.3)) as player:
        page = opened("about:blank")
        wire = Wire(page)
        announced, _ = frames_of(page)
        page.goto(player.address)
        wait(page, "document.body.dataset.ready === 'true'")
        page.fill("#prompt", "a song of its own")
        page.keyboard.press("Enter")
        hear(page, 1)
        wire.cut()
        wait(page, lambda: not player.loop.sessions)
        first, shares = report(page)["epoch"], [one["share"] for one in announced]
        wire.up = True
        page.evaluate("window.dispatchEvent(new Event('online'))")
        wait(page, lambda: report(page)["epoch"] > first)
        hear(page, 1)
        again = next(one for one in announced[len(shares) :] if one["index"] == 0)
        assert again["share"] in shares
        assert page.inner_text("#now-prompt") == "a song of its own" and trouble(page) == ""
        assert page.is_enabled("#prompt")
        page.close()


def test_a_reloaded_page_continues_its_session(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    press_play(page)
    hear(page, 2)
    session = page.evaluate("sessionStorage.getItem('riffusion-player.session')")
    page.reload()
    wait(page, "document.body.dataset.ready === 'true'")
    announced, _ = frames_of(page)
    press_play(page)
    hear(page, 0.5)
    assert page.evaluate("sessionStorage.getItem('riffusion-player.session')") == session
    assert announced[0]["index"] > 0
    assert page.is_enabled("#prompt")


def test_a_tab_that_slept_continues(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    press_play(page)
    hear(page, 0.5)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    time.sleep(4)
    devtools.send("Page.setWebLifecycleState", {"state": "active"})
    hear(page, 2)
    assert trouble(page) == ""


def test_where_the_browser_blocks_sound_the_page_asks_for_a_press(opened: Open, player: Player) -> None:
    page = opened("about:blank", allow="AudioContext was not allowed to start")
    # A click that no person made starts no sound. (Asking the page anything through playwright counts as a person.)
    page.add_init_script(
        "addEventListener('load', () => setTimeout(() => document.getElementById('start')?.click(), 1000))"
    )
    page.goto(player.address)
    page.wait_for_timeout(2500)
    wait(page, f"{BANNER} === 'The browser blocks the sound: press play.'")
    assert page.locator("#start").is_visible() and report(page).get("played", 0) == 0
    page.click("#start")
    hear(page, 0.5)
    assert trouble(page) == "" and page.locator("#start").is_hidden()


NO_DEVICE = "window.AudioContext = class { constructor() { throw new DOMException('no device') } }"
NO_SAFETY = "Object.defineProperty(window, 'isSecureContext', { value: false })"


@pytest.mark.parametrize(
    ("fault", "message"),
    [(NO_DEVICE, "gives no sound output (no device)"), (NO_SAFETY, "only from https or from this machine")],
    ids=["no device", "no https"],
)
def test_without_an_output_the_page_says_what_to_do(opened: Open, player: Player, fault: str, message: str) -> None:
    page = opened("about:blank")
    page.add_init_script(fault)
    page.goto(player.address)
    wait(page, "document.body.dataset.ready === 'true'")
    page.click("#start")
    wait(page, lambda: message in page.evaluate(STATUS))
    assert page.locator("#start").is_visible()
    assert page.get_attribute("#toggle", "aria-label") == "Play"


def test_a_server_that_does_not_answer_is_named(opened: Open, player: Player) -> None:
    page = opened("about:blank", allow="Failed to load resource")
    page.route("**/api/choices", lambda route: route.abort())
    page.goto(player.address)
    assert wait(page, f"{BANNER} === 'The player does not answer: is it still running?'")


@pytest.mark.parametrize("fragment", ["m=abc", "m=bnVsbA", "m=%E0%A4%A&at=x", "at=3"])
def test_a_broken_link_still_opens_the_page(opened: Open, player: Player, fragment: str) -> None:
    page = open_player(opened, f"{player.address}/#{fragment}")
    press_play(page)
    assert page.inner_text("#now-prompt") == "a band"


def test_a_link_that_the_server_refuses_says_why(opened: Open, player: Player) -> None:
    page = open_player(opened, f"{player.address}/#m=eyJwcm9tcHQiOjV9", allow="400 (Bad Request)")
    page.click("#start")
    wait(page, f"{STATUS}.includes('prompt')")
    assert page.locator("#start").is_visible()


def test_a_machine_that_is_behind_says_so_and_the_sound_is_sustained(opened: Open) -> None:
    with served_player(**QUICK, max_streams=2) as player:
        page = open_player(opened, player.address)
        press_play(page)
        hear(page, 0.5)
        maker = player.loop.maker
        draw = maker.draw

        def slow(*arguments: Any) -> Any:
            time.sleep(1.6)
            return draw(*arguments)

        maker.draw = slow
        wait(page, lambda: report(page)["starving"])
        wait(page, lambda: "late. Sustaining" in page.evaluate(BANNER))
        wait(page, f"{BANNER}.includes('machine is behind: 1 steps')")
        maker.draw = draw
        wait(page, lambda: trouble(page) == "")
        hear(page, 2)
        now = report(page)
        assert now["underruns"] >= 1
        assert now["position"] == now["played"]  # nothing was skipped or heard twice
        page.close()


def test_who_comes_too_late_stands_in_line_and_then_hears(opened: Open) -> None:
    with served_player(**QUICK, max_streams=1, timeouts=Timeouts(alone_s=0.3)) as player:
        page = open_player(opened, player.address)
        press_play(page)
        other = open_player(opened, player.address, allow="503 (Service Unavailable)")
        other.click("#start")
        wait(other, f"{BANNER}.includes('The player is full. You are number 1 in line')")
        page.close()
        hear(other, 0.5)
        assert trouble(other) == ""
        other.close()


def test_an_idle_listener_is_asked_and_an_answer_keeps_the_music(opened: Open) -> None:
    with served_player(**QUICK, timeouts=Timeouts(idle_s=2, answer_s=3)) as player:
        page = open_player(opened, player.address)
        press_play(page)
        wait(page, "document.getElementById('idle').open")
        page.click("#stay")
        hear(page, 0.5)
        wait(page, "document.getElementById('idle').open")
        wait(page, f"{BANNER}.includes('Press play to begin again')")
        assert page.locator("dialog[open]").count() == 0
        page.click("#start")
        hear(page, 0.5)
        assert trouble(page) == ""
        page.close()

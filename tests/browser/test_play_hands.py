"""The live page as an instrument: what is asked for replaces what is not heard yet; faders, knobs, and a virtual controller."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.play_page import QUICK, frames_of, hear, open_player, pcm_in_order, press_play, report, wait, wav_of
from support.player import Player, served_player

pytestmark = [pytest.mark.browser, pytest.mark.real_time]

Open = Callable[..., Any]

CONTROLLER = """
(() => {
  const input = { name: "Virtual knobs", state: "connected", onmidimessage: null };
  window.turnKnob = (control, value) => input.onmidimessage?.({ data: new Uint8Array([0xb0, control, value]) });
  navigator.requestMIDIAccess = async () => ({ inputs: new Map([["1", input]]), onstatechange: null });
  navigator.permissions.query = async () => ({ state: "granted" });
})();
"""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with served_player(**QUICK, max_streams=8) as player:
        yield player


def test_what_is_asked_for_replaces_what_was_made_ahead_to_the_sample(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, frames = frames_of(page)
    press_play(page)
    wait(page, lambda: report(page)["buffered"] > 1.6 * report(page)["rate"])
    ahead = announced[-1]["start_sample"] + announced[-1]["n_samples"]
    page.fill("#prompt", "something else")
    page.keyboard.press("Enter")
    wait(page, lambda: report(page)["changes"] == 1)
    change = next(one for one in announced if one["change"] == 1)
    assert change["prompt_to"] == "something else" and change["start_sample"] < ahead
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    hear(page, 1.0)
    with page.expect_download() as download:
        page.keyboard.press("r")
    sound = wav_of(download.value.path())
    made = pcm_in_order(announced, frames)
    windows = np.lib.stride_tricks.sliding_window_view(made, 400)
    (start,) = np.flatnonzero((windows == sound[:400]).all(axis=1))
    np.testing.assert_array_equal(sound, made[start : start + len(sound)])
    now = report(page)
    assert now["position"] == now["played"] and now["changeStep"] <= now["insideStep"]
    assert page.inner_text("#now-prompt") == "something else"
    assert page.inner_text("#delay") == f"Heard after {now['delayS']:.1f} s"


def test_a_prompt_is_heard_as_it_is_typed_where_that_is_chosen(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, _ = frames_of(page)
    press_play(page)
    page.locator("#prompt").press_sequentially("not yet", delay=20)
    page.wait_for_timeout(600)
    assert all(one["prompt_to"] == "a band" for one in announced)
    page.fill("#prompt", "")
    page.check("#as-typed")
    page.locator("#prompt").press_sequentially("slow bells", delay=20)
    wait(page, lambda: announced[-1]["prompt_to"] == "slow bells")
    assert page.input_value("#prompt") == "slow bells"
    page.reload()
    wait(page, "document.body.dataset.ready === 'true'")
    assert page.is_checked("#as-typed")


def test_faders_mix_prompts_and_knobs_are_heard(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, _ = frames_of(page)
    press_play(page)
    page.keyboard.press("x")
    page.fill("#mix-text-1", "warm organ")
    wait(page, lambda: announced[-1]["share"]["mix"] == [{"prompt": "warm organ", "weight": 0.5}])
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.keyboard.press("End")
    wait(page, lambda: announced[-1]["share"]["mix"] == [{"prompt": "warm organ", "weight": 1}])
    page.keyboard.press("1")
    page.keyboard.press("Home")
    wait(page, lambda: announced[-1]["share"]["prompt_weight"] == 0)
    page.evaluate("document.activeElement.blur()")
    strength = announced[-1]["share"]["strength"]
    page.keyboard.press("[")
    wait(page, lambda: announced[-1]["share"]["strength"] < strength)
    assert page.inner_text("#fader-1-value") == "100 %"


def test_a_controller_moves_the_fader_that_it_was_taught(opened: Open, player: Player) -> None:
    page = opened("about:blank")
    page.add_init_script(CONTROLLER)
    page.goto(player.address)
    wait(page, "document.body.dataset.ready === 'true'")
    announced, _ = frames_of(page)
    press_play(page)
    page.click("#show-mixer")
    page.click("#midi")
    wait(page, lambda: "Virtual knobs" in page.inner_text("#midi-text"))
    page.evaluate("window.turnKnob(7, 100)")
    assert page.input_value("#knob-strength") == str(
        page.evaluate("Number(document.getElementById('knob-strength').value)")
    )
    page.focus("#knob-strength")
    assert page.inner_text("#knob-strength-midi") == "move a knob …"
    page.evaluate("window.turnKnob(7, 127)")
    wait(page, lambda: announced[-1]["share"]["strength"] == 1)
    assert page.inner_text("#knob-strength-midi") == "CC 7"
    page.click("#midi")
    page.evaluate("window.turnKnob(7, 0)")
    wait(page, lambda: announced[-1]["share"]["strength"] == 0.2)
    page.evaluate("window.turnKnob(8, 127)")  # of no fader
    # It is remembered.
    page.reload()
    wait(page, "document.body.dataset.ready === 'true'")
    page.click("#show-mixer")
    wait(page, lambda: page.inner_text("#midi-text") == "Virtual knobs")
    press_play(page)
    page.evaluate("window.turnKnob(7, 64)")
    wait(page, lambda: 0.55 < announced[-1]["share"]["strength"] < 0.65)

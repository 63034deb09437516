"""The live page itself: keys, widths, colours, who sees and who does not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.chromium import SCREENSHOTS
from support.play_page import LINK_RIGHTS, PHONE, QUICK, hear, open_player, press_play, report, wait
from support.player import Player, served_player

pytestmark = [pytest.mark.browser, pytest.mark.real_time]

Open = Callable[..., Any]
FOCUS = "document.activeElement.id"


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with served_player(**QUICK, max_streams=12) as player:
        yield player


def test_every_key_does_what_the_help_says(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    page.context.grant_permissions(LINK_RIGHTS)
    tried = set()

    def press(key: str, condition: str | Callable[[], Any]) -> None:
        page.keyboard.press(key)
        wait(page, condition)
        tried.add(
            {
                "Space": "space",
                "Escape": "Esc",
                "ArrowLeft": "←",
                "ArrowRight": "→",
                "ArrowUp": "↑",
                "ArrowDown": "↓",
                "Shift+Enter": "shift+Enter",
            }.get(key, key)
        )

    press("Space", lambda: report(page).get("played", 0) > 0)
    press("n", "document.getElementById('status').textContent.startsWith('No prompt is waiting')")
    press("Enter", f"{FOCUS} === 'prompt'")
    press("Escape", "document.activeElement === document.body")
    press("/", f"{FOCUS} === 'prompt'")
    page.keyboard.type("?bm ")  # keys mean themselves while a text is typed
    assert page.input_value("#prompt") == "?bm " and page.locator("dialog[open]").count() == 0
    page.fill("#prompt", "")
    press("Escape", "document.activeElement === document.body")
    press("d", "document.getElementById('prompt').value.length > 5")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('status').textContent.startsWith('Now: ')")
    page.fill("#prompt", "and then this")
    press("Shift+Enter", "document.getElementById('status').textContent.startsWith('Next: ')")
    page.keyboard.press("Escape")
    press("x", "document.getElementById('mixer').checkVisibility()")
    for number in "4321":
        press(number, f"{FOCUS} === 'fader-{int(number) - 1}'")
    page.evaluate("document.activeElement.blur()")
    knob = "Number(document.getElementById('knob-{}').value)"
    for keys, name in (("[]", "strength"), ("=-", "guidance")):
        value = page.evaluate(knob.format(name))
        press(keys[0], f"{knob.format(name)} !== {value}")
        press(keys[1], f"{knob.format(name)} === {value}")
    page.keyboard.press("x")
    press("b", "document.getElementById('build-sheet').open")
    page.keyboard.press("Escape")
    hear(page, 1.5)
    before = report(page)
    press(
        "ArrowLeft", lambda: report(page)["epoch"] > before["epoch"] and report(page)["position"] < before["position"]
    )
    middle = report(page)
    press("ArrowRight", lambda: report(page)["epoch"] > middle["epoch"])
    page.keyboard.press("ArrowLeft")
    press("l", "document.getElementById('live').disabled")
    volume = "Number(document.getElementById('volume').value)"
    loud = page.evaluate(volume)
    press("ArrowDown", f"{volume} < {loud}")
    press("ArrowUp", f"{volume} === {loud}")
    press("m", "document.getElementById('mute').getAttribute('aria-label') === 'Sound on'")
    page.keyboard.press("m")
    press("r", "document.getElementById('record').getAttribute('aria-pressed') === 'true'")
    hear(page, 0.3)
    with page.expect_download():
        page.keyboard.press("r")
    with page.expect_download():
        page.keyboard.press("w")
    tried.add("w")
    press("c", "document.getElementById('status').textContent.includes('copied')")
    press("s", "document.getElementById('settings-sheet').open")
    page.keyboard.press("Escape")
    press("f", "document.body.classList.contains('is-full') && !document.getElementById('panel').checkVisibility()")
    press("Escape", "!document.body.classList.contains('is-full')")
    press("k", "document.getElementById('map').value === 'ember'")
    press("g", "document.getElementById('scale').value === 'octaves'")
    press("i", "!document.getElementById('figures').hidden")
    press("?", "document.getElementById('help').open")
    assert set(page.locator("#help kbd").all_inner_texts()) == tried
    page.keyboard.press("Escape")
    press("Space", lambda: not report(page)["moving"])


def test_the_keyboard_alone_reaches_everything(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    seen = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(FOCUS))
        assert page.evaluate("getComputedStyle(document.activeElement).visibility") == "visible"
    assert seen >= {
        "spectrogram", "start", "prompt", "dice", "build", "send", "toggle", "mute", "volume", "record", "save", "share",
        "settings", "full", "help-button", "show-mixer", "later", "as-typed",
    }  # fmt: skip
    page.focus("#start")
    page.keyboard.press("Enter")
    hear(page)
    page.focus("#settings")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('settings-sheet').open")
    page.keyboard.press("Escape")
    assert page.evaluate(FOCUS) == "settings"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_the_live_page_has_no_accessibility_fault_and_fits(
    opened: Open, player: Player, scheme: str, device: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    options = PHONE if device == "phone" else {"viewport": {"width": 1280, "height": 800}}
    page = open_player(opened, player.address, color_scheme=scheme, bypass_csp=True, **options)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    axe = Axe()

    def check(state: str) -> None:
        page.screenshot(path=SCREENSHOTS / f"play-{state}-{device}-{scheme}.png")
        violations = axe.run(page).response["violations"]
        faults = [
            (fault["id"], fault["impact"], [node["html"][:160] for node in fault["nodes"]][:3]) for fault in violations
        ]
        assert faults == [], state
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state

    check("ready")
    press_play(page)
    for prompt in ("church bells over a deep electronic bass", "dub reggae, spring reverb on the snare"):
        page.fill("#prompt", prompt)
        page.keyboard.press("Shift+Enter")
    wait(page, "document.getElementById('transition').checkVisibility()")
    wait(page, "document.querySelectorAll('#coming li').length > 0 || document.querySelectorAll('#past li').length > 0")
    check("playing")
    page.click("#show-mixer")
    check("mixer")
    page.click("#show-prompts")
    for control in ("settings", "build", "save", "share", "help-button"):
        page.click(f"#{control}")
        check(control)
        page.keyboard.press("Escape")


def test_a_phone_plays_by_touch_with_targets_large_enough(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address, **PHONE)
    page.locator("#start").tap()
    hear(page)
    boxes = page.locator("button:visible").evaluate_all(
        "list => list.map((one) => one.getBoundingClientRect()).map((box) => [box.width, box.height])"
    )
    assert min(min(box) for box in boxes) >= 24  # WCAG 2.2, target size (minimum)
    assert page.locator("#prompt").bounding_box()["y"] < 844


def test_with_reduced_motion_the_image_stands_and_the_line_moves(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address, reduced_motion="reduce")
    line = "parseFloat(document.getElementById('stage').style.getPropertyValue('--line'))"
    press_play(page)
    hear(page, 0.5)
    first = page.evaluate(line)
    hear(page, 1.0)
    assert page.evaluate(line) > first + 3
    moving = open_player(opened, player.address)
    press_play(moving)
    hear(moving, 1.0)
    assert moving.evaluate(line) == pytest.approx(66)


def test_colours_and_frequencies_change_the_image_and_are_remembered(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    press_play(page)
    hear(page, 1.5)
    page.keyboard.press("Space")
    pixels = """() => {
      const canvas = document.getElementById("spectrogram");
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
      const step = 4 * Math.floor(data.length / 4 / 997);
      return Array.from({ length: 997 }, (_, n) => data[n * step] * 65536 + data[n * step + 1] * 256 + data[n * step + 2]);
    }"""
    shown = set()
    page.click("#settings")
    for list_id, count in (("map", 7), ("scale", 3)):
        assert page.locator(f"#{list_id} option").count() == count
        for number in range(1, count):
            page.select_option(f"#{list_id}", index=number)
            page.wait_for_timeout(120)
            values = page.evaluate(pixels)
            assert len(set(values)) > 20
            shown.add(tuple(values))
    assert len(shown) == 6 + 2
    page.reload()
    wait(page, "document.body.dataset.ready === 'true'")
    assert (page.locator("#map").input_value(), page.locator("#scale").input_value()) == ("drawn", "even")


def test_the_page_asks_nothing_of_anybody_else_and_keeps_its_policy(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address, allow="Content Security Policy")
    page.evaluate(
        "const script = document.createElement('script'); script.text = 'window.hacked = 1'; document.body.append(script);"
    )
    assert page.evaluate("window.hacked") is None
    status, body, headers = player.ask("GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'self'" in policy and "unsafe" not in policy
    text = body.decode() if isinstance(body, bytes) else body
    assert "http://" not in text and "https://" not in text and "<style" not in text and " style=" not in text

"""The live player in a real browser: it plays, without a gap, what is asked for."""

import base64
import io
import itertools
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
from support.play_page import (
    LINK_RIGHTS,
    QUICK,
    frames_of,
    hear,
    open_player,
    pcm_in_order,
    pcm_of,
    png_of,
    press_play,
    report,
    wait,
    wav_of,
)
from support.player import SECOND, Player, served_player

pytestmark = [pytest.mark.browser, pytest.mark.real_time]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with served_player(**QUICK, max_streams=8) as player:
        yield player


def played_and_clock(page: Any) -> tuple[float, float]:
    """Return how many seconds of sound were played, and the clock of the audio output at that moment.

    On a busy machine Chromium's output runs behind the wall clock; what the player answers for is that it has a sample
    for every one that the output asks for.
    """
    now = report(page)
    return now["played"] / now["rate"], now["time"]


@pytest.mark.slow
def test_it_plays_half_a_minute_through_typing_and_a_stalled_page_without_a_gap(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, frames = frames_of(page)
    press_play(page)
    wait(page, lambda: report(page)["buffered"] > 2 * SECOND * 0.8)
    begin, since = played_and_clock(page), report(page)["wall"]
    page.wait_for_timeout(8000)
    page.locator("#prompt").press_sequentially("slow bells over warm strings", delay=60)
    page.keyboard.press("Enter")
    # A change throws away what was made ahead, so the page may stall once that is made again.
    page.wait_for_timeout(1000)
    wait(page, lambda: report(page)["buffered"] > 1.5 * SECOND * 0.8)
    page.evaluate("const until = performance.now() + 800; while (performance.now() < until);")
    page.locator("#prompt").press_sequentially("fast drums in a large hall", delay=60)
    page.keyboard.press("Enter")
    page.wait_for_timeout(max(0, 30_000 - (report(page)["wall"] - since)))
    end, now = played_and_clock(page), report(page)
    assert end[1] - begin[1] >= 25
    # Chromium leaves out blocks of 128 samples when the machine is busy; the clock goes on.
    assert 0.95 * (end[1] - begin[1]) <= end[0] - begin[0] <= end[1] - begin[1] + 0.001
    assert now["underruns"] == 0 and now["held"] == 0
    assert now["boundaries"] >= 30
    assert 0 < now["boundaryStep"] <= now["insideStep"]
    assert {one["prompt_to"] for one in announced} >= {"a band", "slow bells over warm strings"}
    assert now["changes"] >= 2 and now["changeStep"] <= now["insideStep"]
    for before, after in itertools.pairwise(announced):
        follows = after["start_sample"] == before["start_sample"] + before["n_samples"]
        assert (after["index"] == before["index"] + 1 and follows) or after["change"] == before["change"] + 1
    assert not any(one["discontinuity"] for one in announced)
    pcm = pcm_in_order(announced, frames).astype(int)
    boundaries = np.unique([one["start_sample"] for one in announced if 0 < one["start_sample"] < len(pcm)])
    steps = np.abs(np.diff(pcm))
    assert steps[boundaries - 1].max() <= np.delete(steps, boundaries - 1).max()


def test_what_is_pressed_is_heard_within_a_tenth_of_a_second(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    press_play(page)
    pressed = """async (moving) => {
      const figures = document.getElementById("figures");
      const begin = performance.now();
      document.getElementById("toggle").click();
      while (JSON.parse(figures.dataset.report).moving !== moving) await new Promise((done) => setTimeout(done, 2));
      return performance.now() - begin;
    }"""
    times_ms: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(20):  # what runs beside the test is not what is measured
        for moving in times_ms:
            page.wait_for_timeout(200)
            times_ms[moving].append(page.evaluate(pressed, moving))
        if all(min(times) < 100 for times in times_ms.values()):
            break
    assert max(min(times) for times in times_ms.values()) < 100


def test_pausing_stops_generation_and_playing_continues_at_the_same_sample(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, _ = frames_of(page)
    press_play(page)
    hear(page, 0.5)
    page.keyboard.press("Space")
    wait(page, lambda: not report(page)["moving"])
    page.wait_for_timeout(2500)
    stopped, made = report(page), len(announced)
    page.wait_for_timeout(1500)
    assert report(page)["played"] == stopped["played"] and len(announced) == made
    assert page.get_attribute("#toggle", "aria-label") == "Play"
    page.keyboard.press("Space")
    hear(page, 1.0)
    now = report(page)
    assert now["position"] == now["played"]


def test_the_image_under_the_line_is_that_of_the_sound(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, frames = frames_of(page)
    page.evaluate(
        "document.getElementById('map').value = 'drawn'; document.getElementById('map').dispatchEvent(new Event('change'))"
    )
    press_play(page)
    hear(page, 2.5)
    page.keyboard.press("Space")
    wait(page, lambda: not report(page)["moving"])
    page.wait_for_timeout(300)
    shown = page.evaluate("""() => {
      const canvas = document.getElementById("spectrogram");
      const x = Math.round(canvas.width * parseFloat(document.getElementById("stage").style.getPropertyValue("--line")) / 100);
      const data = canvas.getContext("2d").getImageData(x, 0, 1, canvas.height).data;
      return Array.from({ length: canvas.height }, (_, row) => data[4 * row]);
    }""")
    position = report(page)["heard"]
    columns = np.concatenate(
        [np.asarray(PIL.Image.open(io.BytesIO(png_of(frame)))) for frame in frames], axis=1
    ).astype(float)
    per_column = len(announced) * announced[0]["n_samples"] / columns.shape[1]
    rows = np.linspace(0, len(shown) - 1, columns.shape[0]).round().astype(int)
    likeness = [np.corrcoef(np.asarray(shown)[rows], column)[0, 1] for column in columns.T]
    assert abs(int(np.argmax(likeness)) + 0.5 - position / per_column) < 3
    assert max(likeness) > 0.8


def test_a_link_restores_the_moment_to_the_sample(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    page.context.grant_permissions(LINK_RIGHTS)
    announced, frames = frames_of(page)
    press_play(page)
    page.fill("#prompt", "another song, with bells")
    page.keyboard.press("Shift+Enter")
    page.evaluate("document.activeElement.blur()")
    wait(page, lambda: page.locator("#transition").is_visible())
    page.keyboard.press("c")
    wait(page, "document.getElementById('status').textContent.includes('copied')")
    link = page.evaluate("navigator.clipboard.readText()")
    heard = report(page)["heard"]
    assert link.startswith(player.address) and "#m=" in link
    page.keyboard.press("Space")
    other = open_player(opened, link)
    heard_of, again = frames_of(other)
    assert other.inner_text("#now-prompt") in {one["prompt_from"] for one in announced} | {
        one["prompt_to"] for one in announced
    }
    press_play(other)
    hear(other, 1.0)
    index = next(n for n, one in enumerate(announced) if one["share"] == heard_of[0]["share"])
    assert announced[index]["prompt_from"] != announced[index]["prompt_to"]
    assert abs(announced[index]["start_sample"] - heard) < 2 * announced[0]["n_samples"]
    # One segment and not more: who listens on may ask for something else.
    np.testing.assert_array_equal(pcm_of(again[0]), pcm_of(frames[index]))
    assert png_of(again[0]) == png_of(frames[index])
    assert report(other)["played"] <= report(other)["position"] < report(other)["played"] + announced[0]["n_samples"]
    assert other.url == f"{player.address}/"


def test_a_recording_is_exactly_what_was_heard_between_two_keys(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    _, frames = frames_of(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    press_play(page)
    hear(page, 0.5)
    page.keyboard.press("r")
    hear(page, 2.0)
    with page.expect_download() as download:
        page.keyboard.press("r")
    assert download.value.suggested_filename == "riffusion-a-band.wav"
    sound = wav_of(download.value.path())
    asked = dict(
        part.split("=") for part in next(url for url in requests if "recording.wav" in url).split("?")[1].split("&")
    )
    length, end = round(float(asked["last_s"]) * SECOND), int(asked["to_sample"])
    assert len(sound) == length and 2.0 < length / SECOND < 4.0
    made = np.concatenate([pcm_of(frame) for frame in frames])
    np.testing.assert_array_equal(sound, made[end - length : end])


def test_the_last_seconds_are_saved_as_audio_and_image(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    press_play(page)
    hear(page, 1.5)
    for kind, magic in (("wav", b"RIFF"), ("mp3", (b"ID3", b"\xff\xfb", b"\xff\xf3")), ("png", b"\x89PNG")):
        page.click("#save")
        page.select_option("#last", "10")
        with page.expect_download() as download:
            page.click(f"[data-kind={kind}]")
        assert download.value.suggested_filename.endswith(kind)
        assert Path(download.value.path()).read_bytes().startswith(magic)
        page.keyboard.press("Escape")


def test_the_queue_says_what_comes_next_and_can_be_changed(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    press_play(page)
    page.keyboard.press("s")
    page.locator("#clips").fill("8")  # what is made already cannot be moved: prompts last for long enough to do it
    page.keyboard.press("Escape")
    for prompt in ("one", "two", "three", "four"):
        page.fill("#prompt", prompt)
        page.keyboard.press("Shift+Enter")
        wait(page, lambda: prompt in page.inner_text("#coming") + page.inner_text("#now"))  # noqa: B023
    coming = page.locator("#coming .prompt")
    wait(page, lambda: "in " in page.inner_text("#coming"))
    page.click("#toggle")  # nothing is made while it stands
    page.get_by_role("button", name="Remove: three").click()
    wait(page, lambda: "three" not in coming.all_inner_texts())
    page.get_by_role("button", name="Play next: four").click()
    wait(page, lambda: coming.all_inner_texts()[:1] == ["four"] or coming.all_inner_texts()[1:2] == ["four"])
    page.click("#toggle")
    order: list[str] = []

    def is_over() -> bool:
        now = page.inner_text("#now-prompt")
        order.extend([now] if now not in ("a band", *order) else [])
        return now == "two"

    wait(page, is_over)
    assert order in (["one", "four", "two"], ["four", "one", "two"])
    assert "a band" in page.locator("#past button").all_inner_texts()
    page.locator("#past button").first.click()
    wait(page, lambda: "a band" in page.inner_text("#coming") + page.inner_text("#now"))


def test_one_key_jumps_to_where_the_next_prompt_begins(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, _ = frames_of(page)
    press_play(page)
    hear(page, 0.5)
    page.keyboard.press("Space")  # or it would begin by itself
    wait(page, lambda: not report(page)["moving"])
    page.fill("#prompt", "something else")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Escape")
    wait(page, lambda: announced[-1]["prompt_to"] == "something else")
    begin = next(one["start_sample"] for one in announced if one["prompt_to"] == "something else")
    wait(page, lambda: page.locator("#coming li").count() == 1 and page.locator("#coming button").count() == 0)
    assert report(page)["position"] < begin
    page.keyboard.press("n")
    wait(page, lambda: page.inner_text("#now-prompt") == "something else")
    wait(page, lambda: begin <= report(page)["position"])
    wait(page, lambda: page.inner_text("#live") == "live")
    assert report(page)["played"] < report(page)["position"]


def test_a_click_in_the_past_plays_it_again_and_live_is_one_press_away(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    press_play(page)
    hear(page, 4.0)
    before = report(page)
    box = page.locator("#spectrogram").bounding_box()
    line = 0.66 * box["width"]
    page.mouse.click(box["x"] + line - 56 * 3, box["y"] + 200)
    wait(page, lambda: report(page)["epoch"] > before["epoch"] and report(page)["position"] < before["position"])
    wait(page, lambda: "s back: return" in page.inner_text("#live"))
    page.click("#live")
    wait(page, lambda: report(page)["position"] >= before["position"])
    wait(page, lambda: page.inner_text("#live") == "live")
    for key, sense in (("ArrowLeft", -1), ("End", 1)):
        start = report(page)
        page.keyboard.press(key)
        wait(page, lambda: report(page)["epoch"] > start["epoch"])  # noqa: B023
        assert sense * (report(page)["position"] - start["position"]) > 0


def test_listening_along_hears_the_same_and_does_not_steer(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    _, frames = frames_of(page)
    press_play(page)
    page.click("#share")
    link = page.input_value("#along")
    page.keyboard.press("Escape")
    guest = open_player(opened, link)
    announced, heard = frames_of(guest)
    assert guest.inner_text("#start-text") == "Press play to listen along"
    press_play(guest)
    hear(guest, 1.5)
    assert guest.is_disabled("#prompt") and guest.input_value("#prompt") == ""
    guest.click("#settings")
    assert guest.is_disabled("#strength") and guest.is_enabled("#map")
    first = announced[0]["index"]
    for index, frame in enumerate(heard[:2]):
        assert frame == frames[first + index]


def test_settings_and_your_own_file_steer_the_music(opened: Open, player: Player, tmp_path: Any) -> None:
    page = open_player(opened, player.address, allow="400 (Bad Request)")
    announced, _ = frames_of(page)
    press_play(page)
    page.keyboard.press("s")
    page.get_by_role("radio", name="Beat").check(force=True)
    page.locator("#guidance_scale").fill("2")
    page.locator("#clips").fill("2")
    page.locator("#negative_prompt").fill("noise")
    page.locator("#seed").fill("77")
    page.keyboard.press("Tab")
    shown = (page.inner_text("#clips-value"), page.inner_text("#guidance_scale-value"), page.input_value("#seed"))
    assert shown == ("2 clips, 2 s", "loosely", "77")
    wait(page, lambda: announced[-1]["share"].get("seed_image") == "beats" and announced[-1]["seed"] >= 77)
    share = announced[-1]["share"]
    assert (share["guidance_scale"], share["clips"], share["negative_prompt"]) == (2, 2, "noise")
    soundfile.write(tmp_path / "mine.wav", np.sin(np.arange(2 * SECOND) * 0.2) * 0.3, SECOND)
    page.set_input_files("#file", tmp_path / "mine.wav")
    wait(page, lambda: page.inner_text("#status") == "Riffing on mine.wav")
    wait(page, lambda: announced[-1]["share"].get("seed_upload"))
    assert page.get_by_role("radio", name="mine.wav").is_checked()
    (tmp_path / "not.wav").write_bytes(b"no sound at all")
    page.set_input_files("#file", tmp_path / "not.wav")
    wait(page, lambda: page.inner_text("#status") not in ("Riffing on mine.wav", "Reading not.wav …", ""))
    assert "\n" not in page.inner_text("#status")


def test_a_late_answer_does_not_undo_a_newer_choice(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, _ = frames_of(page)
    press_play(page)
    page.keyboard.press("s")
    late: list[Any] = []

    def delay_the_first_change(route: Any) -> None:
        if route.request.method == "PATCH" and not late:
            late.append(route)
        else:
            route.continue_()

    page.route("**/api/sessions/*", delay_the_first_change)
    page.locator("#guidance_scale").fill("2")
    wait(page, lambda: late)
    page.locator("#clips").fill("2")
    page.locator("#seed").fill("77")
    page.keyboard.press("Tab")
    late[0].continue_()
    seen = set()
    for _ in range(40):
        seen.add((page.input_value("#guidance_scale"), page.input_value("#clips"), page.input_value("#seed")))
        page.wait_for_timeout(25)
    assert seen == {("2", "2", "77")}
    wait(page, lambda: [announced[-1]["share"][name] for name in ("guidance_scale", "clips")] == [2, 2])


def test_a_file_dropped_on_the_page_is_riffed_on(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    announced, _ = frames_of(page)
    press_play(page)
    packed = io.BytesIO()
    soundfile.write(packed, np.sin(np.arange(2 * SECOND) * 0.2) * 0.3, SECOND, format="WAV")
    drag = """([kind, packed]) => {
      const carried = new DataTransfer();
      const bytes = Uint8Array.from(atob(packed), (one) => one.charCodeAt(0));
      carried.items.add(new File([bytes], "dropped.wav", { type: "audio/wav" }));
      const event = new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: carried });
      document.body.dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    held = base64.b64encode(packed.getvalue()).decode()
    assert page.evaluate(drag, ["dragover", held]) and page.locator("#drop").is_visible()
    assert page.evaluate(drag, ["drop", held]) and page.locator("#drop").is_hidden()
    wait(page, lambda: page.inner_text("#status") == "Riffing on dropped.wav")
    wait(page, lambda: announced[-1]["share"].get("seed_upload"))


def test_a_prompt_is_put_together_from_parts(opened: Open, player: Player) -> None:
    page = open_player(opened, player.address)
    page.keyboard.press("b")
    for part in ("jazz", "calm", "piano", "slow"):
        page.locator("#build-lists").get_by_label(part, exact=True).check(force=True)
    assert page.inner_text("#built") == "calm jazz, piano, slow"
    page.click("#build-send")
    hear(page)
    assert page.inner_text("#now-prompt") == "calm jazz, piano, slow"


def test_texts_of_others_are_shown_and_do_nothing(opened: Open, player: Player) -> None:
    evil = '<img src=x onerror="window.hacked=1"> </script>&amp;'
    page = open_player(opened, player.address)
    page.fill("#prompt", evil)
    page.keyboard.press("Enter")
    hear(page)
    page.fill("#prompt", evil + "2")
    page.keyboard.press("Enter")
    wait(page, lambda: evil + "2" in page.inner_text("#panel"))
    assert page.inner_text("#now-prompt") in (evil, evil + "2")
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
    with urllib.request.urlopen(f"{player.address}/metrics") as answer:
        assert json.loads(answer.read())["sessions"] >= 1

"""Every mode, from the command line and from Python, on a model with random weights."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models import nano_components, nano_lora
from support.nano import NANO_SPECTROGRAM
from support.sampling import RATE_HZ, write_melody, write_nano_model

from riffusion_train.audio.read import read_audio
from riffusion_train.audio.write import write_audio
from riffusion_train.cli.main import main
from riffusion_train.config.spectrogram import Channels, Quality
from riffusion_train.model.lora import write_kohya_lora
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT
from riffusion_train.sampling.modes.base import ModeOptions
from riffusion_train.sampling.modes.walk import WalkRequest, endless
from riffusion_train.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modes")
    write_nano_model(folder / "model")
    write_melody(folder / "melody.wav", 2.0)
    write_melody(folder / "other.wav", 1.0, seed=1)
    Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (16, 1))).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def sampler(world: Path) -> Sampler:
    return Sampler.load(world / "model", device="cpu", num_inference_steps=2, quality="draft")


MODES = {
    "text": ["--prompt", "(band:1.2) 3", "--negative", "noise"],
    "audio": ["--prompt", "a", "--prompt-end", "b", "--audio", "melody.wav", "strength=0.5"],
    "inpaint": ["--prompt", "a", "--audio", "melody.wav", "--keep", "0-1.2"],
    "extend": ["--prompt", "a", "--audio", "melody.wav", "duration=0.5"],
    "long": ["--schedule", "0s: slow | 1s: fast", "--energy", "0s: 0.2 | 2s: 1", "duration=2s"],
    "loop": ["--prompt", "a", "bpm=200", "bars=1"],
    "walk": ["--prompt", "a", "--prompt", "b", "clips=2", "seed_image=beats"],
    "morph": ["--audio", "melody.wav", "--audio", "other.wav", "steps=2"],
}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_runs_and_makes_the_same_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.chdir(world)
    options = ["num_inference_steps=2", "quality=draft", "device=cpu"]
    arguments = ["sample", "model", f"mode={mode}", *MODES[mode], f"out={tmp_path / 'first'}", "seed=4", *options]
    assert main(arguments) == EXIT_DONE
    first = sorted((tmp_path / "first").glob("*.wav"))
    assert len(first) == (2 if mode == "morph" else 1)
    settings = json.loads(first[-1].with_suffix(".json").read_text())
    assert (settings["mode"], settings["seed"]) == (mode, 4)
    assert main(["sample", "--again", str(first[-1]), f"out={tmp_path / 'second'}", "device=cpu"]) == EXIT_DONE
    second = next((tmp_path / "second").glob("*.wav"))
    assert np.array_equal(read_audio(first[-1])[0], read_audio(second)[0])
    assert np.abs(read_audio(second)[0]).max() > 0.01


@pytest.mark.parametrize(
    ("mode", "channels"), [*((mode, Channels.stereo_phase) for mode in MODES), ("inpaint", Channels.stereo)]
)
def test_each_mode_makes_stereo_where_the_model_does(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, channels: Channels
) -> None:
    write_nano_model(tmp_path / "model", dataclasses.replace(NANO_SPECTROGRAM, channels=channels))
    for name in ("melody.wav", "other.wav"):
        wav, rate_hz = read_audio(world / name)
        write_audio(tmp_path / name, np.concatenate([wav, 0.3 * np.roll(wav, 7, axis=1)]), rate_hz)
    monkeypatch.chdir(tmp_path)
    options = ["out=out", "num_inference_steps=2", "quality=draft", "device=cpu"]
    assert main(["sample", "model", f"mode={mode}", *MODES[mode], *options]) == EXIT_DONE
    wav, _ = read_audio(sorted(Path("out").glob("*.wav"))[-1])
    assert wav.shape[0] == 2
    left, right = wav
    assert min(np.abs(left).max(), np.abs(right).max()) > 0.01
    assert np.abs(left - right).max() > 0.01


def test_a_clip_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    wanted = [("band", "", seed) for seed in range(3)]
    together = list(sampler.generate(wanted, batch_size=3))
    for clip, one in zip(together, wanted, strict=True):
        assert np.array_equal(clip.audio, next(sampler.generate([one])).audio)


def test_changing_nothing_of_a_sound_gives_its_image_back(world: Path, sampler: Sampler) -> None:
    still = sampler.audio_to_audio(world / "melody.wav", "a", strength=0.0, seed=1)
    other_seed = sampler.audio_to_audio(world / "melody.wav", "b", strength=0.0, seed=2)
    assert np.array_equal(still.image, other_seed.image)
    assert still.audio.shape == (1, 2 * RATE_HZ)
    images = [sampler.audio_to_audio(world / "melody.wav", "a", strength=s).image for s in (0.5, 1.0)]
    far = [np.abs(image.astype(int) - still.image).mean() for image in images]
    assert 0 < far[0] < far[1]


def test_the_prompt_at_the_end_acts_at_the_end(world: Path, sampler: Sampler) -> None:
    plain = sampler.audio_to_audio(world / "melody.wav", "a", strength=0.5)
    changed = sampler.audio_to_audio(world / "melody.wav", "a", prompt_end="(drums:1.4)", strength=0.5)
    columns = np.abs(plain.image.astype(int) - changed.image).mean(axis=0)
    assert columns[: len(columns) // 4].mean() < columns[-len(columns) // 4 :].mean()


def test_what_is_kept_comes_back_sample_for_sample(world: Path, sampler: Sampler) -> None:
    source = read_audio(world / "melody.wav")[0]
    clip = sampler.inpaint(world / "melody.wav", "a", keep_s=((0.0, 1.0),))
    kept = slice(0, round(0.9 * RATE_HZ))  # but for the window over which the two cross
    assert np.array_equal(clip.audio[:, kept], source[:, kept])
    assert not np.allclose(clip.audio[:, round(1.1 * RATE_HZ) :], source[:, round(1.1 * RATE_HZ) :], atol=1e-2)


def test_a_band_generated_anew_leaves_the_others(world: Path, sampler: Sampler) -> None:
    source = read_audio(world / "melody.wav")[0]
    clip = sampler.inpaint(world / "melody.wav", "a", band_hz=(3000.0, 6000.0))
    change = np.abs(np.fft.rfft(clip.audio[0] - source[0]))
    hz = np.fft.rfftfreq(source.shape[1], 1 / RATE_HZ)
    assert change[(hz > 3500) & (hz < 5500)].mean() > 20 * change[hz < 1500].mean()


def test_a_mask_says_what_is_generated_anew(world: Path, sampler: Sampler) -> None:
    source = read_audio(world / "melody.wav")[0]
    clip = sampler.inpaint(world / "melody.wav", "a", mask=world / "mask.png")
    change = np.abs(clip.audio - source)[0]
    assert change[-RATE_HZ // 2 :].mean() > 3 * change[: RATE_HZ // 2].mean()


def test_a_sound_goes_on_from_its_own_samples_or_is_led_up_to(world: Path, sampler: Sampler) -> None:
    source = read_audio(world / "melody.wav")[0]
    forwards = sampler.extend(world / "melody.wav", "a", duration_s=1.3)
    backwards = sampler.extend(world / "melody.wav", "a", duration_s=1.3, backwards=True)
    length = round(3.3 * RATE_HZ)
    assert forwards.audio.shape == backwards.audio.shape == (1, length)
    seam = 8 * 400
    scale = 1 / max(np.abs(source).max(), 1)
    for clip, own in ((forwards.audio[:, : source.shape[1]], slice(0, -seam)), (backwards.audio, slice(seam, None))):
        ours = clip[:, -source.shape[1] :] if clip.shape[1] == length else clip
        ratio = np.linalg.norm(ours[:, own]) / np.linalg.norm(source[:, own])
        assert ratio <= scale + 1e-3
        assert np.allclose(ours[:, own], source[:, own] * ratio, atol=1e-4)


def test_a_longer_piece_has_exactly_its_duration_and_begins_as_the_shorter(sampler: Sampler) -> None:
    short, long = (sampler.long_form("a", duration_s) for duration_s in (2.0, 3.7))
    assert long.audio.shape == (1, round(3.7 * RATE_HZ))
    first = np.abs(short.image[:, :16].astype(int) - long.image[:, :16]).mean()
    other = np.abs(sampler.long_form("a", 2.0, seed=9).image[:, :16].astype(int) - long.image[:, :16]).mean()
    assert first < other / 2


def test_a_schedule_changes_the_end_and_volume_the_level(sampler: Sampler) -> None:
    plain = sampler.long_form("a", 3.0)
    scheduled = sampler.long_form("a", 3.0, schedule=((2.0, "(b:1.5)"),))
    columns = np.abs(plain.image.astype(int) - scheduled.image).mean(axis=0)
    assert columns[:20].mean() < columns[-20:].mean()
    rising = sampler.long_form("a", 3.0, volume=((0.0, 0.0), (3.0, 1.0)))
    ratio = np.abs(rising.audio[0]) / np.maximum(np.abs(plain.audio[0]), 1e-6)
    assert np.median(ratio[:RATE_HZ]) < 0.4 * np.median(ratio[-RATE_HZ:])


def test_a_loop_of_bars_lasts_exactly_these(sampler: Sampler) -> None:
    clip = sampler.loop("a", bpm=130.0, bars=1)
    assert clip.audio.shape[1] == round(4 * 60 / 130 * RATE_HZ)
    assert sampler.loop("a", duration_s=1.7).audio.shape[1] == pytest.approx(1.7 * RATE_HZ, abs=0.1 * RATE_HZ)


def test_a_walk_without_end_goes_on(sampler: Sampler) -> None:
    sounds = endless(sampler.pipeline, WalkRequest(prompts=("a",), clips=1, seed=3), ModeOptions(2, Quality.draft))
    lengths = [next(sounds).shape[1] for _ in range(4)]
    assert sum(lengths) > 2 * 32 * 400


def test_a_morph_begins_with_one_sound_and_ends_with_the_other(world: Path, sampler: Sampler) -> None:
    clips = list(sampler.morph(world / "melody.wav", world / "other.wav", steps=3))
    assert len(clips) == 3
    ends = [np.abs(clips[i].image.astype(int) - clips[j].image).mean() for i, j in ((0, 2), (0, 1), (1, 2))]
    assert ends[0] > 0
    assert max(ends[1:]) < ends[0] + 20


def test_prompts_seeds_and_guidances_are_crossed(world: Path, tmp_path: Path) -> None:
    arguments = ["--prompt", "a", "--prompt", "b", "num_variations=2", "guidance_scales=[1,3]", "num_inference_steps=1"]
    assert main(["sample", str(world / "model"), *arguments, f"out={tmp_path}", "device=cpu", "quality=draft"]) == 0
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    kinds = {(one["prompt"], one["seed"], one["guidance_scale"]) for one in found}
    assert len(found) == len(kinds) == 8


def test_no_command_overwrites_the_clips_of_another(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["num_inference_steps=1", f"out={tmp_path}", "device=cpu", "quality=draft"]
    for extra in ([], ["guidance_scale=3"], ["mode=loop"], ["format=flac"]):
        assert main(["sample", str(world / "model"), "--prompt", "a b", *extra, *fast]) == EXIT_DONE
    stems = ["0000-text-a-b-seed0", "0001-text-a-b-seed0", "0002-loop-a-b-seed0", "0003-text-a-b-seed0"]
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == stems
    shown = capsys.readouterr().out.splitlines()
    assert str(tmp_path / f"{stems[0]}.wav") in shown
    assert shown[-2:] == [
        f"sampled: 1 clips in {tmp_path}, each with its .png and .json",
        f"once more, the same: riffusion sample --again {tmp_path / stems[3]}.flac out=DIR",
    ]
    for kind in ("json", "flac"):  # the audio format stays
        assert main(["sample", "--again", str(tmp_path / f"{stems[3]}.{kind}"), f"out={tmp_path / kind}"]) == EXIT_DONE
        assert len(list((tmp_path / kind).glob("*.flac"))) == 1
    again = ["sample", "--again", str(tmp_path / f"{stems[3]}.flac"), f"out={tmp_path / 'ogg'}", "format=ogg"]
    assert main(again) == EXIT_DONE
    assert len(list((tmp_path / "ogg").glob("*.ogg"))) == 1


def test_unconditional_clips_need_no_prompt(world: Path, tmp_path: Path) -> None:
    arguments = ["unconditional=true", "num_inference_steps=1", f"out={tmp_path}", "device=cpu", "quality=draft"]
    assert main(["sample", str(world / "model"), *arguments]) == 0
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["guidance_scale"] == 1.0


def test_loras_are_merged_with_their_weights(world: Path, tmp_path: Path) -> None:
    parts = nano_components()
    file = tmp_path / "style.safetensors"
    write_kohya_lora(file, nano_lora(parts), extra={})
    images = [
        Sampler.load(
            world / "model", device="cpu", num_inference_steps=2, timesteps="karras", loras=loras, quality="draft"
        )
        .text_to_audio("a")
        .image.astype(int)
        for loras in ([], [f"{file}:0"], [f"{file}:0.5", f"{file}:0.5"], [str(file)])
    ]
    assert np.array_equal(images[0], images[1])
    assert np.abs(images[2] - images[3]).max() <= 2
    assert np.abs(images[0] - images[3]).mean() > 1


def test_what_is_lighter_draws_nearly_the_same(world: Path) -> None:
    plain = Sampler.load(world / "model", device="cpu", num_inference_steps=2, quality="draft")
    expected = plain.text_to_audio("a").image.astype(int)
    lighter = {"dtype": "bf16", "channels_last": True, "attention_slicing": True}
    light = Sampler.load(world / "model", device="cpu", num_inference_steps=2, quality="draft", **lighter)
    assert np.abs(light.text_to_audio("a").image - expected).mean() < 8


def test_candidates_are_picked_from_and_extended(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["7", "2", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    arguments = ["mode=extend", "--prompt", "a", "--audio", str(world / "melody.wav"), "duration=0.5", "pick=2"]
    options = [f"out={tmp_path}", "num_inference_steps=1", "quality=draft", "device=cpu"]
    assert main(["sample", str(world / "model"), *arguments, *options]) == 0
    rounds = sorted(tmp_path.glob("*-round-*"))
    assert [len(list(folder.glob("*.wav"))) for folder in rounds] == [2, 2]
    assert "round-1/2.wav" in capsys.readouterr().out.splitlines()[-1]
    lengths = [read_audio(folder / "1.wav")[0].shape[1] / RATE_HZ for folder in rounds]
    assert lengths == pytest.approx([2.5, 3.0])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--prompts", "EMPTY"], "holds no prompt; write one a line"),
        (["mode=inpaint", "--prompt", "a", "--audio", "melody.wav", "--keep", "5-9"], "lies outside"),
        (["mode=inpaint", "--prompt", "a", "--audio", "melody.wav", "--keep", "1-1"], "the range has no length"),
        (["mode=inpaint", "--prompt", "a", "--audio", "melody.wav", "--keep", "0-9"], "nothing of it is left"),
        (["mode=inpaint", "--prompt", "a", "--audio", "melody.wav"], "needs --keep"),
        (["mode=inpaint", "--prompt", "a", "--audio", "melody.wav", "--band", "9e9"], "no range"),
        (["mode=audio", "--prompt", "a", "--audio", "SILENT"], "silent from end to end"),
        (["mode=audio", "--prompt", "a", "--audio", "mask.png"], "cannot be (read|decoded)|no audio|not audio"),
        (["mode=audio", "--prompt", "a", "--audio", "gone.wav"], "No such file"),
        (["mode=audio", "--prompt", "a", "--audio", "melody.wav", "strength=2"], "between 0"),
        (["mode=audio", "--prompt", "a"], "needs a sound"),
        (["mode=morph", "--audio", "melody.wav"], "needs two sounds"),
        (["mode=walk", "--prompt", "a", "seed_image=mask.png"], "is 64x16 px; a seed image of this model has 32x32"),
        (["mode=walk", "--prompt", "a", "seed_image=nowhere"], "No such file|no such file"),
        (["mode=long", "--prompt", "a", "duration=soon"], "is no time"),
        (["mode=long", "--prompt", "a", "duration=0"], "above 0"),
        (["mode=loop", "--prompt", "a", "bars=2"], "needs bpm="),
        (["--prompt", "a", "--keep", "0-1"], "goes with mode=inpaint"),
        (["--prompt", "a", "duration=3min"], "duration= goes with mode=extend.long.loop, not with mode=text"),
        (["--prompt", "a", "+bpm=120"], "bpm= goes with mode=loop, not with mode=text"),
        (["--prompt", "a", "steps=30"], "num_inference_steps= is the number of denoising steps"),
        (["--prompt", "a", "mode=long", "strength=0.5"], "strength= goes with mode=audio.inpaint.walk"),
        (["--prompt", "a", "guidance_scale=3", "guidance_scales=[1,2]"], "exclude each other"),
        (["unconditional=true", "guidance_scale=3"], "without guidance"),
        (["--prompt", "a", "--lora", "gone.safetensors"], "no such file"),
    ],
)
def test_wrong_input_is_one_line_with_the_fix(
    world: Path,
    tmp_path: Path,
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import re

    monkeypatch.chdir(world)
    (tmp_path / "empty.txt").write_text("\n \n")
    write_audio(tmp_path / "silent.wav", np.zeros((1, RATE_HZ), np.float32), RATE_HZ)
    paths = {"EMPTY": str(tmp_path / "empty.txt"), "SILENT": str(tmp_path / "silent.wav")}
    options = [f"out={tmp_path / 'out'}", "num_inference_steps=1", "device=cpu"]
    assert main(["sample", "model", *[paths.get(one, one) for one in arguments], *options]) == EXIT_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if not re.match(r"sample: \d", line)]
    assert len(lines) == 1, lines
    assert re.search(complaint, lines[0]), lines


def test_in_a_batch_the_rest_goes_on_and_the_summary_lists_what_failed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mode=audio", "--prompt", "a", "--audio", str(world / "melody.wav"), "--audio", "gone.wav"]
    arguments += ["--audio", str(world / "mask.png"), "strength=0.5", f"out={tmp_path}", "num_inference_steps=2"]
    assert main(["sample", str(world / "model"), *arguments, "device=cpu", "quality=draft"]) == EXIT_INPUT
    captured = capsys.readouterr()
    assert len(list(tmp_path.glob("*.wav"))) == 1
    assert "sampled: 1 clips" in captured.out
    assert "2 of 3 clips failed" in captured.err
    assert "gone.wav" in captured.err
    assert "mask.png" in captured.err


def test_a_source_that_has_changed_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = shutil.copy(world / "melody.wav", tmp_path / "own.wav")
    options = ["num_inference_steps=1", "quality=draft", "device=cpu"]
    arguments = ["mode=audio", "--prompt", "a", "--audio", str(own), f"out={tmp_path / 'first'}"]
    assert main(["sample", str(world / "model"), *arguments, *options]) == 0
    write_melody(Path(own), 1.0, seed=5)
    file = next((tmp_path / "first").glob("*.json"))
    assert main(["sample", "--again", str(file), f"out={tmp_path / 'second'}", "device=cpu"]) == EXIT_INPUT
    assert "has changed since the clip was made" in capsys.readouterr().err


def test_a_notebook_shows_image_and_sound(sampler: Sampler) -> None:
    shown = sampler.text_to_audio("<band>")._repr_html_()
    assert "data:image/png;base64," in shown
    assert "data:audio/wav;base64," in shown
    assert "&lt;band&gt;" in shown

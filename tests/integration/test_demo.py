import importlib.util
import json
import re
from pathlib import Path

import pytest
from support.nano import train_config, write_dataset
from support.sampling import write_melody

from riffusion_train.cli.main import main
from riffusion_train.config.denoising import RecommendedConfig
from riffusion_train.export.write import export_run
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT
from riffusion_train.training.run import run_training

SMALL = ["base=none", "scale=0.02", "num_threads=1"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "my demo"
    assert main(["demo", f"out={out}", *SMALL]) == EXIT_DONE
    return out


def test_the_demo_leaves_everything_it_promises(demo: Path) -> None:
    for name in ("audio", "dataset", "run", "model", "samples", "scores"):
        assert (demo / name).is_dir()
    figures = json.loads((demo / "figures.json").read_text())
    assert list(figures) == ["command", "git", "machine", "versions", "rows"]
    assert "scale=0.02" in figures["command"]
    steps = json.loads((demo / "steps.json").read_text())
    assert all(step["finished"] and step["seconds"] > 0 and step["peak_mb"] > 10 for step in steps)


def test_the_page_shows_the_samples_the_curves_and_the_commands(demo: Path) -> None:
    page = (demo / "index.html").read_text()
    shown = set(re.findall(r'(?:src|href)="([^"#:]+)"', page))
    assert len([name for name in shown if name.startswith("samples/") and name.endswith(".wav")]) >= 4
    assert page.count("<figure><figcaption>") == 2  # one of the two runs is too short here for a curve
    assert '<img class="curve"' in page
    assert "Not measured here: KID needs at least 16 clips, not 4." in page and 'href="scores/index.html"' in page
    for verb in ("prepare", "train", "export", "sample", "evaluate score"):
        assert f"riffusion {verb} " in page
    from urllib.parse import unquote

    assert all((demo / unquote(name)).is_file() for name in shown if not name.startswith("data"))


def test_the_same_command_again_does_nothing_twice(demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (demo / "steps.json").read_bytes()
    assert main(["demo", f"out={demo}", *SMALL]) == EXIT_DONE
    assert capfd.readouterr().out.count("done before") == 7
    assert (demo / "steps.json").read_bytes() == before


def test_other_settings_need_another_folder(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"out={demo}", "base=none", "scale=0.03"]) == EXIT_INPUT
    assert "holds a demo with other settings" in capsys.readouterr().err


def test_own_audio_needs_nothing_that_composes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    absent = ("midirenderer", "pretty_midi", "sklearn")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    assert main(["demo", f"out={tmp_path / 'demo'}", *SMALL]) == EXIT_INPUT
    assert "the demo needs midirenderer, pretty_midi, scikit-learn" in capfd.readouterr().err
    (tmp_path / "audio").mkdir()
    assert main(["demo", f"out={tmp_path / 'demo'}", f"audio_dir={tmp_path / 'audio'}", *SMALL]) == EXIT_INPUT
    assert "no audio files" in capfd.readouterr().err


def test_a_step_that_fails_ends_the_demo_with_its_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "audio").mkdir()
    words = [f"out={tmp_path / 'demo'}", f"audio_dir={tmp_path / 'audio'}", *SMALL]
    assert main(["demo", *words]) == EXIT_INPUT
    assert "no audio files" in capfd.readouterr().err


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo that fine-tunes a model, which is of nano size here and was trained for two steps, on one's own music."""
    folder = tmp_path_factory.mktemp("tuned")
    run = run_training(train_config(write_dataset(folder / "dataset"), folder / "run", "max_train_steps=2"), [])
    recommended = RecommendedConfig(num_inference_steps=2, guidance_scale=3.0)
    export_run(run, folder / "base", recommended=recommended)
    (folder / "songs").mkdir()
    rows = ["file,caption,lead,drums,tempo,register"]
    for number in range(8):
        write_melody(folder / "songs" / f"{number}.wav", 2.0, seed=number)
        rows.append(f"{number}.wav,song {number},{'piano' if number % 2 else 'harp'},none,slow,low")
    (folder / "songs" / "captions.csv").write_text("\n".join(rows) + "\n")
    words = [f"base={folder / 'base'}", f"audio_dir={folder / 'songs'}", f"out={folder / 'demo'}"]
    assert main(["demo", *words, "scale=0.02", "num_threads=1"]) == EXIT_DONE
    return folder / "demo"


def test_a_base_is_sampled_and_judged_before_it_is_fine_tuned_and_again_afterwards(tuned: Path) -> None:
    before, after = (
        [json.loads(path.read_text()) for path in sorted((tuned / name).glob("*.json"))]
        for name in ("before", "samples")
    )
    assert len(before) == len(after) == 4
    for old, new in zip(before, after, strict=True):
        same = ("prompt", "seed", "num_inference_steps", "guidance_scale")
        assert [old[key] for key in same] == [new[key] for key in same]
        assert (old["num_inference_steps"], old["guidance_scale"]) == (2, 3.0)
        assert old["model_fingerprint"] != new["model_fingerprint"]
    for name in ("scores-before", "scores"):
        assert (tuned / name / "scores.json").is_file()


def test_its_page_shows_before_after_and_real(tuned: Path) -> None:
    page = (tuned / "index.html").read_text()
    panes = re.findall(r'<span class="label">(.*?)</span>', page)
    assert panes == ["Before", "After", "Real"] * 4
    assert "fine-tuned on new music" in page and "scratch" not in page
    assert page.count("<figure><figcaption>") == 1
    assert str(tuned / "before") in page  # in the commands
    shown = set(re.findall(r'src="((?:before|samples|real)[^"]+)"', page))
    assert len(shown) == 2 * 3 * 4 and all((tuned / name).is_file() for name in shown)

import importlib.util
import json
import re
from pathlib import Path

import pytest

from riffusion_train.cli.main import main
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT

SMALL = ["scale=0.02", "num_threads=1"]


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
    assert main(["demo", f"out={demo}", "scale=0.03"]) == EXIT_INPUT
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

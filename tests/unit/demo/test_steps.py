"""The two recipes of the demo: from nothing, and from a base model."""

from pathlib import Path

import pytest
from support.sampling import write_model_without_codec, write_nano_model

from riffusion_train.config.compose import compose
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.config.sample import DemoConfig
from riffusion_train.config.spectrogram import load_preset, load_spectrogram, preset_words
from riffusion_train.demo.steps import HELD_OUT_STYLE, Base, DemoFolder, choose_base, plan_steps
from riffusion_train.runtime import hub
from riffusion_train.runtime.errors import InputError


def commands(config: DemoConfig, base: Base | None) -> list[str]:
    audio = None if config.audio_dir is None else Path(config.audio_dir)
    steps = plan_steps(config, DemoFolder(Path("demo"), audio), base, lambda: None)
    assert len({step.name for step in steps}) == len(steps)
    return [step.command for step in steps]


def test_from_nothing_a_vae_and_a_unet_are_trained_on_exercises() -> None:
    found = commands(DemoConfig(num_threads=2), None)
    assert [one.split()[1] for one in found] == ["-m", "prepare", "train", "train", "export", "sample", "evaluate"]
    assert "kind=" not in found[0] and "spectrogram=tiny" in found[1] and "experiment=demo_vae" in found[2]
    assert "recommended.scheduler=euler" in found[4]


def test_a_base_is_judged_before_and_after_it_is_fine_tuned_on_a_style_that_is_new_to_it() -> None:
    found = commands(DemoConfig(num_threads=2), Base("laptop", load_preset("laptop")))
    verbs = [one.split()[1] for one in found]
    assert verbs == ["-m", "prepare", "sample", "evaluate", "train", "export", "sample", "evaluate"]
    assert f"kind=music styles={HELD_OUT_STYLE}" in found[0] and "spectrogram=laptop" in found[1]
    assert "sample laptop " in found[2] and "experiment=laptop_finetune model=laptop" in found[4]
    assert "recommended" not in found[5]  # what the base recommends stands
    same = [one.replace("laptop", "demo/model").replace("demo/before", "demo/samples") for one in (found[2],)]
    assert same == [found[6]]  # the same prompts, from the same noise


def test_own_audio_is_not_composed() -> None:
    found = commands(DemoConfig(num_threads=2, audio_dir="songs"), Base("laptop", load_preset("laptop")))
    assert found[0].startswith("riffusion prepare audio=songs ")


def test_the_base_is_the_packaged_model_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PRETRAINED_FOLDER", tmp_path)
    assert choose_base(DemoConfig()) is None
    with pytest.raises(InputError, match="laptop: the weights of this model are not in this installation"):
        choose_base(DemoConfig(base="laptop"))
    write_nano_model(tmp_path / "laptop")
    nano = load_spectrogram(tmp_path / "laptop")
    assert choose_base(DemoConfig()) == Base("laptop", nano)
    assert choose_base(DemoConfig(base="none")) is None
    assert choose_base(DemoConfig(base=str(tmp_path / "laptop"))) == Base(str(tmp_path / "laptop"), nano)


def test_a_base_without_a_codec_is_refused(tmp_path: Path) -> None:
    model = write_model_without_codec(tmp_path / "model")
    with pytest.raises(InputError, match=r"does not say its codec; riffusion import .* codec=PRESET"):
        choose_base(DemoConfig(base=str(model)))


def test_the_words_of_a_codec_prepare_with_it(tmp_path: Path) -> None:
    write_nano_model(tmp_path / "model")
    nano = load_spectrogram(tmp_path / "model")
    assert nano is not None and preset_words(load_preset("hifi")) == ["spectrogram=hifi"]
    config = compose("prepare", PrepareConfig, ["audio=a", "out=o", *preset_words(nano)])
    assert config.spectrogram == nano

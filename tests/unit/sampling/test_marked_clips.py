"""Every file and page of a clip says that a model made it, and `riffusion doctor CLIP` says which."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from support.sampling import write_nano_model

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.image_file import save_image
from riffusion_train.audio.marking import Mark, read_mark
from riffusion_train.audio.write import write_audio
from riffusion_train.cli.model import main_doctor
from riffusion_train.export.describe import describe_clip
from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.clip import RECORD_KEY, Clip, ClipRecord, load_record
from riffusion_train.sampling.modes.base import TextRequest
from riffusion_train.sampling.sampler import Sampler


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """Return a sampler of a model that says what it was trained on."""
    folder = write_nano_model(tmp_path_factory.mktemp("models") / "nano")
    (folder / "training.json").write_text(json.dumps({"dataset_fingerprint": "5e7"}))
    return Sampler.load(folder, device="cpu", num_inference_steps=1)


@pytest.fixture(scope="module")
def clip(sampler: Sampler) -> Clip:
    return sampler.text_to_audio("a band")


def test_every_file_of_a_clip_names_its_model_and_dataset(
    sampler: Sampler, clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = Mark("nano", sampler.model_fingerprint, "5e7")
    assert sampler.mark == expected
    long = sampler.long_form("a band", 2.0)
    for made in (clip, long):
        for audio_format in ("wav", "flac", "ogg", "opus", "mp3"):
            for file in made.save(tmp_path / "clip", audio_format)[:-1]:
                assert read_mark(file) == expected, file
                main_doctor([str(file)])
                said = capsys.readouterr().out
                assert all(text in said for text in ("nano", sampler.model_fingerprint, "5e7", "--again"))


def test_a_clip_in_a_notebook_is_marked(sampler: Sampler, clip: Clip, tmp_path: Path) -> None:
    found = re.findall(r"data:(image/png|audio/wav);base64,([^\"]+)", clip._repr_html_())
    assert [kind for kind, _ in found] == ["image/png", "audio/wav"]
    for kind, data in found:
        file = tmp_path / kind.replace("/", ".")
        file.write_bytes(base64.b64decode(data))
        assert read_mark(file) == sampler.mark


def test_the_doctor_refuses_what_is_not_marked_or_was_changed(sampler: Sampler, clip: Clip, tmp_path: Path) -> None:
    write_audio(tmp_path / "plain.wav", clip.audio, clip.rate_hz)
    with pytest.raises(InputError, match="not marked as made by a model"):
        main_doctor([str(tmp_path / "plain.wav")])
    with pytest.raises(InputError, match="no such file"):
        main_doctor([str(tmp_path / "none.png")])
    swapped = {"comment": clip.record.as_text()}
    write_audio(tmp_path / "a.wav", clip.audio, clip.rate_hz, swapped, mark=Mark("other", "beef"))
    with pytest.raises(InputError, match=r"names other \(beef\)"):
        main_doctor([str(tmp_path / "a.wav")])
    picture = PIL.Image.fromarray(clip.image)
    picture.save(tmp_path / "stripped.png")
    with pytest.raises(InputError, match="not marked"):
        describe_clip(tmp_path / "stripped.png")


def test_a_record_of_before_the_mark_is_read_and_names_no_dataset(clip: Clip, tmp_path: Path) -> None:
    data = clip.record.as_data()
    assert data.pop("dataset_fingerprint") == "5e7"
    old = ClipRecord.from_data(data)
    assert old.request == clip.record.request
    assert old.mark.dataset_fingerprint is None
    save_image(tmp_path / "old.png", EncodedClip(clip.image, 0.0), clip.spectrogram, {RECORD_KEY: json.dumps(data)})
    assert load_record(tmp_path / "old.png") == old


def test_the_final_model_of_a_run_names_the_run_and_its_dataset(tmp_path: Path) -> None:
    folder = write_nano_model(tmp_path / "first-run" / "final")
    (folder.parent / "manifest.json").write_text(json.dumps({"dataset": {"fingerprint": "da7a"}}))
    mark = Sampler.load(folder, device="cpu").mark
    assert (mark.model, mark.dataset_fingerprint) == ("first-run/final", "da7a")


def test_what_the_player_sends_is_marked(sampler: Sampler, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from riffusion_train.player.clips import ClipMaker
    from riffusion_train.player.oneshot import make_clip, original_request, run_original
    from riffusion_train.player.segments import encode_png

    (tmp_path / "segment.png").write_bytes(encode_png(np.zeros((4, 4), np.uint8), sampler.mark))
    assert read_mark(tmp_path / "segment.png") == sampler.mark
    maker = ClipMaker(sampler)
    ends = {"prompt": "a", "seed": 1}
    asked = original_request({"alpha": 0.5, "num_inference_steps": 1, "start": ends, "end": ends})
    for number, made in enumerate(
        [
            make_clip(maker, TextRequest(prompt="a"), 1, "ogg", lambda done, steps: None),
            run_original(maker, asked, lambda done, steps: None),
        ]
    ):
        for name in ("audio", "image"):
            kind, data = made[name].split(";base64,")
            file = tmp_path / f"{number}.{kind.split('/')[1].replace('mpeg', 'mp3')}"
            file.write_bytes(base64.b64decode(data))
            assert read_mark(file) == sampler.mark, file

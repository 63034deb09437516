import json
from pathlib import Path

import numpy as np
import pytest

from riffusion_train.audio.write import write_audio
from riffusion_train.evaluation.clips import check_clips, choose_captions, find_clips, is_model
from riffusion_train.runtime.errors import InputError


def write_sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.zeros((1, 800), np.float32), 16000)
    return path


def captions(folder: Path) -> dict[str, tuple[str, ...]]:
    return {clip.name: clip.captions for clip in find_clips(folder)}


def test_captions_come_from_our_record_then_a_text_file_then_a_table(tmp_path: Path) -> None:
    for name in ("a", "b", "sub/c", "d"):
        write_sound(tmp_path / f"{name}.wav")
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "from the record", "model": "m"}))
    (tmp_path / "a.txt").write_text("from the text")
    (tmp_path / "b.txt").write_text("\ufefffirst\n\nsecond\n", encoding="utf-8")
    (tmp_path / "captions.csv").write_text(
        "file,caption\nb.wav,never used\nsub/c.wav,of the table\nsub/c.wav,another\n"
    )
    assert captions(tmp_path) == {
        "a.wav": ("from the record",),
        "b.wav": ("first", "second"),
        "d.wav": (),
        "sub/c.wav": ("of the table", "another"),
    }
    assert find_clips(tmp_path)[0].model == "m"


def test_a_json_file_that_is_no_record_is_passed_over(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav")
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "text": ["one", "two"]}\n')
    assert captions(tmp_path) == {"a.wav": ("one", "two")}


def test_images_beside_sounds_are_found_and_hidden_and_left_out_files_are_not(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav")
    (tmp_path / "a.png").write_bytes(b"x")
    write_sound(tmp_path / ".hidden" / "b.wav")
    write_sound(tmp_path / "scores" / "listen" / "c.wav")
    (clip,) = find_clips(tmp_path, leave_out=tmp_path / "scores")
    assert (clip.name, clip.image) == ("a.wav", tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.csv", b"name,mood\na.wav,sad\n", "has no columns with files and captions"),
        ("metadata.jsonl", b"{not json}\n", "cannot be read as a table"),
        ("captions.csv", b"file,caption\na.wav,caf\xe9\n", "cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_sound(tmp_path / "a.wav")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        find_clips(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_a_folder_without_sounds_and_a_single_sound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no sounds"):
        find_clips(tmp_path)
    with pytest.raises(InputError, match="is one sound"):
        check_clips(str(write_sound(tmp_path / "a.wav")))
    with pytest.raises(InputError, match="no such folder of clips"):
        check_clips(str(tmp_path / "nowhere"))


def test_models_runs_and_hub_ids_are_told_from_folders_of_sounds(tmp_path: Path) -> None:
    for name in ("model/model_index.json", "run/config.yaml", "file.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run" / "checkpoints" / "step-000002").mkdir(parents=True)
    sources = ["model", "run", "file.safetensors", "run/checkpoints/step-000002"]
    assert all(is_model(str(tmp_path / source)) for source in sources)
    assert is_model("somebody/a-model") and not is_model(str(tmp_path))


def test_captions_are_distinct_and_spread_while_there_are_enough() -> None:
    many = [f"caption {number // 2}" for number in range(20)]  # every caption twice
    assert choose_captions(many, 5) == ["caption 0", "caption 2", "caption 4", "caption 6", "caption 8"]
    repeated = choose_captions(many, 25)
    assert len(repeated) == 25 and max(repeated.count(one) for one in repeated) == 3
    with pytest.raises(InputError, match="no captions"):
        choose_captions([], 3)

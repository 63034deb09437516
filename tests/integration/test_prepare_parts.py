"""`part=i/n` and `riffusion prepare merge`: an array job ends in the bytes of one run."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from support.corpus_files import RATE_HZ, tone, write_tones, write_track
from support.sounds import music

from data_prep.engine.run_tracks import part_of
from data_prep.tracks import track_worker
from riffusion_train.cli.main import main

ARGUMENTS = ("spectrogram=tiny", "num_workers=0", "validation_ratio=0.3")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Tones in two genres, copies of music in several formats, one silent and one broken file, one long one."""
    folder = write_tones(tmp_path_factory.mktemp("audio"), 6)
    for seed in range(2):
        write_track(folder / f"song-{seed}.wav", music(seed, 7.0), "a song")
        soundfile.write(folder / f"zcopy-{seed}.flac", soundfile.read(folder / f"song-{seed}.wav")[0], RATE_HZ)
        write_track(folder / f"zlossy-{seed}.mp3", 0.5 * music(seed, 7.0), "a song as mp3")
        (folder / f"zcopy-{seed}.txt").write_text("a copy")
    write_track(folder / "silent.wav", 0 * tone(100, 6), "nothing to hear")
    write_track(folder / "long.wav", np.concatenate([tone(50, 6), tone(70, 6)], axis=1), "two notes")
    (folder / "broken.mp3").write_bytes(b"this is no sound" * 100)
    (folder / "broken.txt").write_text("broken")
    for path in folder.glob("*.txt"):
        genre = "drone" if path.stem.startswith("tone") else "song"
        path.with_suffix(".json").write_text(json.dumps({"genre": genre, "bpm": 60 + len(path.stem)}))
    return folder


def prepare(audio, out, *arguments):
    return main(["prepare", f"audio={audio}", *ARGUMENTS, *arguments, f"out={out}"])


def run_parts(audio, out, count, *arguments, numbers=None):
    for number in numbers or range(1, count + 1):
        assert prepare(audio, out, f"part={number}/{count}", *arguments) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("duplicates=drop", "near_duplicates=drop", "max_slices_per_track=1", "balance_column=genre"),
        ("near_duplicates=group", "measure=loudness", "caption_template={genre} {loudness}", "template_use=add"),
        ("writer=folder",),
    ],
    ids=["plain", "dropped, capped, balanced", "grouped, measured", "folder"],
)
def test_merged_parts_are_the_bytes_of_one_run(arguments, audio, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    assert prepare(audio, tmp_path / "one" / "dataset", *arguments, "license=cc0-1.0") == 0
    run_parts(audio, tmp_path / "many" / "dataset", 3, *arguments, "license=cc0-1.0")
    assert main(["prepare", "merge", f"out={tmp_path / 'many' / 'dataset'}"]) == 0
    one, many = files_of(tmp_path / "one" / "dataset"), files_of(tmp_path / "many" / "dataset")
    assert many.keys() == one.keys()
    assert [name for name in one if many[name] != one[name]] == []


@pytest.fixture(scope="module")
def parts(audio, tmp_path_factory):
    out = tmp_path_factory.mktemp("parts") / "dataset"
    run_parts(audio, out, 3)
    return out.with_name("dataset.parts")


@pytest.fixture
def own_parts(parts, tmp_path):
    """A copy of the parts, to be damaged."""
    return shutil.copytree(parts, tmp_path / "dataset.parts")


def refusal(capsys, *arguments):
    capsys.readouterr()
    assert main(["prepare", "merge", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    return error


def test_parts_share_the_work_and_one_that_is_done_does_nothing(audio, parts, capsys, monkeypatch):
    shares = [json.loads((folder / "part.json").read_text())["tracks"] for folder in sorted(parts.iterdir())]
    sources = [track["source"] for share in shares for track in share]
    assert len(sources) == len(set(sources)) == 15 and all(shares)
    monkeypatch.setattr(track_worker, "decode_audio", lambda path, *rest: pytest.fail("decoded again"))
    run_parts(audio, parts.with_name("dataset"), 3, numbers=[2])
    assert "2-of-3 is complete" in capsys.readouterr().out


def test_parts_in_several_folders_are_merged_by_name_in_any_order(audio, parts, own_parts, tmp_path):
    moved = [own_parts / "3-of-3", parts / "1-of-3", own_parts / "2-of-3"]
    assert main(["prepare", "merge", *map(str, moved), f"out={tmp_path / 'there'}"]) == 0
    assert prepare(audio, tmp_path / "there") == 0  # the whole command finds its dataset complete
    assert not (tmp_path / "there" / ".work").exists()


def test_a_killed_merge_resumes_and_a_finished_one_does_nothing(parts, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["prepare", "merge", str(parts), f"out={out}"]
    with monkeypatch.context() as patched:
        patched.setattr(
            "data_prep.output.folder.OutputFolder.finish", lambda output: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert main(arguments) == 3
    assert main(arguments) == 0
    whole = files_of(out)
    capsys.readouterr()
    assert main(arguments) == 0
    assert "is complete" in capsys.readouterr().out and files_of(out) == whole


def test_a_missing_part_is_named_with_the_command_that_makes_it(own_parts, tmp_path, capsys):
    shutil.rmtree(own_parts / "2-of-3")
    error = refusal(capsys, f"out={tmp_path / 'dataset'}")
    assert "missing: part 2/3; run riffusion prepare … part=2/3" in error
    assert not (tmp_path / "dataset").exists()


def test_no_parts_at_all_is_one_line(tmp_path, capsys):
    assert "dataset.parts: no such folder; make parts with" in refusal(capsys, f"out={tmp_path / 'dataset'}")
    assert "name the dataset folder" in refusal(capsys)


def test_an_unfinished_part_names_the_command_that_continues_it(own_parts, tmp_path, capsys):
    (own_parts / "3-of-3" / "part.json").unlink()
    error = refusal(capsys, f"out={tmp_path / 'dataset'}")
    assert "3-of-3: this part is unfinished; run its riffusion prepare command again with part=3/3" in error


def test_a_part_of_other_settings_is_named_with_the_key(audio, own_parts, tmp_path, capsys):
    run_parts(audio, tmp_path / "dataset", 3, "target_lufs=-20", "overwrite=true", numbers=[2])
    error = refusal(capsys, f"out={tmp_path / 'dataset'}")
    assert "target_lufs=-14.0 (now -20.0); make" in error and "2-of-3 again with the same settings" in error


def test_a_part_over_other_settings_is_refused(audio, own_parts, tmp_path, capsys):
    assert prepare(audio, tmp_path / "dataset", "part=1/3", "stride_s=2") == 2
    assert "1-of-3 was made with stride_s=null (now 2.0)" in capsys.readouterr().err


def test_parts_that_found_other_files_are_refused_and_fixed_by_running_them_again(audio, own_parts, tmp_path, capsys):
    more = shutil.copytree(audio, tmp_path / "audio")
    out = tmp_path / "own" / "dataset"
    run_parts(more, out, 2)
    write_tones(more, 8)
    run_parts(more, out, 2, numbers=[1])
    assert "found other files or captions than" in refusal(capsys, f"out={out}")
    run_parts(more, out, 2, numbers=[2])
    assert main(["prepare", "merge", f"out={out}"]) == 0
    assert prepare(more, tmp_path / "whole" / "dataset") == 0
    assert files_of(out) == files_of(tmp_path / "whole" / "dataset")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda parts: (parts / "1-of-3" / "part.json").write_text("{"), "part.json: damaged; delete it"),
        (lambda parts: shutil.copytree(parts / "1-of-3", parts / "again"), "are the same part; leave out one"),
        (lambda parts: (parts / "photos").mkdir(), "photos: not a part of a dataset"),
        (
            lambda parts: [path.unlink() for path in (parts / "1-of-3" / ".work" / "tracks").glob("*.arrow")],
            "1-of-3 lacks the slices of ",
        ),
    ],
    ids=["damaged", "twice", "foreign", "without slices"],
)
def test_a_damaged_or_foreign_part_is_one_clear_line(harm, message, own_parts, tmp_path, capsys):
    harm(own_parts)
    assert message in refusal(capsys, f"out={tmp_path / 'dataset'}")
    assert not (tmp_path / "dataset" / "stats.json").exists()


def test_parts_of_two_divisions_are_not_mixed(audio, own_parts, tmp_path, capsys):
    run_parts(audio, tmp_path / "dataset", 2, numbers=[1])
    assert "is one of 3 parts" in refusal(capsys, f"out={tmp_path / 'dataset'}")


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3"])
def test_an_impossible_part_is_refused(part, tmp_path, capsys):
    assert prepare(tmp_path, tmp_path / "out", f"part={part}") == 2
    assert f"part={part}: write number and count" in capsys.readouterr().err


def test_more_tracks_move_no_other_to_another_part_and_parts_are_like_in_size():
    parts = [part_of(f"album/{index}.wav", 8) for index in range(4000)]
    assert {parts.count(number) > 400 for number in range(1, 9)} == {True}
    assert part_of("album/7.wav", 8) == parts[7]

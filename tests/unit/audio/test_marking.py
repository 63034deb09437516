"""The mark of synthetic media: written into every format, read again, and kept by what works on files."""

from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import soundfile

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.convert import decode_images, encode_file
from riffusion_train.audio.image_file import save_image
from riffusion_train.audio.marking import SOUNDS, SOURCE_TYPE, XMP_TEXT, Mark, encode_image, read_mark
from riffusion_train.audio.read import load_audio
from riffusion_train.audio.write import read_tags, write_audio
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.runtime.errors import InputError

MARK = Mark('lap<t>op & "Ünïcode"\x07', "0123abcd", "fe98")
READ = Mark('lap<t>op & "Ünïcode" ', "0123abcd", "fe98")
TAGS = {"title": "a prompt", "comment": "é" * 9000, "date": "spring"}


def _tone() -> np.ndarray:
    return 0.5 * np.sin(np.arange(8001) / 9)[None].astype(np.float32)


@pytest.mark.parametrize("suffix", SOUNDS)
def test_a_marked_sound_says_so_and_keeps_its_samples_and_tags(tmp_path: Path, suffix: str) -> None:
    plain, marked = tmp_path / f"plain{suffix}", tmp_path / f"marked{suffix}"
    write_audio(plain, _tone(), 48000, TAGS)
    write_audio(marked, _tone(), 48000, TAGS, mark=MARK)
    assert read_mark(marked) == READ
    assert read_mark(plain) is None
    np.testing.assert_array_equal(soundfile.read(marked)[0], soundfile.read(plain)[0])
    np.testing.assert_array_equal(load_audio(marked).wav, load_audio(plain).wav)
    assert read_tags(marked) == read_tags(plain) == TAGS
    again = tmp_path / f"again{suffix}"
    write_audio(again, _tone(), 48000, TAGS, mark=MARK)
    if suffix in (".wav", ".flac", ".mp3"):  # a stream of Ogg has a number that is drawn anew
        assert again.read_bytes() == marked.read_bytes()


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".opus", ".mp3"])
def test_other_programs_find_the_source_type_by_its_name(tmp_path: Path, suffix: str) -> None:
    write_audio(tmp_path / f"a{suffix}", _tone(), 48000, mark=MARK)
    with av.open(str(tmp_path / f"a{suffix}")) as file:
        tags = file.metadata | file.streams.audio[0].metadata
    assert {name.upper(): text for name, text in tags.items()}["DIGITALSOURCETYPE"] == SOURCE_TYPE


def test_a_marked_wav_is_a_broadcast_wave_with_a_description(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", _tone(), 48000, mark=MARK)
    data = (tmp_path / "a.wav").read_bytes()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    at = data.index(b"bext")
    assert int.from_bytes(data[at + 4 : at + 8], "little") == 602
    assert data[at + 8 :].startswith(f"{SOURCE_TYPE}; model 0123abcd, dataset fe98".encode())


def test_images_carry_the_mark_in_both_formats(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.full((8, 8), 90, np.uint8))
    for kind in ("PNG", "JPEG"):
        path = tmp_path / f"a.{kind.lower()}"
        path.write_bytes(encode_image(picture, kind, MARK))
        assert read_mark(path) == READ
        path.write_bytes(encode_image(picture, kind, None))
        assert read_mark(path) is None


def test_decoding_a_marked_image_and_encoding_its_sound_keep_the_mark(tmp_path: Path) -> None:
    codec = load_preset("tiny")
    image = np.random.default_rng(0).integers(0, 255, (codec.n_mels, codec.width_px), np.uint8)
    save_image(tmp_path / "a.png", EncodedClip(image, 0.0), codec, {XMP_TEXT: MARK.xmp()})
    decoded = decode_images([tmp_path / "a.png"])
    assert decoded.mark == READ
    write_audio(tmp_path / "a.flac", decoded.wav, decoded.rate_hz, mark=decoded.mark)
    encode_file(tmp_path / "a.flac", tmp_path / "b.png", codec)
    assert read_mark(tmp_path / "b.png") == READ


def test_a_packet_that_another_program_wrote_anew_is_read() -> None:
    packet = Mark("m", "w").xmp().replace(' riffusion:model="m"', "").replace('\n  riffusion:model="m"', "")
    packet = packet.replace("/>\n</rdf:RDF>", "><riffusion:model>m</riffusion:model></rdf:Description>\n</rdf:RDF>")
    assert "<riffusion:model>" in packet
    assert Mark.from_xmp(packet) == Mark("m", "w")
    assert Mark.from_xmp(packet.replace("trainedAlgorithmicMedia", "digitalCapture")) is None
    assert Mark.from_xmp("<!DOCTYPE a [<!ENTITY b 'c'>]>" + packet) is None
    assert Mark.from_xmp("no packet") is None


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "a.ogg", "a.png"):
        with pytest.raises(InputError, match=name):
            read_mark(tmp_path / name)
        (tmp_path / name).write_bytes(b"nothing that is known")
        with pytest.raises(InputError, match=name):
            read_mark(tmp_path / name)
    with pytest.raises(InputError, match="choose from"):
        read_mark(tmp_path / "a.txt")

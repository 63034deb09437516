"""Images from elsewhere: other forms of pixels, damaged descriptions, sizes that cannot be."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo

from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.image_file import MAX_PIXELS, TEXT_KEY, load_image, save_image
from riffusion_train.config.spectrogram import SpectrogramConfig, load_preset, to_data
from riffusion_train.runtime.errors import InputError

TAGS: dict[int, Any] = {
    11000: 44100, 11005: 0, 11010: 10, 11020: 100, 11030: 400, 11040: 512, 11050: 0, 11060: 10000, 11070: 0.25,
    11080: 4e7,
}  # fmt: skip


def levels(height: int = 64, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 256, (height, width), dtype=np.uint8)


def saved(path: Path, image: PIL.Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def with_exif(path: Path, body: bytes) -> Path:
    exif = PIL.Image.Exif()
    exif.update(TAGS)
    saved(path, PIL.Image.fromarray(levels(512)), exif=exif)
    data = path.read_bytes()
    place = data.find(b"eXIf") - 4
    old = 12 + int.from_bytes(data[place : place + 4], "big")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    path.write_bytes(data[:place] + chunk + data[place + old :])
    return path


def with_tags(path: Path, **changed: Any) -> Path:
    exif = PIL.Image.Exif()
    exif.update(
        {tag: value for tag, value in (TAGS | {int(k[1:]): v for k, v in changed.items()}).items() if value != ""}
    )
    return saved(path, PIL.Image.fromarray(levels(512)), exif=exif)


def with_text(path: Path, text: str) -> Path:
    info = PngInfo()
    info.add_text(TEXT_KEY, text)
    return saved(path, PIL.Image.fromarray(levels(512)), pnginfo=info)


def described(max_value: Any = 1.0, **changed: Any) -> str:
    data = to_data(SpectrogramConfig())
    data["spectrogram"].update(changed)
    return json.dumps({**data, "max_value": max_value})


def test_a_jpeg_is_read_with_a_warning_of_what_it_costs(tmp_path: Path):
    loaded = load_image(saved(tmp_path / "a.jpg", PIL.Image.fromarray(levels())))
    assert np.abs(loaded.image.astype(int) - levels()).mean() < 15
    assert len(loaded.warnings) == 1
    assert "JPEG compression" in loaded.warnings[0]
    assert "keep PNG" in loaded.warnings[0]


def test_a_webp_is_warned_of_where_it_loses(tmp_path: Path):
    picture = PIL.Image.fromarray(levels()).convert("RGB")
    assert load_image(saved(tmp_path / "a.webp", picture, lossless=True)).warnings == ()
    assert "WebP compression" in load_image(saved(tmp_path / "b.webp", picture, quality=80)).warnings[0]


def test_a_palette_becomes_its_colours(tmp_path: Path):
    coarse = levels() // 32 * 32
    loaded = load_image(saved(tmp_path / "a.png", PIL.Image.fromarray(coarse).convert("P")))
    np.testing.assert_array_equal(loaded.image, coarse)
    assert f"palette of {len(np.unique(coarse))} colours" in loaded.warnings[0]


def test_transparent_parts_are_silence_whatever_colour_hides_below(tmp_path: Path):
    alpha = np.full((64, 20), 255, np.uint8)
    alpha[:, 10:] = 0
    picture = PIL.Image.fromarray(np.stack([np.zeros((64, 20), np.uint8), alpha], -1))
    loaded = load_image(saved(tmp_path / "a.png", picture))
    assert (loaded.image[:, :10] == 0).all()
    assert (loaded.image[:, 10:] == 255).all()
    assert "transparent" in loaded.warnings[0]


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path):
    picture = PIL.Image.fromarray(levels()).convert("RGBA")
    loaded = load_image(saved(tmp_path / "a.png", picture))
    np.testing.assert_array_equal(loaded.image, levels())
    assert loaded.warnings == ()


def test_16_bit_levels_are_rounded_to_8(tmp_path: Path):
    fine = np.minimum(levels().astype(np.int32) * 257 + 100, 65535).astype(np.uint16)
    loaded = load_image(saved(tmp_path / "a.png", PIL.Image.fromarray(fine)))
    np.testing.assert_array_equal(loaded.image, levels())
    assert "more than 8 bits" in loaded.warnings[0]


@pytest.mark.parametrize("full", [1.0, 255.0, 65535.0])
def test_float_levels_are_taken_by_their_range(tmp_path: Path, full: float):
    picture = PIL.Image.fromarray((levels().astype(np.float32) / 255 * full).astype(np.float32))
    loaded = load_image(saved(tmp_path / "a.tiff", picture))
    assert np.abs(loaded.image.astype(int) - levels()).max() <= 1


def test_black_and_white_and_moving_images_are_warned_of(tmp_path: Path):
    assert (
        "all but two levels"
        in load_image(saved(tmp_path / "a.png", PIL.Image.fromarray(levels()).convert("1"))).warnings[0]
    )
    pictures = [PIL.Image.fromarray(levels() // part) for part in (1, 2)]
    moving = load_image(saved(tmp_path / "b.gif", pictures[0], save_all=True, append_images=pictures[1:]))
    assert any("several images" in warning for warning in moving.warnings)


def test_an_image_drawn_bright_on_black_is_warned_of(tmp_path: Path):
    loaded = load_image(saved(tmp_path / "a.png", PIL.Image.fromarray(255 - np.full((64, 20), 240, np.uint8))))
    assert "invert it" in loaded.warnings[0]


@pytest.mark.parametrize("size", [(MAX_PIXELS // 512 + 1, 512), (20_000, 20_000), (60_000, 60_000), (2_000_000, 1)])
def test_a_huge_image_is_refused_before_it_is_unpacked(tmp_path: Path, size: tuple[int, int]):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(InputError, match=r"bomb\.png: .*px.*cut it into slices") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_an_image_too_large_to_read_is_not_written(tmp_path: Path):
    image = np.broadcast_to(np.uint8(255), (512, MAX_PIXELS // 512 + 1))
    with pytest.raises(InputError, match="slices=true"):
        save_image(tmp_path / "a.png", EncodedClip(image, 1.0), SpectrogramConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_png_is_refused(tmp_path: Path):
    path = saved(tmp_path / "half.png", PIL.Image.fromarray(levels(512, 512)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"half\.png: cannot be read as an image"):
        load_image(path)


@pytest.mark.parametrize("body", [b"no exif at all", b"II*\0\x08\0\0\0\xff\xff", b"II*\0"])
def test_corrupt_exif_leaves_an_image_that_names_no_codec(tmp_path: Path, body: bytes):
    loaded = load_image(with_exif(tmp_path / "a.png", body))
    assert loaded.config is None
    assert loaded.warnings == ("its EXIF data is corrupt",)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"t11000": 0}, "do not describe a codec"),
        ({"t11000": 2**31}, "cannot be right"),
        ({"t11000": "fast"}, "do not describe a codec"),
        ({"t11010": ""}, "are incomplete"),
        ({"t11030": 10**7}, "n_fft="),
        ({"t11040": 256}, r"is 512 px high, but its EXIF tags 11000 to 11080 say 256: it was resized or cropped"),
        ({"t11070": -1.0}, r"power=-1.0"),
        ({"t11080": float("nan")}, "max_value=nan"),
    ],
)
def test_wrong_exif_is_one_line_with_the_fix_and_a_preset_overrides_it(
    tmp_path: Path, changed: dict[str, Any], part: str
):
    path = with_tags(tmp_path / "a.png", **changed)
    with pytest.raises(InputError, match=part) as caught:
        load_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("preset=")
    assert "\n" not in str(caught.value)
    loaded = load_image(path, use_description=False)
    assert loaded.config is None
    assert len(loaded.warnings) == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a spectrogram description"),
        ('{"schema_version": 1, "spectrogram": 5}', "must be an object"),
        (described(n_fft=10**9), "n_fft=1000000000"),
        (described(n_fft=1 << 18, n_mels=8192), "cannot be right"),
        (described(n_mels="many"), "n_mels must be a number, not 'many'"),
        (described(hop_length=0), "hop_length=0"),
        (described(f_max_hz=float("inf")), "f_max_hz=inf"),
        (described(max_value="loud"), "max_value=nan"),
        (described(max_value=-1.0), r"max_value=-1.0"),
        (described(n_mels=100), "say 100: it was resized"),
    ],
)
def test_a_damaged_description_is_one_line(tmp_path: Path, text: str, part: str):
    with pytest.raises(InputError, match=part) as caught:
        load_image(with_text(tmp_path / "a.png", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["hifi", "small", "tiny"])
def test_what_is_saved_is_found_right(tmp_path: Path, preset: str):
    config = load_preset(preset)
    save_image(tmp_path / "a.png", EncodedClip(levels(config.n_mels), 0.0), config)
    loaded = load_image(tmp_path / "a.png")
    assert (loaded.config, loaded.max_value, loaded.warnings) == (config, 0.0, ())

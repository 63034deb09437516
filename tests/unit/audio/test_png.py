import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.sounds import noise, tone

from riffusion_train.audio.codec import make_codec
from riffusion_train.audio.image_file import png_bytes
from riffusion_train.config.spectrogram import load_preset


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([None, 3]), st.integers(0, 2**32 - 1), st.booleans())
def test_every_image_comes_back_as_it_was(
    height: int, width: int, colours: int | None, seed: int, smooth: bool
) -> None:
    shape = (height, width) if colours is None else (height, width, colours)
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    if smooth:
        image = np.cumsum(image // 64, axis=1).astype(np.uint8)
    with Image.open(io.BytesIO(png_bytes(image))) as file:
        assert file.mode == ("L" if colours is None else "RGB")
        assert np.array_equal(np.asarray(file), image)


def test_a_view_that_is_not_in_one_piece_is_written_as_it_looks() -> None:
    whole = np.arange(64 * 64, dtype=np.uint32).astype(np.uint8).reshape(64, 64)
    view = whole[::-2, 1::3]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(view)))), view)


def test_a_damaged_byte_is_noticed_by_the_checksums() -> None:
    png = bytearray(png_bytes(np.full((8, 8), 7, np.uint8)))
    png[45] ^= 1
    with pytest.raises((SyntaxError, OSError, zlib.error)), Image.open(io.BytesIO(bytes(png))) as file:
        file.load()


def test_rows_are_filtered_so_that_they_pack_nearly_as_well_as_pillows() -> None:
    codec = make_codec(load_preset("small"))
    plucked = tone(440.0, codec.clip_s, codec.rate_hz) * np.exp(
        -3 * (np.arange(codec.clip_samples) / codec.rate_hz % 0.25)
    )
    image = codec.encode(plucked + noise(codec.clip_s, codec.rate_hz, amplitude=0.01)).image
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    assert len(png_bytes(image)) < 1.05 * len(sink.getvalue())
    assert len(png_bytes(image)) < 0.8 * image.size

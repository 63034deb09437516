import dataclasses
import functools
import itertools

import numpy as np
import pytest
from support.sounds import noise, tone

from riffusion_train.audio.codec import UNKNOWN_LEVEL_PEAK, SpectrogramCodec, StreamingDecoder, make_codec
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.runtime.errors import InputError


@functools.cache
def codec_of(preset: str) -> SpectrogramCodec:
    return make_codec(load_preset(preset))


@functools.cache
def music(rate_hz: int) -> np.ndarray:
    """Three seconds of two gliding tones and soft noise, as two channels."""
    time_s = np.arange(3 * rate_hz) / rate_hz
    glides = [0.2 * np.sin(2 * np.pi * (f * time_s + 30 * time_s**2)) for f in (300.0, 1300.0)]
    return np.stack(glides).astype(np.float32) + noise(3.0, rate_hz, amplitude=0.003)


def streamed(codec: SpectrogramCodec, image: np.ndarray, widths: list[int], **options: object) -> list[np.ndarray]:
    decoder = StreamingDecoder(codec, quality="draft", **options)  # type: ignore[arg-type]
    edges = [0, *np.cumsum(widths), image.shape[1]]
    pieces = [decoder.push(image[:, start:end]) for start, end in itertools.pairwise(edges) if end > start]
    return [*pieces, decoder.flush()]


@pytest.mark.parametrize(
    ("preset", "widths"), [("hifi", [64, 64, 1, 2, 90]), ("riffusion_v1", [100, 30, 80]), ("hifi_stereo", [128])]
)
def test_chunks_join_without_a_gap(preset: str, widths: list[int]):
    codec = codec_of(preset)
    wav = music(codec.rate_hz)
    encoded = codec.encode_long(wav)
    pieces = streamed(codec, encoded.image, widths, max_value=encoded.max_value)
    sound = np.concatenate(pieces, 1)
    whole = codec.decode(encoded.image, encoded.max_value, quality="draft")
    assert sound.shape == whole.shape
    # A click is a jump in the second difference that the sound elsewhere does not have.
    jumps = np.abs(np.diff(sound, 2)).max(0)
    seams = [edge for edge in np.cumsum([piece.shape[1] for piece in pieces])[:-1] if 8 < edge < sound.shape[1] - 8]
    assert seams
    for seam in seams:
        assert jumps[seam - 6 : seam + 6].max() <= np.abs(np.diff(whole, 2)).max() * 1.1
    # Nor does the picture at the seams lie further from the original than elsewhere, as it would with a phase cut.
    again = codec.encode_long(sound).image.astype(int)
    error = np.abs(again - encoded.image).reshape(*again.shape[:2], -1).mean((0, 2))
    columns = [seam // codec.config.hop_length + shift for seam in seams for shift in (-2, 0, 2)]
    inside = [column for column in columns if 20 < column < len(error) - 20]
    assert error[inside].mean() < 1.5 * error[20:-20].mean() + 0.5


def test_every_division_gives_the_documented_length():
    codec = codec_of("hifi")
    image = codec.encode_long(music(44100)[:1, :40000]).image
    for widths in ([1] * 12, [9], [image.shape[1]], [image.shape[1] - 1]):
        pieces = streamed(codec, image, widths)
        assert sum(piece.shape[1] for piece in pieces) == (image.shape[1] - 1) * 441


def test_streaming_is_deterministic_and_waits_for_two_windows():
    codec = codec_of("hifi")
    image = codec.encode_long(music(44100)[:, :40000]).image
    first, again = (streamed(codec, image, [30, 30]) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    decoder = StreamingDecoder(codec, quality="draft")
    assert decoder.push(image[:, : decoder.columns_needed - 1]).shape == (1, 0)
    assert decoder.push(image[:, :1]).shape == (1, 441)


def test_an_unknown_level_is_set_by_the_first_piece_that_is_heard():
    codec = make_codec(load_preset("small"))
    image = codec.encode_long(tone(440.0, 4.0, codec.rate_hz)).image
    white = np.full((128, 30), 255, np.uint8)
    pieces = streamed(codec, np.concatenate([white, image], 1), [30, 60])
    assert not pieces[0].any()
    assert np.abs(pieces[1]).max() == pytest.approx(UNKNOWN_LEVEL_PEAK, rel=1e-4)


def test_an_inverter_that_cannot_go_on_and_an_image_that_does_not_fit_are_refused():
    with pytest.raises(InputError, match="stream with pghi or fast_griffin_lim"):
        StreamingDecoder(codec_of("hifi"), inverter="griffin_lim")
    with pytest.raises(InputError, match="512 px high"):
        StreamingDecoder(codec_of("hifi")).push(np.zeros((64, 20), np.uint8))


def test_nothing_pushed_is_nothing_heard():
    assert StreamingDecoder(codec_of("hifi")).flush().shape == (1, 0)


def test_a_long_image_is_decoded_in_chunks_like_a_short_one(monkeypatch: pytest.MonkeyPatch):
    codec = codec_of("small")
    encoded = codec.encode_long(noise(4.0, codec.rate_hz) + tone(500.0, 4.0, codec.rate_hz))
    whole = codec.decode(encoded.image, encoded.max_value)
    monkeypatch.setattr("riffusion_train.audio.decoder._CHUNK_COLUMNS", 24)
    pieces = codec.decode(encoded.image, encoded.max_value)
    assert pieces.shape == whole.shape
    assert not np.array_equal(pieces, whole)
    errors = [np.abs(codec.encode_long(wav).image.astype(int) - encoded.image).mean() for wav in (whole, pieces)]
    assert errors[1] < errors[0] + 0.5


def test_neighbours_are_stitched_by_overlap():
    codec = codec_of("small")
    wav = noise(6.0, codec.rate_hz) * np.linspace(0.1, 1.0, 6 * codec.rate_hz, dtype=np.float32)
    whole = codec.encode_long(wav)
    hop, overlap = 882, 10
    width = 60
    clips = [codec.encode_long(wav[:, start * hop : (start + width) * hop]) for start in (0, width - overlap + 1)]
    joined = codec.crossfade(clips, overlap)
    assert joined.image.shape[1] == sum(clip.image.shape[1] for clip in clips) - overlap
    difference = np.abs(joined.image.astype(int) - codec.encode_long(wav[:, : (joined.image.shape[1] - 1) * hop]).image)
    assert difference[:, 5:-5].mean() < 6
    assert joined.max_value <= whole.max_value
    with pytest.raises(InputError, match="overlap_px=40 must be 0 to 30"):
        codec.crossfade(clips, 40)
    with pytest.raises(InputError, match="at least one"):
        codec.crossfade([], 4)


def test_stitching_keeps_an_unknown_level_unknown_and_the_phase_between_channels():
    codec = codec_of("small")
    unknown = dataclasses.replace(codec.encode_long(noise(1.0, codec.rate_hz)), max_value=0.0)
    assert codec.crossfade([unknown, unknown], 4).max_value == 0.0
    stereo = codec_of("hifi_stereo")
    clip = stereo.encode_long(music(44100)[:, :30000])
    joined = stereo.crossfade([clip, clip], 0)
    np.testing.assert_allclose(joined.image.astype(int), np.concatenate([clip.image, clip.image], 1), atol=1)

import json
import struct

import numpy as np
import pytest

from riffusion_train.audio.marking import Mark
from riffusion_train.player.segments import Segment, SegmentBuffer, encode_png, image_between, samples_between
from riffusion_train.player.settings import ClipSpec, Settings

SAMPLES = 800
HOP = 100


def segment(index: int) -> Segment:
    pcm = (np.arange(SAMPLES) + index * SAMPLES).astype("<i2").tobytes()
    image = np.tile(((np.arange(8) + 8 * index) % 256).astype(np.uint8), (4, 1))
    spec = ClipSpec(prompt="a", prompt_to="b", alpha=0.5)
    return Segment(index, index * SAMPLES, SAMPLES, pcm, encode_png(image, Mark("m", "f")), spec, Settings(prompt="a"))


def filled(count: int, max_samples: int = 10**9, max_bytes: int = 10**9) -> SegmentBuffer:
    buffer = SegmentBuffer(max_samples, max_bytes)
    for index in range(count):
        buffer.append(segment(index))
    return buffer


def test_the_buffer_keeps_so_many_samples_and_drops_the_oldest():
    buffer = filled(10, max_samples=3 * SAMPLES)
    assert (buffer.first_index, buffer.next_index, len(buffer)) == (7, 10, 3)
    assert (buffer.first_sample, buffer.end_sample) == (7 * SAMPLES, 10 * SAMPLES)
    assert buffer.get(6) is None and buffer.get(10) is None
    assert buffer.get(7).index == 7


def test_the_buffer_stays_within_its_memory_but_keeps_the_newest():
    one = segment(0).size
    assert filled(50, max_bytes=4 * one + 100).bytes <= 4 * one + 100
    buffer = filled(5, max_bytes=1)
    assert (len(buffer), buffer.first_index) == (1, 4)


def test_a_segment_out_of_order_is_refused():
    buffer = filled(3)
    with pytest.raises(ValueError, match="does not follow"):
        buffer.append(segment(5))


def test_any_range_of_samples_comes_back_exactly():
    buffer = filled(4)
    for start, stop in ((0, 1), (799, 801), (750, 2450), (0, 3200), (1600, 1600)):
        result = samples_between(buffer.between(start, stop), start, stop, 1)[:, 0]
        assert result.tolist() == list(range(start, stop))


def test_the_image_of_a_range_has_every_column_that_is_heard_in_it():
    buffer = filled(3)
    for start, stop, columns in ((0, 2400, range(24)), (150, 950, range(1, 10)), (800, 1600, range(8, 16))):
        result = image_between(buffer.between(start, stop), start, stop, HOP)
        assert result[0].tolist() == list(columns)


def test_a_frame_says_what_is_in_it():
    one = segment(3)
    magic, index, pcm_bytes, png_bytes = struct.unpack_from("<4sIII", one.frame())
    assert (magic, index) == (b"RIFS", 3)
    assert one.frame()[16 : 16 + pcm_bytes] == one.pcm
    assert one.frame()[16 + pcm_bytes :] == one.png and png_bytes == len(one.png)
    announced = json.loads(one.announcement(discontinuity=True))
    assert (announced["index"], announced["start_sample"], announced["prompt_from"], announced["prompt_to"]) == (
        3,
        2400,
        "a",
        "b",
    )
    assert announced["discontinuity"] is True and announced["share"]["prompt"] == "a"

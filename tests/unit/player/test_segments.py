import json
import struct

import numpy as np
import pytest

from riffusion_train.player.segments import Segment, SegmentBuffer, encode_png, picture_between, samples_between
from riffusion_train.player.settings import ClipSpec, Settings

SAMPLES = 800
HOP = 100


def segment(index: int) -> Segment:
    pcm = (np.arange(SAMPLES) + index * SAMPLES).astype("<i2").tobytes()
    picture = np.tile(((np.arange(8) + 8 * index) % 256).astype(np.uint8), (4, 1))
    return Segment(index, index * SAMPLES, SAMPLES, pcm, encode_png(picture), ClipSpec("a", "b", 0.5), Settings("a"))


def filled(count: int, most_samples: int = 10**9, most_bytes: int = 10**9) -> SegmentBuffer:
    ring = SegmentBuffer(most_samples, most_bytes)
    for index in range(count):
        ring.append(segment(index))
    return ring


def test_the_ring_holds_so_many_samples_and_lets_the_oldest_go():
    ring = filled(10, most_samples=3 * SAMPLES)
    assert (ring.first_index, ring.next_index, len(ring)) == (7, 10, 3)
    assert (ring.first_sample, ring.end_sample) == (7 * SAMPLES, 10 * SAMPLES)
    assert ring.get(6) is None and ring.get(10) is None
    assert ring.get(7).index == 7


def test_the_ring_takes_no_more_memory_than_it_may_but_keeps_the_newest():
    one = segment(0).size
    assert filled(50, most_bytes=4 * one + 100).bytes <= 4 * one + 100
    ring = filled(5, most_bytes=1)
    assert (len(ring), ring.first_index) == (1, 4)


def test_a_segment_out_of_order_is_refused():
    ring = filled(3)
    with pytest.raises(ValueError, match="does not follow"):
        ring.append(segment(5))


def test_any_range_of_samples_comes_back_exactly():
    ring = filled(4)
    for start, stop in ((0, 1), (799, 801), (750, 2450), (0, 3200), (1600, 1600)):
        found = samples_between(ring.between(start, stop), start, stop, 1)[:, 0]
        assert found.tolist() == list(range(start, stop))


def test_the_picture_of_a_range_has_every_column_that_is_heard_in_it():
    ring = filled(3)
    for start, stop, columns in ((0, 2400, range(24)), (150, 950, range(1, 10)), (800, 1600, range(8, 16))):
        found = picture_between(ring.between(start, stop), start, stop, HOP)
        assert found[0].tolist() == list(columns)


def test_a_frame_says_what_is_in_it():
    one = segment(3)
    magic, index, pcm_bytes, png_bytes = struct.unpack_from("<4sIII", one.frame())
    assert (magic, index) == (b"RIFS", 3)
    assert one.frame()[16 : 16 + pcm_bytes] == one.pcm
    assert one.frame()[16 + pcm_bytes :] == one.png and png_bytes == len(one.png)
    said = json.loads(one.announcement(discontinuity=True))
    assert (said["index"], said["start_sample"], said["prompt_from"], said["prompt_to"]) == (3, 2400, "a", "b")
    assert said["discontinuity"] is True and said["share"]["prompt"] == "a"

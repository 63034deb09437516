from pathlib import Path

from riffusion_train.demo.run import Sample, _Data, round_robin


def test_clips_of_one_prompt_take_turns_with_those_of_others() -> None:
    samples = [Sample(prompt, Path(f"{index:04d}"), index) for index, prompt in enumerate("aaabbc")]
    assert round_robin(samples) == [0, 3, 5, 1, 4, 2]


class Captions:
    """Slices with one caption each, as `SpectrogramDataset` gives them."""

    def __init__(self, captions: str) -> None:
        self._captions = captions

    def __len__(self) -> int:
        return len(self._captions)

    def captions(self, index: int) -> list[str]:
        return [self._captions[index]]


def chosen(held_out: str, trained: str, count: int) -> str:
    """Return the chosen captions; those of trained slices in capitals."""
    data = _Data(Captions(held_out), Captions(trained))  # type: ignore[arg-type]
    return "".join(caption if is_held_out else caption.upper() for caption, _, is_held_out in data.choose(count))


def test_prompts_are_distinct_captions_held_out_ones_first() -> None:
    assert chosen("abc", "def", 2) == "ab"
    assert chosen("aaabbb", "ccdd", 3) == "abC"
    assert chosen("aaabbb", "ccda", 8) == "abCDaa"
    assert chosen("ab", "cdef", 5) == "abCDE"

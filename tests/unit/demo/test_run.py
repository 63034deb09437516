from pathlib import Path

from riffusion_train.demo.run import Sample, round_robin


def test_clips_of_one_prompt_take_turns_with_those_of_others() -> None:
    samples = [Sample(prompt, Path(f"{index:04d}"), index) for index, prompt in enumerate("aaabbc")]
    assert [sample.index for sample in round_robin(samples)] == [0, 3, 5, 1, 4, 2]

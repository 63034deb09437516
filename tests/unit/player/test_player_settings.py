import dataclasses
import json

import pytest

from riffusion_train.player.settings import ClipSpec, Limits, Settings, SettingsReader
from riffusion_train.runtime.errors import InputError

READER = SettingsReader(Limits(), {"known"}.__contains__)


def test_a_shared_moment_comes_back_from_json_as_it_was():
    settings = Settings(
        "a", "b", 0.333333, "noise", 2**53 - 1, 12.666667, 4.5, 0.6, "pad", "known", 7, 3, ClipSpec("a", "b", 0.25)
    )
    text = json.dumps(dataclasses.asdict(settings))
    assert READER.changed(Settings(), json.loads(text)) == settings


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"prompt": "x" * 301}, "prompt: 301 characters are too many"),
        ({"prompt": 3}, "prompt: must be a text"),
        ({"prompt": "a\x00b"}, "cannot be printed"),
        ({"prompt": "a\u202eb"}, "cannot be printed"),
        ({"seed": -1}, "seed: must be a whole number from 0"),
        ({"seed": 1.5}, "seed: must be a whole number"),
        ({"seed": True}, "seed: must be a whole number"),
        ({"seed": 2**64}, "seed: must be a whole number"),
        ({"strength": 1.01}, "strength: must be a number from 0 to 1"),
        ({"alpha": float("nan")}, "alpha: must be a number"),
        ({"guidance_scale": 1e9}, "guidance_scale: must be a number from 1 to 30"),
        ({"num_inference_steps": 0}, "num_inference_steps: must be a whole number from 1 to 100"),
        ({"clips": 65}, "clips: must be a whole number from 1 to 64"),
        ({"seed_image": "../../etc/passwd"}, "seed_image: is unknown; choose from: beats"),
        ({"seed_upload": "unknown"}, "seed_upload: is not here"),
        ({"before": []}, "before: must be an object"),
        ({"before": {"clips": 3}}, "clips: is no setting"),
        ({"volume": 11}, "volume: is no setting; choose from: prompt"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(data: dict[str, object], said: str):
    with pytest.raises(InputError) as error:
        READER.changed(Settings(), data)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_white_space_of_a_prompt_is_tidied():
    assert READER.prompt("prompt", "  slow \n piano\t") == "slow piano"


def test_a_page_is_shown_no_more_than_it_can_set():
    assert set(Settings().public()) == {
        "prompt", "negative_prompt", "seed", "place", "guidance_scale", "strength", "seed_image", "seed_upload",
        "num_inference_steps", "clips",
    }  # fmt: skip

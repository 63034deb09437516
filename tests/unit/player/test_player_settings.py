import json
from pathlib import Path
from typing import Any

import pytest

from riffusion_train import player
from riffusion_train.player.bodies import typescript_types
from riffusion_train.player.settings import ClipSpec, Settings, apply_changes, settings_schema
from riffusion_train.runtime.errors import InputError


def read(data: dict[str, Any]) -> Settings:
    return apply_changes(Settings(), data, {"known"}.__contains__)


def test_a_shared_moment_comes_back_from_json_as_it_was():
    settings = Settings(
        prompt="a", prompt_to="b", alpha=0.333333, negative_prompt="noise", seed=2**53 - 1, place=12.666667,
        guidance_scale=4.5, strength=0.6, seed_image="pad", seed_upload="known", num_inference_steps=7, clips=3,
        before=ClipSpec(prompt="a", prompt_to="b", alpha=0.25),
    )  # fmt: skip
    assert read(json.loads(json.dumps(settings.model_dump()))) == settings


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"prompt": "x" * 301}, "prompt: 301 characters are too many"),
        ({"prompt": 3}, "prompt: must be text"),
        ({"prompt": "(a:1e999)"}, "prompt: 'a' has the weight inf, which must be from -100 to 100"),
        ({"negative_prompt": "(a:-1e30)"}, "negative_prompt: 'a' has the weight -1e+30"),
        ({"prompt": "a\x00b"}, "cannot be printed"),
        ({"prompt": "a\u202eb"}, "cannot be printed"),
        ({"seed": -1}, "seed: must be a whole number from 0"),
        ({"seed": 1.5}, "seed: must be a whole number"),
        ({"seed": True}, "seed: must be a whole number"),
        ({"seed": 2**64}, "seed: must be a whole number"),
        ({"strength": 1.01}, "strength: must be a number from 0 to 1"),
        ({"alpha": float("nan")}, "alpha: must be a number"),
        ({"guidance_scale": 1e9}, "guidance_scale: must be a number from 1 to 30"),
        ({"guidance_from": 1001}, "guidance_from: must be a whole number from 0 to 1000"),
        ({"guidance_rescale": -1}, "guidance_rescale: must be a number from 0 to 1"),
        ({"num_inference_steps": 0}, "num_inference_steps: must be a whole number from 1 to 100"),
        ({"clips": 65}, "clips: must be a whole number from 1 to 64"),
        ({"seed_image": "../../etc/passwd"}, "seed_image: is unknown; choose from: beats"),
        ({"seed_upload": "unknown"}, "seed_upload: does not exist"),
        ({"before": []}, "before: must be an object"),
        ({"before": {"clips": 3}}, "clips: is not a setting"),
        ({"volume": 11}, "volume: is not a setting; choose from: prompt"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(data: dict[str, object], message: str):
    with pytest.raises(InputError) as error:
        read(data)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_whitespace_in_a_prompt_is_collapsed():
    assert read({"prompt": "  slow \n piano\t"}).prompt == "slow piano"


def test_a_page_is_shown_no_more_than_it_can_set():
    assert set(Settings().public()) == {
        "prompt", "negative_prompt", "seed", "place", "guidance_scale", "strength", "seed_image", "seed_upload",
        "num_inference_steps", "clips", "guidance_from", "guidance_rescale", "prompt_weight", "mix", "loras",
    }  # fmt: skip


def test_only_what_is_given_changes_and_a_whole_number_may_be_written_as_a_float():
    before = Settings(prompt="a", seed=5, clips=2)
    assert apply_changes(before, {"seed": 7.0}, lambda id: False) == Settings(prompt="a", seed=7, clips=2)


def test_the_schema_has_what_the_page_builds_its_fields_from():
    schema = settings_schema()
    assert set(schema) == set(Settings().public())
    sliders = {name: field["slider"] for name, field in schema.items() if field.get("control") == "slider"}
    assert set(sliders) == {
        "guidance_scale", "strength", "clips", "num_inference_steps", "guidance_from", "guidance_rescale",
    }  # fmt: skip
    for name, slider in sliders.items():
        assert schema[name]["minimum"] <= slider["minimum"] < slider["maximum"] <= schema[name]["maximum"]
        assert slider["step"] > 0 and schema[name]["title"] != name


def test_the_committed_typescript_types_are_those_of_the_models():
    committed = Path(player.__file__).parent / "static" / "types.d.ts"
    assert committed.read_text(encoding="utf-8") == typescript_types()  # python -m riffusion_train.player.bodies

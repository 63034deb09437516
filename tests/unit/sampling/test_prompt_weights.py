import pytest

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.text import parse_weights


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("slow piano", [("slow piano", 1.0)]),
        ("(loud:1.3) drums", [("loud", 1.3), (" drums", 1.0)]),
        ("a (warm) pad", [("a ", 1.0), ("warm", 1.1), (" pad", 1.0)]),
        ("[far] choir", [("far", 1 / 1.1), (" choir", 1.0)]),
        ("((twice))", [("twice", 1.1 * 1.1)]),
        ("(a (b:2):0.5)", [("a ", 0.5), ("b", 1.0)]),
        (r"drums \(live\)", [("drums (live)", 1.0)]),
        ("open (to the end", [("open ", 1.0), ("to the end", 1.1)]),
        ("closes nothing) here", [("closes nothing) here", 1.0)]),
        ("ratio 3:4", [("ratio 3:4", 1.0)]),
        ("(a:-1.5e0) b", [("a", -1.5), (" b", 1.0)]),
        ("", []),
    ],
)
def test_brackets_say_how_much_a_word_weighs(prompt: str, parts: list[tuple[str, float]]) -> None:
    parsed = parse_weights(prompt)
    assert [text for text, _ in parsed] == [text for text, _ in parts]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize("prompt", ["(a:1e999)", "b (a:-1e30)", "(a:101)", "(" * 50 + "a", "((a:1e999):0)"])
def test_a_weight_that_no_prompt_needs_is_refused_in_one_line(prompt: str) -> None:
    with pytest.raises(InputError, match=r"^prompt: 'a' has the weight .* must be from -100 to 100") as error:
        parse_weights(prompt)
    assert "\n" not in str(error.value)

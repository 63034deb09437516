import pytest
import torch
from support.models import nano_components

from riffusion_train.sampling.text import TextConditions


@pytest.fixture(scope="module")
def texts() -> TextConditions:
    parts = nano_components()
    return TextConditions(parts.tokenizer, parts.text_encoder.eval())


def test_a_plain_prompt_gives_the_encoders_own_states(texts: TextConditions) -> None:
    ids = texts._tokenizer(["slow piano, brushes"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = texts._encoder(ids).last_hidden_state[0]
    assert torch.equal(texts.states("slow piano, brushes"), expected)


def test_a_weight_turns_a_word_up_and_leaves_the_size(texts: TextConditions) -> None:
    plain, heavy, light = (texts.states(text) for text in ("slow piano", "slow (piano:1.5)", "slow (piano:0.5)"))
    for weighted in (heavy, light):
        assert float(weighted.norm()) == pytest.approx(float(plain.norm()), rel=1e-5)

    def share(states: torch.Tensor) -> float:
        return float(states[2].norm() / states[1].norm())

    assert share(heavy) == pytest.approx(1.5 * share(plain), rel=1e-4)
    assert share(light) == pytest.approx(0.5 * share(plain), rel=1e-4)


def test_words_beyond_the_encoders_length_act(texts: TextConditions) -> None:
    beginning = "drum " * 80
    one, other = (texts.states(beginning + end) for end in ("piano", "choir"))
    assert one.shape == (154, 16)
    assert torch.equal(one[:77], other[:77])
    assert not torch.equal(one[77:], other[77:])


def test_prompt_and_negative_prompt_have_one_length(texts: TextConditions) -> None:
    condition = texts.condition("drum " * 80, "noise")
    assert condition.positive.shape == condition.negative.shape == (154, 16)
    assert torch.equal(condition.negative[77:], texts.states(""))


def test_each_distinct_text_is_encoded_once() -> None:
    parts = nano_components()
    calls = []
    parts.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    texts = TextConditions(parts.tokenizer, parts.text_encoder.eval())
    for _ in range(3):
        texts.equal_lengths([("a", "", 7.0), ("b", "", 7.0), ("a", "b", 3.0)])
    assert len(calls) == 3  # a, b and the empty text

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riffusion_train.dataset.captions import CaptionDraws, split_tags

TAGS = "zuzu style, slow, piano, low register, no drums, 1,000 hands"


def drawn(draws: CaptionDraws, captions: list[str], count: int = 200) -> list[str]:
    return [draws.draw(captions, step, position) for step in range(count // 4) for position in range(4)]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters=".!?"), max_size=8), max_size=8), st.integers(0, 9)
)
def test_a_shuffled_caption_holds_the_same_tags(parts: list[str], step: int) -> None:
    caption = ",".join(parts)
    shuffled = CaptionDraws(seed=1, shuffle_tags=True).draw([caption], step, 3)
    assert Counter(split_tags(shuffled)) == Counter(split_tags(caption))


@given(st.lists(st.text("abc", min_size=1), min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 8))
def test_tags_are_left_out_of_a_caption_but_never_all_and_never_the_first_ones(
    tags: list[str], step: int, keep_first_tags: int
) -> None:
    draws = CaptionDraws(seed=1, tag_dropout=0.9, keep_first_tags=keep_first_tags)
    left = split_tags(draws.draw([", ".join(tags)], step, 0))
    assert left and not Counter(left) - Counter(tags)
    assert left[:keep_first_tags] == tags[: min(keep_first_tags, len(left))]


def test_by_default_a_caption_is_trained_with_as_it_stands() -> None:
    odd = " a ,b,, c."
    assert set(drawn(CaptionDraws(seed=0), [odd])) == {odd}
    assert CaptionDraws(seed=0, num_variants=8).variants(odd) == [odd]


def test_shuffling_gives_many_orders_and_keeps_the_first_tags() -> None:
    texts = drawn(CaptionDraws(seed=0, shuffle_tags=True, keep_first_tags=1), [TAGS])
    assert all(text.startswith("zuzu style, ") and "1,000 hands" in text for text in texts)
    assert len(set(texts)) > 50


def test_a_tag_is_left_out_as_often_as_asked() -> None:
    texts = drawn(CaptionDraws(seed=0, tag_dropout=0.25), [TAGS], count=1000)
    assert 0.7 < sum("piano" in text for text in texts) / len(texts) < 0.8
    order = split_tags(TAGS)
    assert all(
        [order.index(tag) for tag in split_tags(text)] == sorted(map(order.index, split_tags(text))) for text in texts
    )


@pytest.mark.parametrize("sentence", ["A slow, sad piece, for piano.", "slow, then fast!", "piano, or organ? "])
def test_sentences_stay_as_they_are(sentence: str) -> None:
    assert set(drawn(CaptionDraws(seed=0, shuffle_tags=True, tag_dropout=0.5), [sentence])) == {sentence}


def test_captions_are_drawn_by_their_weights_and_the_last_weight_holds_for_the_rest() -> None:
    counts = Counter(drawn(CaptionDraws(seed=0, weights=[6, 0, 2]), ["a", "b", "c", "d"], count=1000))
    assert counts["b"] == 0
    assert counts["a"] / 1000 == pytest.approx(0.6, abs=0.05)
    assert counts["c"] / 1000 == pytest.approx(0.2, abs=0.05)
    assert counts["d"] / 1000 == pytest.approx(0.2, abs=0.05)
    assert set(drawn(CaptionDraws(seed=0, weights=[1, 0]), ["only"])) == {"only"}


@pytest.mark.parametrize("weights", [[0, 1], [1, -1], [float("nan")]])
def test_weights_that_leave_a_slice_without_a_caption_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="the first weight must be above 0"):
        CaptionDraws(seed=0, weights=weights)


@pytest.mark.parametrize("num_variants", [None, 4])
def test_a_draw_depends_on_seed_step_and_position_alone(num_variants: int | None) -> None:
    def draws(seed: int) -> CaptionDraws:
        return CaptionDraws(seed, 0.2, [2, 1], True, 1, 0.2, num_variants)

    captions = [TAGS, "a, b, c, d, e, f"]
    assert drawn(draws(0), captions) == drawn(draws(0), captions)
    assert drawn(draws(0), captions) != drawn(draws(1), captions)
    assert len({draws(0).draw(captions, 3, position) for position in range(40)}) > 4
    assert len({draws(0).draw(captions, step, 3) for step in range(40)}) > 4


def test_dropping_whole_captions_is_not_changed_by_tags() -> None:
    plain = drawn(CaptionDraws(0, 0.3), [TAGS])
    changed = drawn(CaptionDraws(0, 0.3, shuffle_tags=True, tag_dropout=0.5), [TAGS])
    assert [text == "" for text in plain] == [text == "" for text in changed]
    assert 0.2 < plain.count("") / len(plain) < 0.4


def test_a_caption_has_at_most_so_many_variants_and_all_of_them_are_drawn() -> None:
    draws = CaptionDraws(seed=3, shuffle_tags=True, tag_dropout=0.1, num_variants=4)
    variants = draws.variants(TAGS)
    assert len(variants) == 4
    assert set(drawn(draws, [TAGS])) == set(variants)
    assert draws.variants("one tag") == ["one tag"]
    assert len(CaptionDraws(seed=3, shuffle_tags=True, num_variants=50).variants("a, b")) == 2


def test_variants_are_shared_by_seeds_and_by_larger_numbers_of_them() -> None:
    few, more = (CaptionDraws(seed=seed, shuffle_tags=True, num_variants=count) for seed, count in ((0, 3), (1, 9)))
    assert few.variants(TAGS) == more.variants(TAGS)[:3]
    assert few.variants(TAGS) != few.variants(TAGS.replace("slow", "fast"))

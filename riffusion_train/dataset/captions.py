"""Which caption a step trains with: the choice among a slice's captions, shuffled and dropped tags, and dropped captions.

Every draw is a function of the seed, the step and the position in the global batch, as all draws of a run are. A caption of
tags is one whose commas divide it: "piano, slow, 1,000 hands" has three tags, "A slow piece, for piano." is a sentence and
stays as it is.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from riffusion_train.dataset.order import generator

_COMMA = re.compile(r"(?<!\d),|,(?!\d)")  # not the one in 1,000
_ENDS_OF_SENTENCES = (".", "!", "?")
_VARIANT_SEED = 0
"""Not the run's: runs of different seeds share the cached variants of a caption, and draw them in other orders."""


def split_tags(caption: str) -> list[str]:
    """Return the tags of a caption in order, without those that are blank; a sentence is one tag."""
    if caption.rstrip().endswith(_ENDS_OF_SENTENCES):
        return [caption]
    return [tag.strip() for tag in _COMMA.split(caption) if tag.strip()]


@dataclasses.dataclass(frozen=True)
class CaptionDraws:
    """What is drawn about captions in training; by default, one of a slice's captions, all equally likely, as it stands.

    Raises:
        ValueError: If the first weight is not above 0, which a slice with a single caption needs, or another is below 0.
    """

    seed: int
    """The run's seed."""
    proportion_empty_prompts: float = 0.0
    """How often the empty caption takes the place of what was drawn."""
    weights: Sequence[float] = ()
    """How often the first, second, … caption of a slice is drawn, in proportion; those after the last weight have it too.
    Empty is all alike."""
    shuffle_tags: bool = False
    """Whether the tags of a caption are put in another order."""
    keep_first_tags: int = 0
    """How many tags at the front stay where they are."""
    tag_dropout: float = 0.0
    """How often each of the other tags is left out."""
    num_variants: int | None = None
    """The number of variants of a caption, one of which is drawn; None draws a new one every time."""

    def __post_init__(self) -> None:
        if self.weights and not (self.weights[0] > 0 and all(weight >= 0 for weight in self.weights)):
            raise ValueError(f"the first weight must be above 0, the others 0 or more, not {list(self.weights)}")

    @property
    def changes_tags(self) -> bool:
        """Whether captions are trained with in other forms than they stand in the dataset."""
        return self.shuffle_tags or self.tag_dropout > 0

    def draw(self, captions: Sequence[str], step: int, position: int) -> str:
        """Return the text that an item trains with.

        Args:
            captions: The captions of its slice, at least one.
            step: Its optimizer step.
            position: Its position in the global batch.
        """
        draw = generator(self.seed, "caption", step, position)
        if self.weights:
            weights = [self.weight(number) for number in range(len(captions))]
            chosen = captions[int(draw.choice(len(captions), p=[weight / sum(weights) for weight in weights]))]
        else:
            chosen = captions[int(draw.integers(len(captions)))]
        if draw.random() < self.proportion_empty_prompts:
            return ""
        return self._changed(chosen, step, position) if self.changes_tags else chosen

    def weight(self, number: int) -> float:
        """Return the weight of a slice's caption by its number, from 0."""
        return self.weights[min(number, len(self.weights) - 1)] if self.weights else 1.0

    def variants(self, caption: str) -> list[str]:
        """Return the texts, each once, that a caption is trained with where it has a number of variants."""
        if not self.changes_tags:
            return [caption]
        return list(dict.fromkeys(self._variant(caption, number) for number in range(self.num_variants or 0)))

    def texts(self, captions: Sequence[str]) -> list[str]:
        """Return every text that can be drawn, each once: the empty one, then the variants of every caption.

        A cache has a row for each. Which one a step trains with is drawn in that step: the cache holds no draw.

        Args:
            captions: The captions of all slices.
        """
        variants = dict.fromkeys(variant for caption in captions for variant in self.variants(caption))
        return ["", *(text for text in variants if text)]

    def _changed(self, caption: str, step: int, position: int) -> str:
        """Return a caption as an address trains with it."""
        if self.num_variants is None:
            return self._with_changed_tags(caption, self.seed, "caption tags", step, position)
        number = int(generator(self.seed, "caption variant", step, position).integers(self.num_variants))
        return self._variant(caption, number)

    def _variant(self, caption: str, number: int) -> str:
        """Return a variant of a caption by its number: the same in every run, however many variants there are."""
        digest = hashlib.blake2b(caption.encode(), digest_size=8).digest()
        return self._with_changed_tags(
            caption, _VARIANT_SEED, "variant of a caption", int.from_bytes(digest, "little"), number
        )

    def _with_changed_tags(self, caption: str, seed: int, purpose: str, *address: int) -> str:
        tags = split_tags(caption)
        kept, others = tags[: self.keep_first_tags], tags[self.keep_first_tags :]
        if not others or len(tags) == 1:
            return caption
        draw = generator(seed, purpose, *address)
        drops, order = draw.random(len(others)), draw.permutation(len(others))
        stays = drops >= self.tag_dropout
        if not kept and not stays.any():  # the empty caption stands for no caption at all, so one tag stays
            stays[drops.argmax()] = True
        chosen = order if self.shuffle_tags else range(len(others))
        return ", ".join([*kept, *(others[index] for index in chosen if stays[index])])

"""Conditions of the UNet: hidden states of prompts of any length with weights, each distinct text encoded once."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from riffusion_train.runtime.errors import InputError

_STEP = 1.1
"""The weight of one pair of brackets."""
MAX_WEIGHT = 100.0
"""Largest weight either side of 0; far beyond any use, and far below where the states of a text overflow."""
_TOKEN = re.compile(r"\\[()\[\]\\]|\(|\[|:\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\)|\)|\]|[^\\()\[\]:]+|:|\\")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt into texts and their weights, in the notation of AUTOMATIC1111's web interface.

    `(text)` has weight 1.1, `[text]` 1/1.1, `(text:1.3)` 1.3; they nest, and the weights multiply. A backslash escapes a
    bracket. Brackets that are not closed end with the prompt; a closing bracket without an opening one is text.

    Raises:
        InputError: If a weight, multiplied by those around it, is not from -`MAX_WEIGHT` to `MAX_WEIGHT`.
    """
    parts: list[tuple[str, float]] = []
    open_at: list[tuple[str, int]] = []

    def close(kind: str, factor: float, text: str) -> None:
        if not open_at or open_at[-1][0] != kind:
            parts.append((text, 1.0))
            return
        _, first = open_at.pop()
        parts[first:] = [(inner, weight * factor) for inner, weight in parts[first:]]

    for match in _TOKEN.finditer(prompt):
        token = match[0]
        if token in ("(", "["):
            open_at.append((token, len(parts)))
        elif match[1] is not None:
            close("(", float(match[1]), token)
        elif token == ")":
            close("(", _STEP, token)
        elif token == "]":
            close("[", 1 / _STEP, token)
        else:
            parts.append((token[1:] if len(token) == 2 and token[0] == "\\" else token, 1.0))
    while open_at:
        kind, _ = open_at[-1]
        close(kind, _STEP if kind == "(" else 1 / _STEP, "")
    for text, weight in parts:
        if not abs(weight) <= MAX_WEIGHT:  # also true of a NaN
            raise InputError(
                f"prompt: '{text.strip()[:40]}' has the weight {weight:g}, which must be from {-MAX_WEIGHT:g} to "
                f"{MAX_WEIGHT:g}; most are from 0.5 to 1.5"
            )
    return _merged(parts)


def _merged(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Merge neighbours of the same weight, and leave out empty texts."""
    merged: list[tuple[str, float]] = []
    for text, weight in parts:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        elif text:
            merged.append((text, weight))
    return merged


@dataclasses.dataclass(frozen=True)
class Condition:
    """What the denoising is guided towards and away from.

    Attributes:
        positive: Hidden states of the prompt, (tokens, D).
        negative: Hidden states of the negative prompt, (tokens, D), of the same length; with autoguidance, those of the prompt
            by the weaker model's text encoder.
        guidance_scale: Strength of guidance; 1 is none and costs half as much.
    """

    positive: Tensor
    negative: Tensor
    guidance_scale: float

    def towards(self, other: "Condition", share: float) -> "Condition":
        """Interpolate to another condition on a straight line, as in the original Riffusion; a share of 1 is the other one."""
        if share == 0:
            return self
        return Condition(
            torch.lerp(self.positive, other.positive, share),
            torch.lerp(self.negative, other.negative, share),
            self.guidance_scale + share * (other.guidance_scale - self.guidance_scale),
        )

    def mixed(self, others: Sequence["Condition"], weights: Sequence[float]) -> "Condition":
        """Return the weighted mean of the prompts of this condition and of others, with this one's guidance.

        Args:
            others: Conditions of the same length.
            weights: One for this condition, then one for each other, at least 0; all 0 leaves this condition alone.
        """
        shares = [weight / (sum(weights) or 1.0) for weight in weights]
        if not any(shares[1:]):
            return self  # bit for bit
        states = [condition.positive for condition in (self, *others)]
        positive = sum(
            (share * state for share, state in zip(shares, states, strict=True)), torch.zeros_like(states[0])
        )
        return dataclasses.replace(self, positive=positive)


_MAX_CACHED = 256
"""Texts whose states are cached; the player gets new ones all day long and must not fill the memory."""


class TextConditions:
    """Encodes prompts, each distinct one once and alone, so that its states do not depend on the other prompts.

    A prompt longer than the encoder's input is split into chunks, each between its own start and end tokens, and their states
    are concatenated, as most interfaces to Stable Diffusion 1.5 do. Weights multiply the states of their tokens; then all
    states are scaled to their norm before. Other programs keep the mean, which is much the same for Stable Diffusion 1.5, but
    the states of a text encoder that has learned little have a mean of about 0, and the quotient of two such means is noise.

    Args:
        tokenizer: The model's tokenizer.
        text_encoder: The model's text encoder.
        guide: The texts of the model that autoguidance leads away from; None leads away from the negative prompt.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, guide: "TextConditions | None" = None) -> None:
        self._tokenizer = tokenizer
        self._encoder = text_encoder
        self._guide = guide
        self._cache: dict[str, Tensor] = {}

    def forget(self) -> None:
        """Drop the cached states: the weights of the text encoder have changed."""
        self._cache.clear()

    def condition(self, prompt: str, negative_prompt: str = "", guidance_scale: float = 7.0) -> Condition:
        """Return the condition of a prompt; the shorter text is padded with chunks of the empty text."""
        return self.equal_lengths([(prompt, negative_prompt, guidance_scale)])[0]

    def equal_lengths(self, texts: list[tuple[str, str, float]]) -> list[Condition]:
        """Return conditions of one length of (prompt, negative prompt, guidance scale), so that they can be mixed.

        Raises:
            InputError: If there is a negative prompt whose place a guide has taken.
        """
        if self._guide is not None and any(negative for _, negative, _ in texts):
            raise InputError("negative prompt: guide= takes its place; leave one of them out")
        distinct = {text for prompt, negative, _ in texts for text in (prompt, negative)}
        longest = max(len(self.states(text)) for text in sorted(distinct))
        return [
            Condition(self._padded(prompt, longest), self._away(prompt, negative, longest), scale)
            for prompt, negative, scale in texts
        ]

    def _away(self, prompt: str, negative: str, tokens: int) -> Tensor:
        if self._guide is None:
            return self._padded(negative, tokens)
        return self._guide._padded(prompt, tokens)

    @torch.no_grad()
    def states(self, text: str) -> Tensor:
        """Return the hidden states of a text, float32 (tokens, D), where tokens is a multiple of the encoder's input length."""
        if text not in self._cache:
            ids, weights = self._tokens(text)
            chunks = [self._encoder(row[None].to(self._encoder.device)).last_hidden_state[0].float() for row in ids]
            states = torch.cat(chunks)  # (tokens, D)
            if not bool((weights == 1).all()):
                weighted = states * weights.flatten()[:, None].to(states)
                states = weighted * (states.norm() / weighted.norm())
            while len(self._cache) >= _MAX_CACHED:
                self._cache.pop(next(iter(self._cache)))
            self._cache[text] = states
        return self._cache[text]

    def _padded(self, text: str, tokens: int) -> Tensor:
        states, empty = self.states(text), self.states("")  # (a multiple of 77, D), (77, D)
        return torch.cat([states, *[empty] * ((tokens - len(states)) // len(empty))])

    def _tokens(self, text: str) -> tuple[Tensor, Tensor]:
        """Return token ids and their weights, (chunks, length) each, with start, end and padding tokens at weight 1."""
        tokenizer = self._tokenizer
        ids: list[int] = []
        weights: list[float] = []
        for part, weight in parse_weights(text):
            part_ids = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            ids += part_ids
            weights += [weight] * len(part_ids)
        length = tokenizer.model_max_length
        inside = length - 2  # tokens of text in a chunk
        chunks = max(-(-len(ids) // inside), 1)
        rows = torch.full((chunks, length), tokenizer.pad_token_id, dtype=torch.long)
        row_weights = torch.ones(chunks, length)
        rows[:, 0] = tokenizer.bos_token_id
        for chunk in range(chunks):
            part_ids = ids[chunk * inside : (chunk + 1) * inside]
            rows[chunk, 1 : len(part_ids) + 1] = torch.tensor(part_ids, dtype=torch.long)
            rows[chunk, len(part_ids) + 1] = tokenizer.eos_token_id
            row_weights[chunk, 1 : len(part_ids) + 1] = torch.tensor(weights[chunk * inside : (chunk + 1) * inside])
        return rows, row_weights

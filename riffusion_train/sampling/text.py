"""What the UNet is conditioned on: hidden states of prompts of any length with weights, each distinct text encoded once."""

import dataclasses
import re
from typing import Any

import torch
from torch import Tensor

_STEP = 1.1
_TOKEN = re.compile(r"\\[()\[\]\\]|\(|\[|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:|\\")


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt into texts and their weights, by the notation that AUTOMATIC1111's web interface made common.

    `(text)` weighs 1.1, `[text]` 1/1.1, `(text:1.3)` 1.3; they nest, and the weights multiply. A backslash keeps a bracket
    as it is. Brackets that are left open end with the prompt, and those that close nothing are text.
    """
    parts: list[tuple[str, float]] = []
    open_at: list[tuple[str, int]] = []

    def close(kind: str, factor: float, text: str) -> None:
        if not open_at or open_at[-1][0] != kind:
            parts.append((text, 1.0))
            return
        _, first = open_at.pop()
        parts[first:] = [(inner, weight * factor) for inner, weight in parts[first:]]

    for found in _TOKEN.finditer(prompt):
        token = found[0]
        if token in ("(", "["):
            open_at.append((token, len(parts)))
        elif found[1] is not None:
            close("(", float(found[1]), token)
        elif token == ")":
            close("(", _STEP, token)
        elif token == "]":
            close("[", 1 / _STEP, token)
        else:
            parts.append((token[1:] if len(token) == 2 and token[0] == "\\" else token, 1.0))
    while open_at:
        kind, _ = open_at[-1]
        close(kind, _STEP if kind == "(" else 1 / _STEP, "")
    return _joined(parts)


def _joined(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Join neighbours of one weight, and leave out what is empty."""
    joined: list[tuple[str, float]] = []
    for text, weight in parts:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        elif text:
            joined.append((text, weight))
    return joined


@dataclasses.dataclass(frozen=True)
class Condition:
    """What leads the denoising and what it is led away from.

    Attributes:
        positive: Hidden states of the prompt, (tokens, D).
        negative: Hidden states of the negative prompt, (tokens, D), of the same length.
        guidance_scale: Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598); 1 is none and costs half.
    """

    positive: Tensor
    negative: Tensor
    guidance_scale: float

    def towards(self, other: "Condition", share: float) -> "Condition":
        """Return the condition `share` of the way to another one, on a straight line as in the original Riffusion."""
        if share == 0:
            return self
        return Condition(
            torch.lerp(self.positive, other.positive, share),
            torch.lerp(self.negative, other.negative, share),
            self.guidance_scale + share * (other.guidance_scale - self.guidance_scale),
        )


_MOST_KNOWN = 256
"""Texts whose states are kept; a page that is asked for new ones all day long must not fill the memory."""


class TextConditions:
    """Encodes prompts, each distinct one once and alone, so that its states do not depend on what else is asked.

    A prompt beyond the encoder's length goes in chunks, each between a start and an end token of its own; the states stand in
    a row, as most interfaces to Stable Diffusion 1.5 do it. Weights multiply the states of their tokens; then all of them are
    scaled to the norm that they had. Others keep the mean: much the same for Stable Diffusion 1.5, but the states of a text
    encoder that has learned little have a mean of about 0, and the quotient of two such means is noise.

    Args:
        tokenizer: The model's tokenizer.
        text_encoder: The model's text encoder.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self._tokenizer = tokenizer
        self._encoder = text_encoder
        self._known: dict[str, Tensor] = {}

    def condition(self, prompt: str, negative_prompt: str = "", guidance_scale: float = 7.0) -> Condition:
        """Return the condition of a prompt; the shorter text is followed by chunks of nothing."""
        return self.equal_lengths([(prompt, negative_prompt, guidance_scale)])[0]

    def equal_lengths(self, wanted: list[tuple[str, str, float]]) -> list[Condition]:
        """Return conditions of one length of (prompt, negative prompt, guidance scale), so that they can be mixed."""
        texts = {text for prompt, negative, _ in wanted for text in (prompt, negative)}
        longest = max(len(self.states(text)) for text in sorted(texts))
        return [
            Condition(self._filled(prompt, longest), self._filled(negative, longest), scale)
            for prompt, negative, scale in wanted
        ]

    @torch.no_grad()
    def states(self, text: str) -> Tensor:
        """Return the hidden states of a text, float32 (tokens, D): as many tokens as the encoder takes, or a multiple."""
        if text not in self._known:
            ids, weights = self._tokens(text)
            chunks = [self._encoder(row[None].to(self._encoder.device)).last_hidden_state[0].float() for row in ids]
            states = torch.cat(chunks)
            if not bool((weights == 1).all()):
                weighted = states * weights.flatten()[:, None].to(states)
                states = weighted * (states.norm() / weighted.norm())
            while len(self._known) >= _MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[text] = states
        return self._known[text]

    def _filled(self, text: str, tokens: int) -> Tensor:
        states, nothing = self.states(text), self.states("")
        return torch.cat([states, *[nothing] * ((tokens - len(states)) // len(nothing))])

    def _tokens(self, text: str) -> tuple[Tensor, Tensor]:
        """Return token ids and weights, (chunks, length)."""
        tokenizer = self._tokenizer
        ids: list[int] = []
        weights: list[float] = []
        for part, weight in parse_weights(text):
            found = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            ids += found
            weights += [weight] * len(found)
        length = tokenizer.model_max_length
        inside = length - 2
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

"""Weights in prompts: `(loud:1.3) drums, (warm) piano, [distant] choir`."""

import re

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

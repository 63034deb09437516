"""Put the attributes of a clip into words."""

from data_prep.corpus.palette import DRUMS, INSTRUMENTS, PATTERNS, REGISTERS, TEMPI, TEMPLATES
from data_prep.corpus.score import Attributes, address

CAPTIONS_PER_CLIP = 3


def captions_of(attributes: Attributes, seed: int, clip: int) -> list[str]:
    """Return the captions of one clip: the canonical one, then others from different templates with words drawn by chance.

    Each names instrument, tempo, drums, register and pattern.
    """
    rng = address(seed, clip, "captions")
    captions = [prompt_of(attributes)]
    for template in rng.sample(TEMPLATES[1:], CAPTIONS_PER_CLIP - 1):
        words = {name: rng.choice(choices) for name, choices in _words(attributes).items()}
        captions.append(_fill(template, attributes, words))
    return captions


def prompt_of(attributes: Attributes) -> str:
    """Return the canonical prompt: the first template with the first word of every attribute."""
    return _fill(TEMPLATES[0], attributes, {name: choices[0] for name, choices in _words(attributes).items()})


def _words(attributes: Attributes) -> dict[str, tuple[str, ...]]:
    return {
        "instrument": INSTRUMENTS[attributes.instrument].words,
        "tempo": TEMPI[attributes.tempo].words,
        "drums": DRUMS[attributes.drums].words,
        "register": REGISTERS[attributes.register].words,
        "pattern": PATTERNS[attributes.pattern],
    }


def _fill(template: str, attributes: Attributes, words: dict[str, str]) -> str:
    text = template.format(bpm=attributes.bpm, key=attributes.key, mode=attributes.mode, **words)
    return text.replace("with without", "without")

"""Captions of a piece: true, in many words, from two words to two sentences."""

import random

from data_prep.corpus.music.instruments import INSTRUMENTS, REGISTERS
from data_prep.corpus.music.piece import Piece
from data_prep.corpus.music.styles import STYLES

NO_DRUMS: tuple[str, ...] = ("no drums", "without drums", "drumless", "no percussion")

TEMPO_WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slow", "slow tempo", "unhurried", "slow-paced"),
    "medium": ("mid-tempo", "medium tempo", "moderate", "walking-pace"),
    "fast": ("fast", "fast-paced", "up-tempo", "quick"),
}

_SHORT: tuple[str, ...] = ("{style}, {lead}", "{mood} {style}", "{lead} {style}", "{tempo} {style}")
_MEDIUM: tuple[str, ...] = (
    "{tempo} {style}, {lead} {role}, {drums}",
    "{mood} {style} with {register} {lead}, {drums}",
    "{style}, {tempo}, {register} {lead} {role}, {drums}",
    "{tempo} {mood} {style} led by {lead}",
    "{lead} {role} in the {register} register, {tempo} {style}, {drums}",
    "{style} at {bpm} bpm, {drums}, {register} {lead}",
)
_LONG: tuple[str, ...] = (
    "{a_mood} {tempo} {style} piece in {key}, {register} {lead} {role} over {accompaniment}, {drums}, {bpm} bpm",
    "{a_mood} {style} track. {Lead} plays the {register} {role} over {accompaniment}, {tempo}, {drums}.",
    "{Style} in {key} at {bpm} bpm: {lead} {role}, {accompaniment}, {drums}. It feels {mood}.",
    "{Tempo} {style} with {register} {lead} and {accompaniment}. {Drums}, {key}, {bpm} bpm, {mood}.",
)


def prompt_of(piece: Piece) -> str:
    """Return the canonical caption: canonical words for tempo, style, register, lead and drums."""
    attributes = piece.attributes
    drums = NO_DRUMS[0] if attributes.drums == "none" else piece.drum_words[0]
    tempo, register = TEMPO_WORDS[attributes.tempo][0], REGISTERS[attributes.register][1][0]
    return f"{tempo} {STYLES[attributes.style].words[0]}, {register} {attributes.lead} {attributes.role}, {drums}"


def captions_of(piece: Piece, rng: random.Random) -> list[str]:
    """Return the canonical caption of a piece, a short one, one of a line, and a long one, with random words."""
    return [prompt_of(piece), *(_fill(rng.choice(templates), piece, rng) for templates in (_SHORT, _MEDIUM, _LONG))]


def _fill(template: str, piece: Piece, rng: random.Random) -> str:
    attributes = piece.attributes
    style = STYLES[attributes.style]
    register = rng.choice(REGISTERS[attributes.register][1])
    mode = attributes.mode if rng.random() < 0.5 else attributes.key.rsplit(" ", 1)[1]
    words = {
        "style": rng.choice(style.words),
        "lead": rng.choice(INSTRUMENTS[attributes.lead].words),
        "role": rng.choice({"melody": ("melody", "tune", "theme"), "arpeggio": ("arpeggio", "arpeggios", "broken chords")}
                           [attributes.role]),
        "register": register,
        "drums": rng.choice(NO_DRUMS if attributes.drums == "none" else piece.drum_words),
        "tempo": rng.choice(TEMPO_WORDS[attributes.tempo]),
        "mood": attributes.mood,
        "key": f"{attributes.key.rsplit(' ', 1)[0]} {mode}",
        "bpm": str(attributes.bpm),
        "accompaniment": _accompaniment(piece, rng),
    }  # fmt: skip
    words["a_mood"] = _article(words["mood"])
    words |= {
        name.capitalize(): words[name][0].upper() + words[name][1:] for name in ("lead", "style", "tempo", "drums")
    }
    text = template.format(**words)
    return (
        text.replace(" over nothing else", " alone")
        .replace(" and nothing else", " alone")
        .replace(", nothing else", ", solo")
    )


def _accompaniment(piece: Piece, rng: random.Random) -> str:
    attributes = piece.attributes
    names = [
        name
        for name in dict.fromkeys((attributes.chords, attributes.bass, attributes.pad))
        if name not in ("none", attributes.lead)
    ]
    if not names:
        return "nothing else"
    words = [rng.choice(INSTRUMENTS[name].words) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _article(word: str) -> str:
    return f"{'An' if word[0] in 'aeiou' else 'A'} {word}"

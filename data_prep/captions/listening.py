"""Captions by listening: what was heard and measured in a track, put into words.

A tag is named only if its score reaches a threshold that was calibrated on labelled music (`thresholds.json`, made by
`python -m benchmarks caption_tags`), so that it is right in at least four of five cases. Tempo and key are named where the
measurement is clear enough by the same rule. The words are drawn by the seed and the track's hash, never by chance.
"""

import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from data_prep.captions.heard import Heard
from data_prep.captions.phrases import (
    BRIGHTNESS_WORDS,
    CAPTION_TAGS,
    LOUDNESS_WORDS,
    OPPOSITES,
    CaptionTag,
    Kind,
)
from data_prep.captions.text import clean_captions

TEMPO, KEY = "bpm", "key"
"""Names of the measured facts in `thresholds.json`; their scores are the strengths in `Heard`."""
_FEW = 3
"""Up to so many tags, loudness and brightness are said as well."""
_MOST = {Kind.genre: 2, Kind.instrument: 3, Kind.drums: 1, Kind.voice: 1, Kind.mood: 1, Kind.tempo: 1}
"""Most tags of each kind in a caption."""


class ListenedCaptions(NamedTuple):
    """The captions of a track that was heard."""

    track: tuple[str, ...]
    """Captions of the whole track."""
    slices: tuple[tuple[str, ...], ...]
    """Captions of each slice, in order: those of the track where the same is heard in it."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What captions can say, the clearest first."""

    tags: tuple[CaptionTag, ...]
    bpm: float | None
    key: str | None
    loudness: str | None
    brightness: str | None

    def of(self, kind: Kind) -> list[CaptionTag]:
        """Return the tags of a kind."""
        return [tag for tag in self.tags if tag.kind is kind]


@functools.cache
def load_thresholds() -> Mapping[str, float]:
    """Return the thresholds of the tags that captions use, and those of tempo and key, by name."""
    text = (resources.files("data_prep.captions") / "thresholds.json").read_text(encoding="utf-8")
    return {name: float(row["threshold"]) for name, row in json.loads(text)["tags"].items()}


def score_of(tag: CaptionTag, scores: Mapping[str, float]) -> float:
    """Return the score of a tag of captions, from 0 to 1, from the scores of the taggers' tags."""
    mean = sum(scores.get(name, 0.0) for name in tag.scores) / len(tag.scores)
    return 1.0 - mean if tag.absent else mean


def find_facts(heard: Heard, scores: Mapping[str, float], thresholds: Mapping[str, float] | None = None) -> Facts:
    """Return what can be said of a track, or of a slice of it.

    Args:
        heard: What was heard in the track.
        scores: The scores of the track, or those of the slice.
        thresholds: By the names of the tags; None takes those that ship with the package.
    """
    thresholds = load_thresholds() if thresholds is None else thresholds
    clearness = {  # how far a score is above its threshold, relative to how far it could be
        tag: (score_of(tag, scores) - thresholds[tag.name]) / (1.001 - thresholds[tag.name])
        for tag in CAPTION_TAGS
        if tag.name in thresholds
    }
    left = sorted((tag for tag, value in clearness.items() if value >= 0), key=lambda tag: (-clearness[tag], tag.name))
    chosen: list[CaptionTag] = []
    for tag in left:
        rivals = {name for group in OPPOSITES if tag.name in group for name in group}
        full = sum(one.kind is tag.kind for one in chosen) >= _MOST[tag.kind]
        if not full and not any(one.name in rivals for one in chosen):
            chosen.append(tag)
    return Facts(
        tuple(chosen),
        heard.bpm if heard.bpm_strength >= thresholds.get(TEMPO, 2.0) else None,
        heard.key if heard.key_strength >= thresholds.get(KEY, 2.0) else None,
        heard.loudness,
        heard.brightness,
    )


def heard_tags(heard: Heard, thresholds: Mapping[str, float] | None = None) -> list[str]:
    """Return the names of the tags of a track, the clearest first: those that its captions may use."""
    return [tag.name for tag in find_facts(heard, heard.track_scores, thresholds).tags]


def listened_captions(heard: Heard, address: str, thresholds: Mapping[str, float] | None = None) -> ListenedCaptions:
    """Return the captions of a track, and those of each of its slices.

    Args:
        heard: What was heard in it.
        address: Decides the words: the seed and the hash of the file.
        thresholds: See `find_facts`.
    """
    whole = find_facts(heard, heard.track_scores, thresholds)
    known = {_names(whole): write_captions(whole, address)}
    slices = []
    for scores in heard.slice_scores:
        facts = find_facts(heard, scores, thresholds)
        names = _names(facts)
        # Slices in which the same is heard share their captions: a text encoder's cache then holds few.
        if names not in known:
            known[names] = write_captions(facts, f"{address} {' '.join(names)}")
        slices.append(known[names])
    return ListenedCaptions(known[_names(whole)], tuple(slices))


def _names(facts: Facts) -> tuple[str, ...]:
    return tuple(sorted(tag.name for tag in facts.tags))


def write_captions(facts: Facts, address: str) -> tuple[str, ...]:
    """Return two or three captions: one of a few words, one of comma-separated tags, one sentence with all that is known.

    Args:
        facts: What they say. Without tags, they say what is measured.
        address: Decides the words.
    """
    rng = random.Random(int.from_bytes(hashlib.sha256(f"captions {address}".encode()).digest()[:8], "big"))
    if not facts.tags:
        return clean_captions((_sentence(facts, rng), ", ".join(["music", *_measured_words(facts)])))
    return clean_captions((_short(facts, rng), _listing(facts, rng), _sentence(facts, rng)))


def _short(facts: Facts, rng: random.Random) -> str:
    """Return for example `calm ambient music`, `techno with drums`, `fast piano music`."""
    adjectives = [_word(tag, rng) for tag in (*facts.of(Kind.mood), *facts.of(Kind.tempo))][:1]
    sounds = [_word(tag, rng) for tag in (*facts.of(Kind.instrument), *facts.of(Kind.voice), *facts.of(Kind.drums))]
    genres = [_word(tag, rng) for tag in facts.of(Kind.genre)[:1]]
    noun = genres or ["music"]
    if sounds and (not adjectives or rng.random() < 0.5):
        return " ".join([*(adjectives if not genres else []), *noun, "with", sounds[0]])
    return " ".join([*adjectives, *noun])


def _listing(facts: Facts, rng: random.Random) -> str:
    """Return for example `electronic, synthesizer, drums, calm, 92 bpm, A minor`."""
    tags = [tag.name for tag in facts.tags]
    rng.shuffle(tags)
    exact = [f"{facts.bpm:.0f} bpm"] if facts.bpm else []
    exact += [facts.key] if facts.key else []
    sound = [word for word in (facts.loudness, facts.brightness) if word in ("quiet", "loud", "dark", "bright")]
    return ", ".join([*tags, *exact, *(sound if len(tags) <= _FEW else sound[:1])])


def _sentence(facts: Facts, rng: random.Random) -> str:
    """Return for example `Calm, slow ambient music with piano and strings, no drums, 72 bpm, in C major.`."""
    adjectives = [_word(tag, rng) for tag in (*facts.of(Kind.mood), *facts.of(Kind.tempo))]
    sounds = [_word(tag, rng) for tag in (*facts.of(Kind.instrument), *facts.of(Kind.voice)) if not tag.absent]
    sounds += [_word(tag, rng) for tag in facts.of(Kind.drums) if not tag.absent]
    genres = [_word(tag, rng) for tag in facts.of(Kind.genre)]
    if len(facts.tags) <= _FEW:
        adjectives += _sound_words(facts, rng, all_known=not facts.tags)
    noun = genres[0] if genres else "music"
    subject = f"{', '.join(adjectives)} {noun}".strip()
    if rng.random() < 0.4 and noun.endswith("music"):
        subject = f"a {', '.join(adjectives)} piece of {noun}" if adjectives else f"a piece of {noun}"
        subject = subject.replace("a e", "an e", 1) if subject.startswith("a e") else subject
    parts = [subject]
    if len(genres) > 1:
        parts[0] += rng.choice((f" and {genres[1]}", f", close to {genres[1]}"))
    if sounds:
        parts[0] += rng.choice((" with ", " featuring ", " built on ")) + _joined(sounds)
    parts += [_word(tag, rng) for kind in (Kind.voice, Kind.drums) for tag in facts.of(kind) if tag.absent]
    parts += _exact_words(facts, rng)
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _exact_words(facts: Facts, rng: random.Random) -> list[str]:
    tempo = rng.choice(("at {} bpm", "{} bpm", "around {} bpm")).format(f"{facts.bpm:.0f}") if facts.bpm else ""
    key = f"in {facts.key}" if facts.key else ""
    return [word for word in (tempo, key) if word]


def _measured_words(facts: Facts) -> list[str]:
    exact = [f"{facts.bpm:.0f} bpm" if facts.bpm else "", facts.key or ""]
    return [word for word in (facts.loudness, facts.brightness, *exact) if word]


def _sound_words(facts: Facts, rng: random.Random, *, all_known: bool) -> list[str]:
    """Return words for loudness and brightness: where little else is known, also those for what is in the middle."""
    loudness = facts.loudness if all_known or facts.loudness != "moderately loud" else None
    brightness = facts.brightness if all_known or facts.brightness != "balanced" else None
    words = [rng.choice(LOUDNESS_WORDS[loudness])] if loudness else []
    return words + ([rng.choice(BRIGHTNESS_WORDS[brightness])] if brightness else [])


def _word(tag: CaptionTag, rng: random.Random) -> str:
    return rng.choice(tag.words)


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

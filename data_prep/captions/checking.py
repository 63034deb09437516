"""Captions against the sound: which statements of a caption contradict what was heard and measured in its track.

First what a caption states that can be measured: tempo, key, drums, fast or slow, instruments; and the caption without it.

Then it is asked how well the sound fits what the caption says, not whether that is the best guess. A statement is called
false only where the evidence against it is strong; where it is unclear, nothing is said. The limits below were set on
composed clips with known truth, see `benchmarks/caption_checks.py`. The weights and limits of the evidence for drums are
in `drums.json`, which `python -m benchmarks caption_drums` made.
"""

import dataclasses
import enum
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import NamedTuple

import numpy as np

from data_prep.captions.listening import Heard
from riffusion_train.listening.attributes import BANDS_HZ, Evidence, key_fits, relative_key, support_of
from riffusion_train.listening.captions import find_keys, find_tempi


class Kind(enum.Enum):
    """What a statement is about; the value is what messages call it."""

    tempo = "tempo"
    key = "key"
    drums = "drums"
    speed = "fast or slow"
    instrument = "instrument"


@dataclasses.dataclass(frozen=True)
class Statement:
    """One statement of a caption.

    Attributes:
        kind: What it is about.
        name: A key ("A minor"), `fast` or `slow`, `drums` or `percussion`, or an instrument of `INSTRUMENTS`; empty for a
            tempo.
        text: The words of the caption that state it, a negation included.
        start: Where they begin.
        end: Where they end.
        present: False where the caption says that there is none.
        bpm: Lowest and highest beats per minute of a tempo.
    """

    kind: Kind
    name: str
    text: str
    start: int
    end: int
    present: bool = True
    bpm: tuple[float, float] | None = None


INSTRUMENTS: dict[str, str] = {
    "guitar": r"guitars?|guitarists?",
    "piano": r"pianos?|pianists?",
    "strings": r"strings|string (?:ensemble|section|orchestra|quartet|pads?)",
    "violin": r"violins?|fiddles?",
    "cello": r"cellos?|celli",
    "flute": r"flutes?",
    "harp": r"harps?",
    "harpsichord": r"harpsichords?",
    "sitar": r"sitars?",
    "choir": r"choirs?|choral (?:voices|singing)",
    "synth": r"synths?|synthesi[sz]ers?",
    "voice": r"vocals?|voices?|singing|singers?|vocalists?|lyrics|rapping|rappers?",
}
"""The instruments that the tagger knows, with the words for them."""

_DRUMS = (
    r"drum[- ]?(?:kits?|machines?|beats?|loops?|fills?|patterns?|sets?)|drummers?|drumming|drums?|breakbeats?|hi-?hats?|snares?"
    r"|cymbals?|four[- ]on[- ]the[- ]floor"
)
_PERCUSSION = r"percussion|percussionists?|tambourines?|shakers?|bongos?|congas?|brushes"
_BEAT = r"(?<!up)(?<!down)(?<!off)beat"
"""Counts only where nothing else is said about drums: "trap beat" may also be a genre."""
_NOT_DRUMS = re.compile(
    r"\bdrum[- ](?:and|&|n|'n'|’n’)[- ]bass\b|\bsteel[- ]drums?\b|\bdrum-like\b|\bbeats?[- ](?:per|a)\b", re.IGNORECASE
)
_NOT_GUITAR = re.compile(
    r"\bbass[- ]guitars?\b|\bguitar-like\b|\bpiano-like\b|\b(?:electric|thumb) pianos?\b|\bharp-like\b", re.IGNORECASE
)
_WITHOUT = re.compile(r"\b(?:drum|beat|percussion)-?(?:less|free)\b", re.IGNORECASE)
_NO_VOICE = re.compile(r"\b(?:no|non)[- ]?vocals?\b|\binstrumental(?! break)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:no|without|lacks?|lacking|free of|devoid of|absence of|not any|minus)(?: any| a| an| the)?(?: [\w'-]+){0,2} ?$",
    re.IGNORECASE,
)
_CONTINUED = re.compile(r"^(?:,? ?(?:or|nor) (?:any )?(?:[\w'-]+ )?|, (?:[\w'-]+ )?)$")
"""Between two things that one negation is about: "no drums or vocals", "no drums, bass or vocals"."""
_SPEEDS = {
    "fast": r"fast(?:-paced)?(?! (?:attack|decay|solo|runs?|fills?|licks?))|up-?tempo|rapid|brisk",
    "slow": r"slow(?:-paced)?(?! (?:attack|decay|build|fade|burn))|unhurried|down-?tempo",
}
_RANGE = re.compile(r"(?<![\d.])(\d{2,3}(?:\.\d+)?) ?(?:-|–|to) ?$")
"""The lower end of "90-100 bpm", before the higher one."""


def find_statements(caption: str) -> list[Statement]:
    """Return what a caption states that can be measured, in the order of its text.

    "drum and bass", "bass guitar", "fast attack" and the like are no statements; "fast" and "slow" in one caption are none
    either, nor is a negation that a second one takes back.
    """
    found = [
        *_tempi(caption),
        *(
            Statement(Kind.key, key, caption[start:end], start, end)
            for key, start, end in find_keys(caption)
        ),
        *_drums(caption),
        *_speeds(caption),
        *_instruments(caption),
    ]  # fmt: skip
    return sorted(found, key=lambda one: (one.start, one.end))


def _tempi(caption: str) -> Iterator[Statement]:
    for bpm, start, end in find_tempi(caption):
        lower = _RANGE.search(caption[:start])
        first = start if lower is None else lower.start()
        low = bpm if lower is None else min(float(lower[1]), bpm)
        yield Statement(Kind.tempo, "", caption[first:end], first, end, bpm=(low, bpm))


def _drums(caption: str) -> list[Statement]:
    hidden = _blanked(caption, _NOT_DRUMS)
    found = [
        Statement(Kind.drums, "drums", match[0], match.start(), match.end(), present=False)
        for match in _WITHOUT.finditer(hidden)
    ]
    hidden = _blanked(hidden, _WITHOUT)
    found += _things(hidden, Kind.drums, {"drums": _DRUMS, "percussion": _PERCUSSION})
    return found or _things(hidden, Kind.drums, {"drums": _BEAT})


def _speeds(caption: str) -> list[Statement]:
    found = [
        Statement(Kind.speed, name, match[0], match.start(), match.end())
        for name, words in _SPEEDS.items()
        for match in re.finditer(rf"\b(?:{words})\b", caption, re.IGNORECASE)
        if not re.search(r"\b(?:not|never|neither|nor)(?: too| very| so)? ?$", caption[: match.start()], re.IGNORECASE)
    ]
    return found if len({one.name for one in found}) == 1 else []


def _instruments(caption: str) -> list[Statement]:
    hidden = _blanked(caption, _NOT_GUITAR)
    found = [
        Statement(Kind.instrument, "voice", match[0], match.start(), match.end(), present=False)
        for match in _NO_VOICE.finditer(hidden)
    ]
    return found + _things(_blanked(hidden, _NO_VOICE), Kind.instrument, INSTRUMENTS)


def _things(caption: str, kind: Kind, words: dict[str, str]) -> list[Statement]:
    """Return the things that a caption names, and whether it says that they are there."""
    pattern = re.compile("|".join(rf"(?P<{name}>\b(?:{spelled})\b)" for name, spelled in words.items()), re.IGNORECASE)
    found: list[Statement] = []
    for match in pattern.finditer(caption):
        start, present = match.start(), True
        negation = _NEGATION.search(caption[:start])
        if negation is not None and not re.search(r"\b(?:but|with|only|except|and)\b", negation[0], re.IGNORECASE):
            start, present = negation.start(), False
        elif found and not found[-1].present and _goes_on(caption[found[-1].end : start], caption[match.end() :]):
            present = False
        name = str(match.lastgroup)
        found.append(Statement(kind, name, caption[start : match.end()], start, match.end(), present))
    return found


def _goes_on(between: str, after: str) -> bool:
    """Whether a negation before `between` holds for what follows it; a comma alone needs an "or" later on."""
    if _CONTINUED.match(between) is None:
        return False
    return not between.startswith(", ") or " or " in between or bool(re.match(r"(?:, [\w'-]+)*,? (?:or|nor) ", after))


def _blanked(text: str, pattern: re.Pattern[str]) -> str:
    """Return the text with `#` for each character that matches, so that all positions stay."""
    return pattern.sub(lambda match: "#" * len(match[0]), text)


# --- the caption without a statement ---------------------------------------------------------------------------------

_CONNECTORS = r"with|and|over|under|featuring|features?|plus|has|by|on|to|for|of"
_LEADING = re.compile(r"(?:\b(?:at|in|around|about|a|an|the|its|key|tempo|of|with|and)[ ]+)+$", re.IGNORECASE)
_PHRASE = re.compile(rf"\b(?:{_CONNECTORS})[ ]+(?:(?!(?:{_CONNECTORS})\b)[\w'-]+[ ]+){{0,3}}$", re.IGNORECASE)
"""The words before a thing that belong to it: "with soft rock drums"."""
_JOINED = re.compile(rf"\b(?:at|in|{_CONNECTORS})\b", re.IGNORECASE)
_FEW_WORDS = 4
"""A part between commas with at most so many words is about one thing: "rock drums", "90 bpm"."""


def without(caption: str, statement: Statement) -> str:
    """Return a caption without one of its statements; empty if nothing else is in it.

    A short part between commas goes as a whole. In a longer one, it is the words of the statement and those that belong to
    them.
    """
    start, end = statement.start, statement.end
    left = max(caption.rfind(mark, 0, start) for mark in ",.;:") + 1
    right = min((place for mark in ",.;:" if (place := _mark_after(caption, mark, end)) >= 0), default=len(caption))
    part = caption[left:right]
    others = [one for one in find_statements(caption) if left <= one.start < right and one != statement]
    is_thing = statement.kind in (Kind.drums, Kind.instrument)
    if len(part.split()) <= _FEW_WORDS and not others and statement.kind is not Kind.speed and not _JOINED.search(part):
        start, end = left, right
    elif (before := (_PHRASE if is_thing else _LEADING).search(caption[:start])) is not None:
        start = before.start()
    return _tidied(f"{caption[:start].rstrip()} {caption[end:].lstrip()}")


def _mark_after(caption: str, mark: str, end: int) -> int:
    """Return where a mark ends the part; a point within a number is none."""
    place = caption.find(mark, end)
    while place >= 0 and caption[place + 1 : place + 2].isdigit():
        place = caption.find(mark, place + 1)
    return place


def _tidied(text: str) -> str:
    text = re.sub(r"\s+([,.;:])", r"\1", text)
    text = re.sub(r"[,;:](?:\s*[,;:])+", ",", text)
    text = re.sub(r"[,;:]+\s*\.", ".", text)
    text = re.sub(r"\.(?:\s*[,.;:])+", ".", text)
    text = " ".join(text.split()).strip(" ,;:")
    return text if re.search(r"\w", text) else ""


_MULTIPLES = (1.0, 0.5, 2.0)
"""Multiples of a stated tempo that are no contradiction: half and double time are a matter of taste."""
_LEAST_SUPPORT = 50
"""Percent of `Evidence.pulse` below which a tempo is false."""
_MOST_KEY_DISTANCE = 0.4
"""How much worse than the best key a stated key, or its relative, may fit the notes."""
_SLOWEST_FAST, _FASTEST_SLOW = -2.5, 3.0
"""See `_speed_of`."""
_INSTRUMENTS: dict[str, tuple[tuple[str, ...], float, float]] = {
    "guitar": (("guitar",), 0.0, 0.6),
    "piano": (("piano",), 0.008, 0.75),
    "violin": (("violin", "strings"), 0.006, 1.0),
    "flute": (("flute",), 0.0, 0.6),
    "choir": (("choir", "choral", "opera"), 0.0, 0.05),
    "synth": (("synth", "electronic", "msd:electronic", "techno"), 0.02, 0.65),
}
"""Tags of an instrument, the score below which it is not there, and that above which it is; others are too uncertain."""
_LEAST_SCORE = 0.002
"""Scores below this are all the same."""


DRUM_TAGS = ("drums", "beat", "beats")
"""Tags of the taggers that drums are judged by."""


class DrumJudge(NamedTuple):
    """A logistic regression that says how surely there are drums."""

    bias: float
    weights: tuple[float, ...]
    """Of the values of `drum_evidence`."""
    fewest: float
    """Probability of drums below which "drums" is false."""
    most: float
    """Probability above which "no drums" is false."""


@functools.cache
def load_drum_judge() -> DrumJudge:
    """Return the weights and limits that ship with the package."""
    text = (resources.files("data_prep.captions") / "drums.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return DrumJudge(data["bias"], tuple(data["weights"]), data["fewest"], data["most"])


def drum_evidence(heard: Heard, evidence: Evidence) -> tuple[float, ...]:
    """Return what drums are judged by; empty in silence.

    It is `Evidence.strokes`, whether the highest band is without sound, as in a file of a low sample rate, and the
    logarithms of the scores of `DRUM_TAGS`.
    """
    if not evidence.strokes or not heard.starts_s:
        return ()
    highest = evidence.strokes[len(BANDS_HZ) - 1 :: len(BANDS_HZ)]
    tags = (_log_score(heard.track_scores, tag) for tag in DRUM_TAGS)
    return (*evidence.strokes, float(not any(highest)), *tags)


@dataclasses.dataclass(frozen=True)
class Contradiction:
    """A false statement of a caption."""

    statement: Statement
    measured: str
    """What the sound says, in a few words."""


def contradictions(caption: str, heard: Heard) -> list[Contradiction]:
    """Return the statements of a caption that are false, in the order of the text.

    Args:
        caption: The caption.
        heard: What was heard and measured in its track.
    """
    if heard.evidence is None:
        return []
    judged = ((statement, _against(statement, heard, heard.evidence)) for statement in find_statements(caption))
    return [Contradiction(statement, measured) for statement, measured in judged if measured is not None]


def corrected(caption: str, heard: Heard) -> str:
    """Return a caption without its false statements; empty if nothing else is in it."""
    while found := contradictions(caption, heard):
        shorter = without(caption, found[-1].statement)
        if len(shorter) >= len(caption):
            return ""
        caption = shorter
    return caption


def _against(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """Return what the sound says against a statement; None if it fits, or if that is unclear."""
    match statement.kind:
        case Kind.tempo:
            return _against_tempo(statement, heard, evidence)
        case Kind.key:
            return _against_key(statement, heard, evidence)
        case Kind.drums:
            return _against_drums(statement, heard, evidence)
        case Kind.speed:
            return _against_speed(statement, heard, evidence)
        case Kind.instrument:
            return _against_instrument(statement, heard, evidence)


def _against_tempo(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    if not evidence.pulse or statement.bpm is None:
        return None
    low, high = statement.bpm
    tempi = np.geomspace(low, high, max(1, math.ceil(50 * math.log(high / low)) + 1)) if high > low else [high]
    support = max(support_of(evidence.pulse, float(bpm) * factor) for bpm in tempi for factor in _MULTIPLES)
    if support >= _LEAST_SUPPORT:
        return None
    return f"measured {heard.bpm:.0f} bpm" if heard.bpm is not None else "the onsets do not repeat at that tempo"


def _against_key(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """A key and its relative have the same notes, so that one is no contradiction of the other."""
    if not evidence.chroma:
        return None
    fits = key_fits(np.asarray(evidence.chroma))
    fit = max(fits[statement.name], fits[relative_key(statement.name)])
    best = max(fits, key=lambda key: fits[key])
    return f"measured {best}" if fits[best] - fit > _MOST_KEY_DISTANCE else None


def _against_drums(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """Percussion that is said to be there may be too soft to be heard; that there is none is judged as of drums."""
    judge, probability = load_drum_judge(), _drum_probability(heard, evidence)
    if probability is None:
        return None
    if statement.present:
        return "no drums are heard" if statement.name == "drums" and probability < judge.fewest else None
    return "drums are heard" if probability > judge.most else None


def _drum_probability(heard: Heard, evidence: Evidence) -> float | None:
    """Return how surely there are drums, from 0 to 1, by what the onsets are like and the tagger; None if that is not known."""
    judge, values = load_drum_judge(), drum_evidence(heard, evidence)
    if len(values) != len(judge.weights):
        return None
    logit = judge.bias + sum(weight * value for weight, value in zip(judge.weights, values, strict=True))
    return 1.0 / (1.0 + math.exp(-logit))


def _against_speed(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    if not heard.starts_s:
        return None
    speed = _speed_of(heard)
    if statement.name == "fast":
        return "the onsets are slow" if speed < _SLOWEST_FAST else None
    return "the onsets are fast" if speed > _FASTEST_SLOW else None


def _speed_of(heard: Heard) -> float:
    """Return how fast a track sounds: the logarithm of the tagger's score for "fast" over that for "slow"."""
    return _log_score(heard.track_scores, "fast") - _log_score(heard.track_scores, "slow")


def _against_instrument(statement: Statement, heard: Heard, evidence: Evidence) -> str | None:
    """The tagger's highest score anywhere in the track counts: an instrument may play in one place only."""
    limits = _INSTRUMENTS.get(statement.name)
    if limits is None or not heard.starts_s:
        return None
    tags, floor, ceiling = limits
    score = max(max(heard.scores.get(tag, (0.0,))) for tag in tags)
    if statement.present:
        return f"no {statement.name} is heard (score {score:.3f})" if score < floor else None
    return f"{statement.name} is heard (score {score:.2f})" if score > ceiling else None


def _log_score(scores: Mapping[str, float], tag: str) -> float:
    return math.log(max(scores.get(tag, 0.0), _LEAST_SCORE))

"""Captions by listening: what was heard and measured in a track, the phrases that say it, and the captions made of them.

A tag is named only if its score reaches a threshold that was calibrated on labelled music (`thresholds.json`, made by `python
-m benchmarks caption_tags`), so that it is right in at least four of five cases. Tempo and key are named where the
measurement is clear enough by the same rule. The phrases are drawn by the seed and the track's hash, never by chance.
"""

import dataclasses
import enum
import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, Self

import numpy as np

from data_prep.captions.text import clean_captions
from riffusion_train.listening.attributes import Evidence

PATCH_S = 3.0
"""Length of the patches that the taggers hear."""
_LEAST_SCORE = 0.005
"""Scores below this in every patch are not kept."""
_SMOOTHING_S = 4.0
"""Standard deviation of the Gaussian window over which the scores of a moment are averaged."""


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was heard in a track, and measured in it.

    Scores are those of the two taggers of `riffusion_train.listening.embedder`, from 0 to 1. Tags of MagnaTagATune have their
    own names (`drums`, `female vocal`), those of the Million Song Dataset have `msd:` before them (`msd:jazz`).
    """

    starts_s: tuple[float, ...]
    """Start of each patch that was heard, ascending; each lasts `PATCH_S` or, in shorter tracks, the whole track."""
    scores: Mapping[str, tuple[float, ...]]
    """Score of each tag in each patch; tags that no patch has are left out: their scores are 0."""
    slices: tuple[tuple[float, float], ...] = ()
    """Start and length of each slice of the track in seconds, in order."""
    bpm: float | None = None
    """Tempo in beats per minute; None without onsets."""
    bpm_strength: float = 0.0
    """How regular the onsets are at that tempo: their autocorrelation at one beat, from 0 to 1."""
    key: str | None = None
    """Key, for example `A minor` or `C# major`; None without pitch."""
    key_strength: float = 0.0
    """Correlation of the chroma with the profile of the key, up to 1."""
    lufs: float | None = None
    """Integrated loudness of the track as it is in the file."""
    loudness: str | None = None
    """`quiet`, `moderately loud` or `loud`, as `measure=loudness` says."""
    brightness_hz: float | None = None
    """Spectral centroid."""
    brightness: str | None = None
    """`dark`, `balanced` or `bright`, as `measure=brightness` says."""
    drums: bool | None = None
    """Whether there are drums, as `measure=drums` says."""
    evidence: Evidence | None = None
    """What captions are checked against; None unless they are."""

    @functools.cached_property
    def track_scores(self) -> dict[str, float]:
        """The mean score of each tag over the track. Tags that are not in it were not heard: their score is 0."""
        return {name: float(np.mean(values)) for name, values in self.scores.items()}

    def scores_at(self, start_s: float, duration_s: float) -> dict[str, float]:
        """Return the score of each tag in a stretch of the track.

        It is the mean of the patches, weighted by a Gaussian window of their distance to the stretch: patches in it count
        fully, those further away count less. So no single patch decides, and between patches the scores change gradually.

        Args:
            start_s: Start of the stretch in seconds.
            duration_s: Its length.
        """
        centres_s = np.array(self.starts_s) + PATCH_S / 2
        distance_s = np.maximum(np.abs(centres_s - (start_s + duration_s / 2)) - duration_s / 2, 0.0)
        # Relative to the nearest patch, so that the weights do not vanish where all patches are far away.
        weights = np.exp(-(np.square(distance_s) - np.square(distance_s.min())) / (2 * _SMOOTHING_S**2))
        return {name: float(np.average(values, weights=weights)) for name, values in self.scores.items()}

    @property
    def slice_scores(self) -> list[dict[str, float]]:
        """The scores of each slice, see `scores_at`."""
        return [self.scores_at(start_s, duration_s) for start_s, duration_s in self.slices]

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON-ready data, as the manifest holds it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        scores = {name: list(values) for name, values in self.scores.items()}
        return fields | {
            "starts_s": list(self.starts_s),
            "scores": scores,
            "slices": [list(one) for one in self.slices],
            "evidence": self.evidence and self.evidence.as_data(),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_data` returned.

        Raises:
            TypeError: If it is something else.
        """
        scores = {name: tuple(values) for name, values in data["scores"].items()}
        slices = tuple((start_s, duration_s) for start_s, duration_s in data["slices"])
        evidence = data.get("evidence")
        plain = {"starts_s": tuple(data["starts_s"]), "evidence": evidence and Evidence.from_data(evidence)}
        return cls(**{**data, **plain, "scores": scores, "slices": slices})


class HeardFile(NamedTuple):
    """An audio file, and what was heard in it."""

    file_hash: str
    heard: Heard | None
    """None if it was not heard."""


def kept_scores(scores: Mapping[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    """Return the scores to keep, of three decimals: those of tags that some patch has."""
    return {
        name: tuple(round(float(value), 3) for value in values)
        for name, values in scores.items()
        if values.max() >= _LEAST_SCORE
    }


class Kind(enum.Enum):
    """What a tag says."""

    genre = "genre"
    instrument = "instrument"
    drums = "drums"
    voice = "voice"
    mood = "mood"
    tempo = "tempo"


@dataclasses.dataclass(frozen=True)
class CaptionTag:
    """A tag of captions.

    Its score is the mean of the scores of the taggers' tags that mean the same.
    """

    name: str
    kind: Kind
    scores: tuple[str, ...]
    """Tags of the taggers, see `Heard.scores`."""
    words: tuple[str, ...]
    """Words for it in a sentence; the first one is the usual one."""
    absent: bool = False
    """Whether it says that something is missing: its score is then 1 minus the mean."""


def _tag(name: str, kind: Kind, scores: str, words: str, absent: bool = False) -> CaptionTag:
    return CaptionTag(name, kind, tuple(scores.split(", ")), tuple(words.split(", ")), absent)


_VOICES = "vocal, vocals, singing, voice"
_CALM = "quiet, soft, msd:chillout, msd:chill, msd:Mellow"
_DRUMS = "drums, beat, beats"

CAPTION_TAGS: tuple[CaptionTag, ...] = (
    _tag("electronic", Kind.genre, "electronic, msd:electronic, msd:electronica", "electronic music, electronica"),
    _tag("techno", Kind.genre, "techno", "techno, techno music"),
    _tag("house", Kind.genre, "msd:House", "house, house music"),
    _tag("dance", Kind.genre, "dance, msd:dance", "dance music, club music"),
    _tag("rock", Kind.genre, "rock, msd:rock", "rock, rock music"),
    _tag("metal", Kind.genre, "metal, msd:metal, msd:heavy metal", "metal, heavy metal"),
    _tag("jazz", Kind.genre, "msd:jazz", "jazz, jazz music"),
    _tag("classical", Kind.genre, "classical, classic", "classical music, orchestral music"),
    _tag("ambient", Kind.genre, "ambient, msd:ambient", "ambient music, ambient"),
    _tag("folk", Kind.genre, "msd:folk", "folk, folk music"),
    _tag("country", Kind.genre, "country, msd:country", "country, country music"),
    _tag("hip hop", Kind.genre, "msd:Hip-Hop", "hip hop, hip-hop beats"),
    _tag("funk", Kind.genre, "msd:funk", "funk, funk music"),
    _tag("soul", Kind.genre, "msd:soul", "soul, soul music"),
    _tag("blues", Kind.genre, "msd:blues", "blues, blues music"),
    _tag("pop", Kind.genre, "pop, msd:pop", "pop, pop music"),
    _tag("acoustic", Kind.genre, "msd:acoustic", "acoustic music, unplugged music"),
    _tag("piano", Kind.instrument, "piano", "piano, keys"),
    _tag("guitar", Kind.instrument, "guitar", "guitar, guitars"),
    _tag("strings", Kind.instrument, "strings, violin, cello", "strings, bowed strings"),
    _tag("violin", Kind.instrument, "violin", "violin, fiddle"),
    _tag("cello", Kind.instrument, "cello", "cello"),
    _tag("flute", Kind.instrument, "flute", "flute"),
    _tag("harp", Kind.instrument, "harp", "harp"),
    _tag("harpsichord", Kind.instrument, "harpsichord", "harpsichord"),
    _tag("sitar", Kind.instrument, "sitar", "sitar"),
    _tag("synthesizer", Kind.instrument, "synth", "synthesizer, synths"),
    _tag("choir", Kind.voice, "choir, choral", "choir, choral voices"),
    _tag("vocals", Kind.voice, _VOICES, "vocals, singing"),
    _tag("female vocals", Kind.voice, "female vocal, woman, female voice, msd:female vocalists", "female vocals"),
    _tag("male vocals", Kind.voice, "male vocal, man, male voice, msd:male vocalists", "male vocals"),
    _tag("instrumental", Kind.voice, _VOICES, "no vocals", absent=True),
    _tag("drums", Kind.drums, _DRUMS, "drums, a drum beat, percussion"),
    _tag("no drums", Kind.drums, _DRUMS, "no drums, no percussion", absent=True),
    _tag("calm", Kind.mood, _CALM, "calm, relaxed, gentle"),
    _tag("energetic", Kind.mood, _CALM, "energetic, lively, driving", absent=True),
    _tag("happy", Kind.mood, "msd:happy", "happy, cheerful, upbeat"),
    _tag("sad", Kind.mood, "msd:sad", "sad, melancholic"),
    _tag("dark", Kind.mood, "weird, msd:experimental", "dark, strange"),
    _tag("slow", Kind.tempo, "slow", "slow, slow-paced, unhurried"),
    _tag("fast", Kind.tempo, "fast", "fast, fast-paced, up-tempo"),
)
"""All tags that are tried. Captions use those that `thresholds.json` has a threshold for."""

_OPPOSITES: tuple[tuple[str, ...], ...] = (
    ("drums", "no drums"),
    ("calm", "energetic"),
    ("slow", "fast"),
    ("happy", "sad"),
    ("electronic", "acoustic"),
    ("vocals", "female vocals", "male vocals", "instrumental"),
    ("strings", "violin"),
    ("strings", "cello"),
)
"""Of each group, a caption says the one that is heard most clearly."""

_LOUDNESS_PHRASES = {
    "quiet": ("quiet", "soft"),
    "moderately loud": ("moderately loud",),
    "loud": ("loud", "powerful"),
}
_BRIGHTNESS_PHRASES = {
    "dark": ("dark-sounding", "muffled"),
    "balanced": ("balanced",),
    "bright": ("bright-sounding", "crisp"),
}


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
        rivals = {name for group in _OPPOSITES if tag.name in group for name in group}
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
    known = {_names(whole): _write_captions(whole, address)}
    slices = []
    for scores in heard.slice_scores:
        facts = find_facts(heard, scores, thresholds)
        names = _names(facts)
        # Slices in which the same is heard share their captions: a text encoder's cache then holds few.
        if names not in known:
            known[names] = _write_captions(facts, f"{address} {' '.join(names)}")
        slices.append(known[names])
    return ListenedCaptions(known[_names(whole)], tuple(slices))


def _names(facts: Facts) -> tuple[str, ...]:
    return tuple(sorted(tag.name for tag in facts.tags))


def _write_captions(facts: Facts, address: str) -> tuple[str, ...]:
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
    words = [rng.choice(_LOUDNESS_PHRASES[loudness])] if loudness else []
    return words + ([rng.choice(_BRIGHTNESS_PHRASES[brightness])] if brightness else [])


def _word(tag: CaptionTag, rng: random.Random) -> str:
    return rng.choice(tag.words)


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

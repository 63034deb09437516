"""Phrases: the tags that captions name, from which scores each follows, and the words that say it."""

import dataclasses
import enum


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

OPPOSITES: tuple[tuple[str, ...], ...] = (
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

LOUDNESS_WORDS = {
    "quiet": ("quiet", "soft"),
    "moderately loud": ("moderately loud",),
    "loud": ("loud", "powerful"),
}
BRIGHTNESS_WORDS = {
    "dark": ("dark-sounding", "muffled"),
    "balanced": ("balanced",),
    "bright": ("bright-sounding", "crisp"),
}

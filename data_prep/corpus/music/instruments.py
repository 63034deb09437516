"""The instruments: General MIDI programs with the words that name them, their range, and how they are played and mixed."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Instrument:
    """One melodic instrument.

    Attributes:
        program: General MIDI program, counted from 0.
        words: What captions call it; the first word is the canonical one, and the name in `INSTRUMENTS`.
        lowest: Lowest note that sounds natural, as a MIDI note number.
        highest: Highest one.
        is_plucked: Whether notes die away by themselves, so that chords may be strummed or repeated.
        vibrato_cents: Vibrato of long notes.
        drive: Saturation of its track.
        bank: Bank of the SoundFont; a font without it plays bank 0.
    """

    program: int
    words: tuple[str, ...]
    lowest: int
    highest: int
    is_plucked: bool = False
    vibrato_cents: float = 0.0
    drive: float = 0.0
    bank: int = 0


_TABLE: tuple[Instrument, ...] = (
    Instrument(0, ("piano", "grand piano", "acoustic piano"), 28, 100, True),
    Instrument(1, ("bright piano",), 28, 100, True),
    Instrument(3, ("honky-tonk piano",), 36, 96, True),
    Instrument(4, ("electric piano", "Rhodes", "Rhodes piano"), 33, 96, True),
    Instrument(5, ("FM electric piano",), 33, 96, True),
    Instrument(6, ("harpsichord",), 36, 89, True),
    Instrument(7, ("clavinet",), 36, 89, True, drive=0.3),
    Instrument(8, ("celesta",), 60, 103, True),
    Instrument(9, ("glockenspiel", "bells"), 67, 103, True),
    Instrument(10, ("music box",), 60, 96, True),
    Instrument(11, ("vibraphone", "vibes"), 48, 96, True),
    Instrument(12, ("marimba",), 41, 93, True),
    Instrument(13, ("xylophone",), 60, 96, True),
    Instrument(14, ("tubular bells",), 55, 79, True),
    Instrument(15, ("dulcimer", "hammered dulcimer"), 48, 91, True),
    Instrument(16, ("organ", "Hammond organ", "drawbar organ"), 36, 93),
    Instrument(18, ("rock organ",), 36, 93, drive=0.4),
    Instrument(19, ("church organ", "pipe organ"), 31, 91),
    Instrument(21, ("accordion",), 48, 91),
    Instrument(22, ("harmonica",), 58, 91, vibrato_cents=8),
    Instrument(23, ("bandoneon",), 45, 90),
    Instrument(24, ("nylon guitar", "classical guitar", "Spanish guitar"), 40, 84, True),
    Instrument(25, ("acoustic guitar", "steel-string guitar"), 40, 86, True),
    Instrument(26, ("jazz guitar",), 40, 86, True),
    Instrument(27, ("electric guitar", "clean electric guitar"), 40, 88, True),
    Instrument(28, ("muted guitar", "palm-muted guitar"), 40, 81, True),
    Instrument(29, ("overdriven guitar", "overdrive guitar"), 40, 88, drive=0.8, vibrato_cents=12),
    Instrument(30, ("distorted guitar", "heavy guitar", "distortion guitar"), 38, 88, drive=1.2, vibrato_cents=10),
    Instrument(32, ("upright bass", "double bass", "acoustic bass"), 28, 60, True),
    Instrument(33, ("bass guitar", "electric bass"), 28, 60, True),
    Instrument(34, ("picked bass",), 28, 60, True, drive=0.3),
    Instrument(35, ("fretless bass",), 28, 62, True),
    Instrument(36, ("slap bass",), 28, 60, True),
    Instrument(38, ("synth bass", "analog bass"), 24, 60, drive=0.6),
    Instrument(39, ("deep synth bass", "sub bass"), 24, 55, drive=0.4),
    Instrument(40, ("violin",), 55, 96, vibrato_cents=14),
    Instrument(41, ("viola",), 48, 84, vibrato_cents=12),
    Instrument(42, ("cello",), 36, 76, vibrato_cents=12),
    Instrument(44, ("tremolo strings",), 40, 88),
    Instrument(45, ("pizzicato strings", "plucked strings"), 36, 90, True),
    Instrument(46, ("harp",), 36, 96, True),
    Instrument(48, ("strings", "string ensemble", "string section"), 36, 93),
    Instrument(49, ("slow strings",), 36, 93),
    Instrument(50, ("synth strings",), 36, 93),
    Instrument(52, ("choir", "voices", "singing choir"), 43, 84),
    Instrument(53, ("voice oohs", "humming voices"), 43, 84),
    Instrument(56, ("trumpet",), 54, 88, vibrato_cents=6),
    Instrument(57, ("trombone",), 40, 74, vibrato_cents=5),
    Instrument(58, ("tuba",), 28, 58),
    Instrument(59, ("muted trumpet",), 54, 86),
    Instrument(60, ("French horn", "horns"), 41, 77),
    Instrument(61, ("brass section", "brass", "horn section"), 43, 84),
    Instrument(62, ("synth brass",), 43, 88),
    Instrument(64, ("soprano saxophone",), 56, 88, vibrato_cents=8),
    Instrument(65, ("alto saxophone", "saxophone", "sax"), 49, 81, vibrato_cents=8),
    Instrument(66, ("tenor saxophone",), 44, 76, vibrato_cents=8),
    Instrument(68, ("oboe",), 58, 91, vibrato_cents=8),
    Instrument(70, ("bassoon",), 34, 72, vibrato_cents=5),
    Instrument(71, ("clarinet",), 50, 91, vibrato_cents=4),
    Instrument(72, ("piccolo",), 74, 103),
    Instrument(73, ("flute",), 60, 96, vibrato_cents=10),
    Instrument(75, ("pan flute",), 60, 93, vibrato_cents=10),
    Instrument(78, ("whistle", "tin whistle"), 67, 98, vibrato_cents=8),
    Instrument(80, ("square lead", "square wave synth", "chip lead"), 36, 98),
    Instrument(81, ("saw lead", "sawtooth synth", "synth lead"), 36, 96, drive=0.3),
    Instrument(87, ("bass and lead synth",), 31, 84, drive=0.5),
    Instrument(88, ("glassy pad", "shimmering pad"), 40, 88),
    Instrument(89, ("warm pad", "synth pad"), 36, 86),
    Instrument(90, ("polysynth", "poly synth"), 40, 93),
    Instrument(91, ("choir pad",), 40, 86),
    Instrument(92, ("bowed pad",), 40, 88),
    Instrument(94, ("halo pad",), 40, 88),
    Instrument(95, ("sweeping pad", "sweep pad"), 36, 88),
    Instrument(104, ("sitar",), 48, 84, True),
    Instrument(105, ("banjo",), 48, 86, True),
    Instrument(107, ("koto",), 48, 88, True),
    Instrument(108, ("kalimba", "thumb piano"), 48, 91, True),
    Instrument(110, ("fiddle",), 55, 93, vibrato_cents=8),
    Instrument(114, ("steel drums", "steel pan"), 52, 88, True),
)

INSTRUMENTS: dict[str, Instrument] = {instrument.words[0]: instrument for instrument in _TABLE}
"""By their canonical names."""

LEADS: tuple[str, ...] = (
    "piano", "electric piano", "organ", "vibraphone", "marimba", "harp", "acoustic guitar", "electric guitar",
    "distorted guitar", "violin", "strings", "choir", "trumpet", "alto saxophone", "flute", "clarinet", "square lead",
    "saw lead", "music box", "accordion",
)  # fmt: skip
"""The instruments that lead a piece: those whose sounds differ clearly."""

REGISTERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "low": (46, ("low", "deep", "low-pitched")),
    "middle": (61, ("mid-range", "middle-register", "medium-pitched")),
    "high": (78, ("high", "high-pitched", "high-register")),
}
"""The centre of the lead as a MIDI note number, and the words for it."""


def registers_of(lead: str) -> list[str]:
    """Return the registers in which an instrument can play."""
    instrument = INSTRUMENTS[lead]
    return [
        name for name, (centre, _) in REGISTERS.items() if instrument.lowest + 4 <= centre <= instrument.highest - 6
    ]

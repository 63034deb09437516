"""The instruments: General MIDI programs with what names them, their range, and how they are played and mixed; and the drums.

Drum patterns are one bar each, as grids: `x` a stroke, `X` an accent, `o` a soft one, `.` a rest; a row is divided evenly.
Rows of 16 are sixteenths of a bar in 4/4, of 12 sixteenths in 3/4 or triplets in 4/4.
"""

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


DRUM_NOTES: dict[str, int] = {
    "kick": 36, "snare": 38, "rim": 37, "clap": 39, "hat": 42, "pedal": 44, "open": 46, "ride": 51, "bell": 53, "crash": 49,
    "low_tom": 45, "tom": 47, "high_tom": 50, "cowbell": 56, "tambourine": 54, "shaker": 70, "conga": 63, "low_conga": 64,
    "bongo": 60, "clave": 75, "triangle": 81, "snap": 39,
}  # fmt: skip
"""General MIDI percussion notes."""
DRUM_KITS: dict[str, int] = {
    "standard": 0, "room": 8, "power": 16, "electronic": 24, "808": 25, "jazz": 32, "brush": 40, "orchestra": 48,
}  # fmt: skip
"""Programs of the drum bank."""
DRUM_VELOCITIES: dict[str, int] = {"X": 122, "x": 100, "o": 58}


@dataclasses.dataclass(frozen=True)
class Drums:
    """One pattern: its kind, the words for it, and its rows by the names in `DRUM_NOTES`."""

    kind: str
    words: tuple[str, ...]
    rows: dict[str, str]


_ROCK = ("rock beat", "rock drums", "steady drums")
_FOUR = ("four on the floor", "four-on-the-floor beat", "pounding kick drum")
_BREAK = ("breakbeat", "breakbeats", "broken beat")
_SWING = ("swing drums", "swinging ride cymbal", "jazz drums")

DRUM_PATTERNS: dict[str, tuple[Drums, ...]] = {
    "rock": (
        Drums("rock", _ROCK, {"kick": "X.......X.......", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."}),
        Drums("rock", _ROCK, {"kick": "X.....x.X.......", "snare": "....X.......X...", "hat": "x.o.x.o.x.o.x.o."}),
        Drums("rock", _ROCK, {"kick": "X..x....X.x.....", "snare": "....X.......X...", "ride": "x.x.x.x.x.x.x.x."}),
        Drums("rock", _ROCK, {"kick": "X.x.....X.x.....", "snare": "....X.......X..o", "open": "x...x...x...x..."}),
    ),
    "metal": (
        Drums("double kick", ("double kick drums", "double bass drums", "heavy drums"),
              {"kick": "X.xxx.xxX.xxx.xx", "snare": "....X.......X...", "crash": "x...x...x...x..."}),
        Drums("double kick", ("double kick drums", "double bass drums", "heavy drums"),
              {"kick": "xxxxxxxxxxxxxxxx", "snare": "....X.......X...", "ride": "x...x...x...x..."}),
        Drums("double kick", ("heavy drums", "crushing drums"),
              {"kick": "X..X..X.X..X..X.", "snare": "........X.......", "open": "x...x...x...x..."}),
        Drums("double kick", ("thrash beat", "pounding drums"),
              {"kick": "X.x.X.x.X.x.X.x.", "snare": "..X...X...X...X.", "hat": "x.x.x.x.x.x.x.x."}),
    ),
    "house": (
        Drums("four on the floor", _FOUR, {"kick": "X...X...X...X...", "clap": "....x.......x...", "open": "..x...x...x...x."}),
        Drums("four on the floor", _FOUR, {"kick": "X...X...X...X...", "clap": "....x.......x...", "hat": "o.xoo.xoo.xoo.xo",
                                           "shaker": "xoxoxoxoxoxoxoxo"}),
        Drums("four on the floor", _FOUR, {"kick": "X...X...X...X..x", "snare": "....x.......x...", "open": "..x...x...x...x.",
                                           "conga": "...x..x....x..x."}),
    ),
    "techno": (
        Drums("four on the floor", _FOUR, {"kick": "X...X...X...X...", "hat": "..x...x...x...x.", "clap": "............x..."}),
        Drums("four on the floor", _FOUR, {"kick": "X...X...X...X...", "hat": "xxxxxxxxxxxxxxxx", "rim": "...x..x....x..x.",
                                           "open": "..x...x...x...x."}),
        Drums("four on the floor", _FOUR, {"kick": "X...X...X...X...", "low_tom": "...x..x...x..x..", "hat": "..xo..xo..xo..xo",
                                           "clap": "....x.......x..."}),
    ),
    "breaks": (
        Drums("breakbeat", _BREAK, {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o", "hat": "x.x.x.x.x.x.x.x."}),
        Drums("breakbeat", _BREAK, {"kick": "X.........x.....", "snare": "....X.......X...", "hat": "xoxoxoxoxoxoxoxo"}),
        Drums("breakbeat", _BREAK, {"kick": "X..x......x..x..", "snare": "....X..o.o.oX.o.", "ride": "x.x.x.x.x.x.x.x."}),
    ),
    "hiphop": (
        Drums("hip hop", ("hip hop beat", "boom bap drums", "laid-back beat"),
              {"kick": "X......xX.x.....", "snare": "....X.......X...", "hat": "x.o.x.o.x.o.x.oo"}),
        Drums("hip hop", ("hip hop beat", "boom bap drums", "dusty drums"),
              {"kick": "X.x....x..x.....", "snare": "....X.......X..o", "hat": "xoxoxoxoxoxoxoxo"}),
        Drums("hip hop", ("hip hop beat", "laid-back beat"),
              {"kick": "X.........x..x..", "rim": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}),
    ),
    "trap": (
        Drums("trap", ("trap drums", "rolling hi-hats", "808 drums"),
              {"kick": "X.....x...x.....", "clap": "........X.......", "hat": "x.x.x.xxx.x.xxxx"}),
        Drums("trap", ("trap drums", "rattling hi-hats", "808 drums"),
              {"kick": "X..x......x..x..", "snare": "........X.......", "hat": "xxxxx.x.xxxxx.xx"}),
    ),
    "funk": (
        Drums("funk", ("funk beat", "funky drums", "tight syncopated drums"),
              {"kick": "X.x...x...x..x..", "snare": "....X..o.o..X..o", "hat": "x.x.x.x.x.x.x.x."}),
        Drums("funk", ("funk beat", "funky drums", "groovy drums"),
              {"kick": "X..x..x.x.x.....", "snare": "....X.o..o..X.oo", "hat": "xoxoxoxoxoxoxoxo",
               "cowbell": "x...x...x...x..."}),
    ),
    "swing": (
        Drums("swing", _SWING, {"ride": "x..x.xx..x.x", "pedal": "...x.....x..", "kick": "o.....o....."}),
        Drums("swing", _SWING, {"ride": "x..x.xx..x.x", "pedal": "...x.....x..", "snare": ".....o.....o"}),
    ),
    "bossa": (
        Drums("bossa", ("bossa nova beat", "soft latin percussion", "bossa rhythm"),
              {"kick": "x..xx..xx..xx..x", "rim": "x..x..x...x..x..", "hat": "oooooooooooooooo"}),
        Drums("bossa", ("bossa nova beat", "brushed latin drums"),
              {"kick": "x..xx..xx..xx..x", "clave": "x..x..x...x..x..", "shaker": "xoxoxoxoxoxoxoxo"}),
    ),
    "reggae": (
        Drums("reggae", ("one drop beat", "reggae drums"),
              {"kick": "........X.......", "rim": "........X.......", "hat": "x.x.x.x.x.x.x.x."}),
        Drums("reggae", ("steppers beat", "reggae drums"),
              {"kick": "X...X...X...X...", "rim": "....x.......x...", "hat": "x.xox.xox.xox.xo"}),
    ),
    "folk": (
        Drums("light percussion", ("light percussion", "tambourine", "gentle percussion"),
              {"kick": "x.......x.......", "tambourine": "..x...x...x...x."}),
        Drums("light percussion", ("brushes", "soft drums", "gentle percussion"),
              {"kick": "x.......x.......", "snare": "..o.x.o...o.x.o.", "shaker": "x.o.x.o.x.o.x.o."}),
    ),
    "waltz": (
        Drums("waltz", ("waltz drums", "brushed waltz drums", "soft drums"),
              {"kick": "x...........", "snare": "....o...o...", "ride": "x...x.x.x..."}),
        Drums("waltz", ("waltz drums", "light drums"),
              {"kick": "x...........", "rim": "....x...x...", "hat": "x.x.x.x.x.x."}),
    ),
    "orchestral": (
        Drums("orchestral percussion", ("orchestral percussion", "cinematic drums", "booming drums"),
              {"kick": "X.....x.X.......", "snare": "o.ooo.ooo.ooo.oo", "crash": "x..............."}),
        Drums("orchestral percussion", ("orchestral percussion", "war drums", "booming drums"),
              {"kick": "X..x..x.X..x..x.", "low_tom": "x.xxx.xxx.xxx.xx"}),
    ),
    "ambient": (
        Drums("soft beat", ("soft electronic beat", "distant beat", "gentle beat"),
              {"kick": "x.......x.......", "rim": "....o.......o...", "hat": "..o...o...o...o."}),
        Drums("soft beat", ("soft electronic beat", "gentle beat"),
              {"kick": "x.........x.....", "snap": "........x.......", "shaker": "o.o.o.o.o.o.o.o."}),
    ),
    "chip": (
        Drums("chip drums", ("8-bit drums", "chip drums", "noise drums"),
              {"kick": "X...x...X...x...", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."}),
        Drums("chip drums", ("8-bit drums", "chip drums"),
              {"kick": "X.....x.X.x.....", "snare": "....x.......x.x.", "hat": "xoxoxoxoxoxoxoxo"}),
    ),
    "synthwave": (
        Drums("gated drums", ("gated drums", "80s drum machine", "big electronic drums"),
              {"kick": "X.......X.......", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."}),
        Drums("gated drums", ("80s drum machine", "punchy electronic drums"),
              {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "xoxoxoxoxoxoxoxo"}),
    ),
    "gospel": (
        Drums("soul drums", ("soul drums", "gospel drums", "12/8 shuffle"),
              {"kick": "x.....x.....", "snare": "...X.....X..", "hat": "xxxxxxxxxxxx"}),
        Drums("soul drums", ("soul drums", "gospel drums", "claps and drums"),
              {"kick": "x....xx.....", "clap": "...x.....x..", "tambourine": "x.xx.xx.xx.x"}),
    ),
    "country": (
        Drums("train beat", ("train beat", "country drums", "brushed drums"),
              {"kick": "x...x...x...x...", "snare": "oox.oox.oox.ooxo", "tambourine": "..x...x...x...x."}),
    ),
    "samba": (
        Drums("latin", ("latin percussion", "congas and claves", "salsa percussion"),
              {"clave": "x..x..x...x.x...", "conga": "..x...xx..x...xx", "cowbell": "x...x.x.x...x.x.",
               "kick": "x..x....x..x...."}),
    ),
    "disco": (
        Drums("four on the floor", _FOUR, {"kick": "X...X...X...X...", "snare": "....X.......X...", "open": "..x...x...x...x.",
                                           "hat": "x...x...x...x..."}),
    ),
}  # fmt: skip

DRUM_FILLS: tuple[dict[str, str], ...] = (
    {"snare": "xoxxXxXX"}, {"high_tom": "xx......", "tom": "..xx....", "low_tom": "....xxXX"}, {"snare": "x..x..xX"},
    {"snare": "x.x.....", "tom": "....x.x.", "low_tom": ".....x.x"}, {"kick": "x...x...", "snare": "..xx.xxX"},
)  # fmt: skip
"""The second half of a bar before a new phrase."""

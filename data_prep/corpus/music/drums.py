"""Drum patterns, one bar each, as grids: `x` a stroke, `X` an accent, `o` a soft one, `.` a rest; a row is divided evenly.

Rows of 16 are sixteenths of a bar in 4/4, of 12 sixteenths in 3/4 or triplets in 4/4.
"""

import dataclasses

NOTES: dict[str, int] = {
    "kick": 36, "snare": 38, "rim": 37, "clap": 39, "hat": 42, "pedal": 44, "open": 46, "ride": 51, "bell": 53, "crash": 49,
    "low_tom": 45, "tom": 47, "high_tom": 50, "cowbell": 56, "tambourine": 54, "shaker": 70, "conga": 63, "low_conga": 64,
    "bongo": 60, "clave": 75, "triangle": 81, "snap": 39,
}  # fmt: skip
"""General MIDI percussion notes."""
KITS: dict[str, int] = {
    "standard": 0, "room": 8, "power": 16, "electronic": 24, "808": 25, "jazz": 32, "brush": 40, "orchestra": 48,
}  # fmt: skip
"""Programs of the drum bank."""
VELOCITIES: dict[str, int] = {"X": 122, "x": 100, "o": 58}


@dataclasses.dataclass(frozen=True)
class Drums:
    """One pattern: its kind, the words for it, and its rows by the names in `NOTES`."""

    kind: str
    words: tuple[str, ...]
    rows: dict[str, str]


_ROCK = ("rock beat", "rock drums", "steady drums")
_FOUR = ("four on the floor", "four-on-the-floor beat", "pounding kick drum")
_BREAK = ("breakbeat", "breakbeats", "broken beat")
_SWING = ("swing drums", "swinging ride cymbal", "jazz drums")

PATTERNS: dict[str, tuple[Drums, ...]] = {
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

FILLS: tuple[dict[str, str], ...] = (
    {"snare": "xoxxXxXX"}, {"high_tom": "xx......", "tom": "..xx....", "low_tom": "....xxXX"}, {"snare": "x..x..xX"},
    {"snare": "x.x.....", "tom": "....x.x.", "low_tom": ".....x.x"}, {"kick": "x...x...", "snare": "..xx.xxX"},
)  # fmt: skip
"""The second half of a bar before a new phrase."""

"""The styles: for each, what its harmony, rhythm, instruments and sound are, as tables to be read and tuned.

Grids divide a bar evenly. Of a bass: `R` root, `5` fifth, `3` third, `7` seventh, `8` octave, `a` a step below the next root, `-` holds,
`.` rests. Of chords: `x` a stroke, `o` a soft one, `-` holds, `.` rests. Progressions are steps of the mode, one a bar; `M` makes a
chord major, `m` minor; `/` divides the bar.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sound:
    """How a style is mixed.

    Attributes:
        reverb: Amount of reverberation, 0 to 1.
        decay_s: Its length, to -60 dB.
        pump: How much the kick drum ducks everything else, 0 to 1.
        drive: Saturation of the mix.
        highest_hz: Where the mix rolls off.
        tilt_db: Treble against bass.
        noise: Level of crackle and hiss.
    """

    reverb: float = 0.2
    decay_s: float = 1.2
    pump: float = 0.0
    drive: float = 0.3
    highest_hz: float = 16000.0
    tilt_db: float = 0.0
    noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class Style:
    """One style.

    Attributes:
        words: What captions call it; the first is canonical.
        moods: Words for its character.
        tempi: Beats per minute of each tempo class that suits it.
        modes: Scales, by the names in `harmony.MODES`; more frequent ones repeated.
        progressions: See the module.
        chord_size: Notes of a chord: 2 (root and fifth), 3, 4 or 5.
        bass: Grids of the bass.
        basses: Its instruments.
        comping: Grids of the chords.
        comps: Their instruments.
        pads: Instruments of held chords.
        leads: Instruments of the melody, of `instruments.LEADS`.
        drums: Names of `drums.PATTERNS`.
        kits: Names of `drums.KITS`.
        sound: How it is mixed.
        beats: Beats of a bar.
        swing: Delay of every second step of the finest grid, as a share of the step.
        melody_density: Notes of the melody per beat.
        scale: "mode", "pentatonic" or "blues", for the melody.
        looseness_ms: Standard deviation of the timing.
    """

    words: tuple[str, ...]
    moods: tuple[str, ...]
    tempi: dict[str, tuple[int, int]]
    modes: tuple[str, ...]
    progressions: tuple[str, ...]
    chord_size: int
    bass: tuple[str, ...]
    basses: tuple[str, ...]
    comping: tuple[str, ...]
    comps: tuple[str, ...]
    pads: tuple[str, ...]
    leads: tuple[str, ...]
    drums: tuple[str, ...]
    kits: tuple[str, ...]
    sound: Sound
    beats: int = 4
    swing: float = 0.0
    melody_density: float = 1.2
    scale: str = "mode"
    looseness_ms: float = 7.0


_SLOW, _MEDIUM, _FAST = (62, 86), (92, 122), (130, 174)
_KEYS_AND_MORE = ("piano", "electric piano", "organ", "vibraphone", "flute", "clarinet", "trumpet", "alto saxophone", "violin",
                  "acoustic guitar", "electric guitar", "choir")  # fmt: skip
_SYNTHS = ("square lead", "saw lead", "electric piano", "piano", "vibraphone", "choir", "strings", "flute", "organ", "marimba",
           "music box", "violin")  # fmt: skip

STYLES: dict[str, Style] = {
    "lo-fi hip hop": Style(
        ("lo-fi hip hop", "lofi beats", "chillhop"), ("relaxed", "mellow", "nostalgic", "sleepy"),
        {"slow": (66, 86), "medium": (92, 98)}, ("minor", "dorian", "major"), ("2 5 1 6", "1 6 2 5", "4 3 2 1", "6 2 5 1"), 5,
        ("R-----.5R---..a-", "R-------..R-5---", "R---..R-----.5a-"), ("bass guitar", "upright bass", "deep synth bass"),
        ("x-----..x---....", "x-------..x-----", "x---------------"), ("electric piano", "jazz guitar", "piano", "FM electric piano"),
        ("warm pad", "synth strings"), (*_KEYS_AND_MORE, "music box"), ("hiphop",), ("standard", "room", "electronic"),
        Sound(0.22, 1.1, 0.25, 0.7, 6500, -3, 0.012), swing=0.28, melody_density=1.0, scale="pentatonic", looseness_ms=12),
    "house": Style(
        ("house", "house music", "deep house"), ("uplifting", "danceable", "groovy", "warm"),
        {"medium": (116, 124), "fast": (126, 132)}, ("minor", "dorian", "minor"), ("1 6 4 5", "1 1 6 7", "4 5 1 1", "1 3 4 6"), 4,
        ("..R-..R-..R-..R-", "R..R..8.R..R..5.", "R.8.R.8.R.8.R.8."), ("synth bass", "deep synth bass"),
        ("..x...x...x...x.", "x..x..x...x..x..", "x-.x-.x-..x-.x-."), ("electric piano", "piano", "organ", "polysynth"),
        ("warm pad", "synth strings", "choir pad"), _SYNTHS, ("house",), ("electronic", "808"),
        Sound(0.2, 1.4, 0.6, 0.5, 16000, 1), swing=0.08, looseness_ms=3),
    "techno": Style(
        ("techno", "techno music", "hard techno"), ("hypnotic", "dark", "driving", "mechanical"),
        {"medium": (118, 124), "fast": (130, 145)}, ("minor", "phrygian"), ("1 1 1 1", "1 1 2 1", "1 1 7 7"), 3,
        (".RRR.RRR.RRR.RRR", "..R...R...R...R.", "RRRRRRRRRRRRRRRR", "R..R..R.R..R..8."), ("synth bass", "deep synth bass"),
        ("...x..x....x..x.", "x.....x.....x...", "x..x..x..x..x.x."), ("polysynth", "saw lead", "square lead", "synth brass"),
        ("sweeping pad", "bowed pad"), _SYNTHS, ("techno",), ("electronic", "808"),
        Sound(0.25, 2.0, 0.55, 0.9, 16000, 0), melody_density=2.0, looseness_ms=1),
    "drum and bass": Style(
        ("drum and bass", "drum 'n' bass", "jungle"), ("energetic", "frantic", "futuristic", "intense"),
        {"fast": (164, 178)}, ("minor", "dorian"), ("1 1 6 7", "1 6 4 5", "1 1 3 2"), 4,
        ("R-----R-----5---", "R-----------8---", "R---..R-..R-5---"), ("deep synth bass", "synth bass"),
        ("x---------------", "x-----x-----....", "..x.....x......."), ("electric piano", "polysynth", "synth strings"),
        ("warm pad", "sweeping pad", "halo pad"), _SYNTHS, ("breaks",), ("power", "room", "electronic"),
        Sound(0.25, 1.8, 0.2, 0.8, 16000, 2), melody_density=0.8, looseness_ms=2),
    "rock": Style(
        ("rock", "rock music", "indie rock"), ("energetic", "confident", "raw", "anthemic"),
        {"slow": (70, 86), "medium": (96, 122), "fast": (130, 168)}, ("major", "mixolydian", "minor"),
        ("1 5 6 4", "1 4 5 4", "6 4 1 5", "1 7 4 1"), 3,
        ("RRRRRRRR", "R.R.R.R.R.R.R.5.", "R--RR-R-R--R5-a-"), ("bass guitar", "picked bass"),
        ("xoxoxoxo", "x-..x.xox-..x.xo", "x---x---x---x-x-"), ("overdriven guitar", "electric guitar", "distorted guitar"),
        ("rock organ", "organ"), ("distorted guitar", "electric guitar", "organ", "piano", "alto saxophone", "trumpet", "violin",
                                  "acoustic guitar", "saw lead", "choir", "flute", "strings"), ("rock",), ("standard", "power", "room"),
        Sound(0.15, 0.9, 0, 0.8, 16000, 1), scale="pentatonic"),
    "metal": Style(
        ("metal", "heavy metal", "thrash metal"), ("aggressive", "heavy", "dark", "furious"),
        {"slow": (66, 84), "medium": (98, 120), "fast": (140, 180)}, ("minor", "phrygian", "harmonic minor"),
        ("1 1 6 7", "1 2 1 7", "1 6 4 5", "1 1 1 2"), 2,
        ("RRRRRRRRRRRRRRRR", "R.RRR.RRR.RRR.RR", "R--RR-R-R--RR-R-"), ("picked bass", "bass guitar"),
        ("xxxxxxxxxxxxxxxx", "x.xxx.xxx.xxx.xx", "x--xx-x-x--xx-x-", "x-------x---x---"), ("distorted guitar",),
        ("choir", "strings"), ("distorted guitar", "electric guitar", "choir", "strings", "organ", "violin", "saw lead", "piano",
                               "square lead"), ("metal",), ("power", "standard", "room"),
        Sound(0.1, 0.8, 0, 1.4, 16000, 2), melody_density=2.2, looseness_ms=4),
    "funk": Style(
        ("funk", "funk music", "groovy funk"), ("groovy", "playful", "upbeat", "tight"),
        {"slow": (80, 88), "medium": (94, 120)}, ("dorian", "mixolydian"), ("1 1 1 4", "1 1 4 1", "1 4 1 4", "1 2 1 2"), 5,
        ("R..R..8.R.7.8.a.", "R.8...7.R..R5.7.", "R-.8.7R...R.a.RR"), ("slap bass", "bass guitar"),
        ("..x.ox..x.ox.xo.", "xoxx.oxoxoxx.oxo", "...x...x...x.xx."), ("clavinet", "electric guitar", "muted guitar", "organ"),
        ("brass section", "organ"), ("alto saxophone", "trumpet", "organ", "electric guitar", "electric piano", "piano", "flute",
                                     "square lead", "saw lead", "vibraphone", "clarinet"), ("funk",), ("standard", "room"),
        Sound(0.12, 0.7, 0, 0.6, 15000, 1), swing=0.1, melody_density=1.8, scale="blues"),
    "jazz": Style(
        ("jazz", "jazz trio", "swing jazz"), ("cool", "smoky", "sophisticated", "relaxed"),
        {"slow": _SLOW, "medium": _MEDIUM, "fast": (140, 180)}, ("major", "dorian", "minor"),
        ("2 5 1 1", "1 6 2 5", "3 6 2 5", "1 4 3/6 2/5"), 5,
        ("R35a", "R53a", "R57a", "R385"), ("upright bass",),
        ("...x.....x..", "x.......x...", "..x..x......", ".....x.....x"), ("piano", "jazz guitar", "electric piano"),
        (), ("piano", "alto saxophone", "trumpet", "vibraphone", "clarinet", "electric guitar", "flute", "organ", "violin",
             "electric piano", "accordion"), ("swing",), ("jazz", "brush"),
        Sound(0.18, 1.0, 0, 0.2, 14000, -1), swing=0.33, melody_density=2.0, looseness_ms=12),
    "bossa nova": Style(
        ("bossa nova", "brazilian bossa", "latin lounge"), ("breezy", "gentle", "romantic", "sunny"),
        {"slow": (74, 88), "medium": (94, 124), "fast": (128, 150)}, ("major", "dorian", "minor"),
        ("1 2M 2 5", "1 6 2 5", "2 5 1 6", "1 4 3 6M"), 5,
        ("R--5---5R--5---5", "R--5---RR--5---a"), ("upright bass", "bass guitar"),
        ("x..x..x...x..x..", "x.x..x.x..x..x..", "..x..x.x..x..x.."), ("nylon guitar", "jazz guitar", "piano"),
        ("warm pad", "strings"), ("flute", "piano", "alto saxophone", "vibraphone", "acoustic guitar", "electric piano", "clarinet",
                                  "trumpet", "violin", "accordion", "marimba"), ("bossa",), ("brush", "jazz", "standard"),
        Sound(0.2, 1.2, 0, 0.15, 14000, -1), melody_density=1.3),
    "reggae": Style(
        ("reggae", "roots reggae", "dub"), ("laid-back", "sunny", "easygoing", "warm"),
        {"slow": (66, 86), "medium": (92, 104), "fast": (130, 150)}, ("minor", "major", "mixolydian"),
        ("1 4 1 4", "1 5 6 4", "1 2 1 2", "1 7 1 7"), 3,
        ("R-..R-5-..8-5-..", "..R-R-..5-8-R-..", "R--R--5-..R-3-5-"), ("bass guitar", "fretless bass", "deep synth bass"),
        ("....x.......x...", "..x...x...x...x.", "....xo......xo.."), ("electric guitar", "organ", "piano", "muted guitar"),
        ("organ",), ("organ", "trumpet", "alto saxophone", "electric guitar", "flute", "piano", "accordion", "electric piano",
                     "square lead", "choir", "clarinet", "marimba"), ("reggae",), ("standard", "room"),
        Sound(0.3, 1.8, 0, 0.4, 13000, -1), swing=0.12, melody_density=1.0, scale="pentatonic"),
    "folk": Style(
        ("folk", "folk music", "acoustic folk"), ("heartfelt", "rustic", "intimate", "gentle"),
        {"slow": _SLOW, "medium": _MEDIUM, "fast": (130, 160)}, ("major", "mixolydian", "dorian"),
        ("1 4 1 5", "1 5 6 4", "1 6 4 5", "1 4 5 1"), 3,
        ("R-------5-------", "R---5---R---5---", "R-------R---a---"), ("upright bass", "bass guitar"),
        ("x..ox.ox.oxox.ox", "x.x.x.x.x.x.x.x.", "x-o-x-xo-ox-x-xo"), ("acoustic guitar", "nylon guitar", "banjo", "dulcimer"),
        ("accordion", "strings"), ("violin", "flute", "acoustic guitar", "accordion", "clarinet", "harp", "piano", "choir",
                                   "marimba", "trumpet", "strings"), ("folk", "country"), ("brush", "standard"),
        Sound(0.2, 1.1, 0, 0.15, 15000, 0), melody_density=1.5),
    "waltz": Style(
        ("waltz", "waltz music", "music in three-four time"), ("elegant", "dancing", "romantic", "wistful"),
        {"slow": (72, 88), "medium": (92, 124), "fast": (132, 176)}, ("major", "minor", "harmonic minor"),
        ("1 5 5 1", "1 4 5 1", "1 6 2 5", "1 1 5 5"), 3,
        ("R..", "R--", "R.5"), ("upright bass", "tuba", "bassoon"),
        (".xx", "..x.x.", ".x-x"), ("accordion", "piano", "strings", "pizzicato strings", "nylon guitar", "harp"),
        ("strings",), ("violin", "accordion", "clarinet", "flute", "piano", "trumpet", "music box", "strings", "choir", "harp",
                       "acoustic guitar", "vibraphone"), ("waltz",), ("brush", "jazz", "standard"),
        Sound(0.25, 1.5, 0, 0.1, 15000, 0), beats=3, melody_density=1.2),
    "orchestral": Style(
        ("orchestral", "orchestral music", "cinematic orchestra", "film score"), ("epic", "majestic", "dramatic", "solemn"),
        {"slow": _SLOW, "medium": _MEDIUM, "fast": (132, 166)}, ("minor", "major", "harmonic minor", "lydian"),
        ("1 6 3 7", "1 4 5M 1", "1 5 6 4", "1 6 4 5"), 4,
        ("R-------5-------", "R---R---R---R---", "R.RRR.RRR.RRR.RR"), ("cello", "tuba", "bassoon"),
        ("x---x---x---x---", "x.x.x.x.x.x.x.x.", "x.xxx.xxx.xxx.xx", "x---------------"),
        ("strings", "pizzicato strings", "tremolo strings", "harp", "French horn"),
        ("strings", "choir", "French horn", "slow strings"), ("violin", "trumpet", "flute", "clarinet", "strings", "choir", "harp",
                                                              "piano"), ("orchestral",), ("orchestra",),
        Sound(0.4, 2.4, 0, 0.1, 15000, -1), melody_density=1.1, looseness_ms=10),
    "ambient": Style(
        ("ambient", "ambient music", "soundscape"), ("dreamy", "peaceful", "spacious", "floating"),
        {"slow": (60, 84), "medium": (92, 110)}, ("major", "lydian", "dorian", "minor"),
        ("1 1 4 4", "1 6 4 1", "1 1 5 4", "6 6 4 4"), 5,
        ("R---------------", "R-------5-------"), ("deep synth bass", "fretless bass", "cello"),
        ("x-------o-------", "x---o---x---o---"), ("electric piano", "glassy pad", "harp", "FM electric piano", "kalimba"),
        ("warm pad", "glassy pad", "halo pad", "sweeping pad", "bowed pad", "choir pad", "slow strings"),
        ("piano", "electric piano", "flute", "vibraphone", "choir", "strings", "harp", "music box", "violin", "saw lead",
         "electric guitar", "clarinet"), ("ambient",), ("electronic", "808"),
        Sound(0.6, 3.5, 0, 0.1, 12000, -2), melody_density=0.5, scale="pentatonic", looseness_ms=15),
    "chiptune": Style(
        ("chiptune", "8-bit music", "video game music"), ("playful", "cheerful", "bouncy", "retro"),
        {"slow": (76, 88), "medium": (96, 122), "fast": (132, 176)}, ("major", "minor", "mixolydian"),
        ("1 5 6 4", "1 4 5 1", "6 4 1 5", "1 7 6 5"), 3,
        ("R.8.R.8.R.8.R.8.", "R.R.5.5.R.R.5.5.", "RR8RRR8RRR8RRR8R"), ("square lead", "bass and lead synth"),
        ("xxxxxxxxxxxxxxxx", "x.x.x.x.x.x.x.x."), ("square lead",), (),
        ("square lead", "square lead", "saw lead", "music box", "vibraphone", "piano", "flute", "organ"), ("chip",), ("electronic", "808"),
        Sound(0.04, 0.5, 0, 0.6, 16000, 2), melody_density=2.4, looseness_ms=0),
    "trap": Style(
        ("trap", "trap beat", "modern hip hop"), ("menacing", "moody", "dark", "confident"),
        {"slow": (64, 80), "fast": (130, 150)}, ("minor", "harmonic minor", "phrygian"), ("1 1 6 7", "1 6 1 2", "1 1 4 5"), 3,
        ("R-----R---R-----", "R---------5-----", "R--R------R--8--"), ("deep synth bass",),
        ("x---------------", "x---x---x---x---"), ("piano", "polysynth", "pizzicato strings", "choir pad"),
        ("choir pad", "synth strings", "bowed pad"), (*_SYNTHS, "trumpet", "harp"), ("trap",), ("808",),
        Sound(0.25, 1.6, 0.2, 0.8, 15000, 0), melody_density=1.4, looseness_ms=3),
    "synthwave": Style(
        ("synthwave", "retro 80s synth music", "outrun"), ("nostalgic", "neon", "driving", "dreamy"),
        {"slow": (76, 88), "medium": (92, 118), "fast": (130, 150)}, ("minor", "dorian", "major"),
        ("6 4 1 5", "1 6 3 7", "4 5 6 6", "1 7 6 7"), 4,
        ("RRRRRRRRRRRRRRRR", "R.RRR.RRR.RRR.RR", "R8R8R8R8R8R8R8R8"), ("synth bass",),
        ("x---------------", "x..x..x.x..x..x.", "x-----x-----x---"), ("polysynth", "synth brass", "synth strings"),
        ("warm pad", "synth strings", "choir pad"), (*_SYNTHS, "alto saxophone", "electric guitar"), ("synthwave",),
        ("electronic", "power"), Sound(0.35, 2.0, 0.25, 0.6, 15000, 0), melody_density=1.2, looseness_ms=3),
    "gospel": Style(
        ("gospel", "gospel soul", "soul music"), ("joyful", "soulful", "uplifting", "passionate"),
        {"slow": (62, 86), "medium": (92, 116)}, ("major", "mixolydian"), ("1 4 1 5", "1 3M 6 4", "1 6 2 5", "4 1 5 1"), 4,
        ("R..5..8..5a.", "R-----5--R-a", "R..R..3..5.a"), ("bass guitar", "fretless bass"),
        ("x--x--x--x--", "x-----x-----", "x..x.xx..x.x"), ("organ", "piano", "electric piano"),
        ("choir", "organ", "voice oohs"), ("choir", "organ", "piano", "alto saxophone", "trumpet", "electric guitar",
                                           "electric piano", "flute", "strings"), ("gospel",), ("standard", "room"),
        Sound(0.25, 1.4, 0, 0.4, 15000, 0), melody_density=1.3, scale="blues", looseness_ms=10),
    "latin": Style(
        ("latin", "salsa", "latin dance music"), ("festive", "fiery", "danceable", "lively"),
        {"medium": (94, 122), "fast": (150, 178)}, ("minor", "dorian", "major", "harmonic minor"),
        ("1 4 5 4", "2 5 1 1", "1 1 5M 5M", "1 7 6 5M"), 4,
        ("...R--5---8-R---", "R--5--8-..R-5-8-"), ("upright bass", "bass guitar"),
        ("x.xx.x.xx.x.xx.x", "x..x..xx..x.x.x."), ("piano", "nylon guitar", "marimba"),
        ("brass section", "strings"), ("trumpet", "flute", "piano", "vibraphone", "marimba", "acoustic guitar", "alto saxophone",
                                       "violin", "accordion", "clarinet"), ("samba",), ("standard", "room"),
        Sound(0.15, 0.9, 0, 0.4, 15000, 1), melody_density=1.8),
    "disco": Style(
        ("disco", "disco funk", "70s disco"), ("glamorous", "upbeat", "danceable", "happy"),
        {"medium": (108, 124), "fast": (126, 136)}, ("minor", "dorian", "major"), ("1 4 5 4", "1 6 4 5", "6 2 5 1", "1 7 6 7"), 4,
        ("R.8.R.8.R.8.R.8.", "R-8.R-8.5-8.7-8."), ("bass guitar", "slap bass", "picked bass"),
        ("xoxxxoxxxoxxxoxx", "..x...x...x...x."), ("electric guitar", "clavinet", "electric piano"),
        ("strings", "synth strings"), ("strings", "alto saxophone", "trumpet", "flute", "piano", "electric piano",
                                       "organ", "violin", "saw lead", "vibraphone"), ("disco",), ("standard", "room", "electronic"),
        Sound(0.18, 1.0, 0.15, 0.5, 16000, 1), melody_density=1.4),
}  # fmt: skip
"""By their canonical names."""

TEMPO_WORDS: dict[str, tuple[str, ...]] = {
    "slow": ("slow", "slow tempo", "unhurried", "slow-paced"),
    "medium": ("mid-tempo", "medium tempo", "moderate", "walking-pace"),
    "fast": ("fast", "fast-paced", "up-tempo", "quick"),
}

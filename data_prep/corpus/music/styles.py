"""The styles: for each, what its harmony, rhythm, instruments and sound are, as tables to be read and tuned.

Grids divide a bar evenly. Of a bass: `R` root, `5` fifth, `3` third, `7` seventh, `8` octave, `a` a note next to the following
root, `-` holds, `.` rests. Of chords: `x` a stroke, `o` a soft one, `-` holds, `.` rests. Progressions are steps of the mode,
one a bar; `M` makes a chord major, `m` minor; `/` divides the bar.
"""

import dataclasses

from data_prep.corpus.music.mix import Sound


@dataclasses.dataclass(frozen=True)
class Style:
    """One style.

    Attributes:
        words: What captions call it; the first is canonical.
        moods: Words for its character.
        tempi: Beats per minute of each tempo class that suits it.
        modes: Scales, by the names in `melody.MODES`; more frequent ones repeated.
        progressions: See the module.
        chord_size: Notes of a chord: 2 (root and fifth), 3, 4 or 5.
        bass: Grids of the bass.
        basses: Its instruments.
        comping: Grids of the chords.
        comps: Their instruments.
        pads: Instruments of held chords.
        leads: Instruments of the melody, of `instruments.LEADS`.
        drums: Names of `instruments.DRUM_PATTERNS`.
        kits: Names of `instruments.DRUM_KITS`.
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


STYLES: dict[str, Style] = {
    "lo-fi hip hop": Style(
        words=("lo-fi hip hop", "lofi beats", "chillhop"),
        moods=("relaxed", "mellow", "nostalgic", "sleepy"),
        tempi={"slow": (66, 86), "medium": (92, 98)},
        modes=("minor", "dorian", "major"),
        progressions=("2 5 1 6", "1 6 2 5", "4 3 2 1", "6 2 5 1"),
        chord_size=5,
        bass=("R-----.5R---..a-", "R-------..R-5---", "R---..R-----.5a-"),
        basses=("bass guitar", "upright bass", "deep synth bass"),
        comping=("x-----..x---....", "x-------..x-----", "x---------------"),
        comps=("electric piano", "jazz guitar", "piano", "FM electric piano"),
        pads=("warm pad", "synth strings"),
        leads=_names(
            "piano, electric piano, organ, vibraphone, flute, clarinet, trumpet, alto saxophone, violin, acoustic "
            "guitar, electric guitar, choir, music box"
        ),
        drums=("hiphop",),
        kits=("standard", "room", "electronic"),
        sound=Sound(reverb=0.22, decay_s=1.1, pump=0.25, drive=0.7, highest_hz=6500, tilt_db=-3, noise=0.012),
        swing=0.28,
        melody_density=1.0,
        scale="pentatonic",
        looseness_ms=12,
    ),
    "house": Style(
        words=("house", "house music", "deep house"),
        moods=("uplifting", "danceable", "groovy", "warm"),
        tempi={"medium": (116, 124), "fast": (126, 132)},
        modes=("minor", "dorian", "minor"),
        progressions=("1 6 4 5", "1 1 6 7", "4 5 1 1", "1 3 4 6"),
        chord_size=4,
        bass=("..R-..R-..R-..R-", "R..R..8.R..R..5.", "R.8.R.8.R.8.R.8."),
        basses=("synth bass", "deep synth bass"),
        comping=("..x...x...x...x.", "x..x..x...x..x..", "x-.x-.x-..x-.x-."),
        comps=("electric piano", "piano", "organ", "polysynth"),
        pads=("warm pad", "synth strings", "choir pad"),
        leads=_names(
            "square lead, saw lead, electric piano, piano, vibraphone, choir, strings, flute, organ, marimba, "
            "music box, violin"
        ),
        drums=("house",),
        kits=("electronic", "808"),
        sound=Sound(decay_s=1.4, pump=0.6, drive=0.5, tilt_db=1),
        swing=0.08,
        looseness_ms=3,
    ),
    "techno": Style(
        words=("techno", "techno music", "hard techno"),
        moods=("hypnotic", "dark", "driving", "mechanical"),
        tempi={"medium": (118, 124), "fast": (130, 145)},
        modes=("minor", "phrygian"),
        progressions=("1 1 1 1", "1 1 2 1", "1 1 7 7"),
        chord_size=3,
        bass=(".RRR.RRR.RRR.RRR", "..R...R...R...R.", "RRRRRRRRRRRRRRRR", "R..R..R.R..R..8."),
        basses=("synth bass", "deep synth bass"),
        comping=("...x..x....x..x.", "x.....x.....x...", "x..x..x..x..x.x."),
        comps=("polysynth", "saw lead", "square lead", "synth brass"),
        pads=("sweeping pad", "bowed pad"),
        leads=_names(
            "square lead, saw lead, electric piano, piano, vibraphone, choir, strings, flute, organ, marimba, "
            "music box, violin"
        ),
        drums=("techno",),
        kits=("electronic", "808"),
        sound=Sound(reverb=0.25, decay_s=2.0, pump=0.55, drive=0.9),
        melody_density=2.0,
        looseness_ms=1,
    ),
    "drum and bass": Style(
        words=("drum and bass", "drum 'n' bass", "jungle"),
        moods=("energetic", "frantic", "futuristic", "intense"),
        tempi={"fast": (164, 178)},
        modes=("minor", "dorian"),
        progressions=("1 1 6 7", "1 6 4 5", "1 1 3 2"),
        chord_size=4,
        bass=("R-----R-----5---", "R-----------8---", "R---..R-..R-5---"),
        basses=("deep synth bass", "synth bass"),
        comping=("x---------------", "x-----x-----....", "..x.....x......."),
        comps=("electric piano", "polysynth", "synth strings"),
        pads=("warm pad", "sweeping pad", "halo pad"),
        leads=_names(
            "square lead, saw lead, electric piano, piano, vibraphone, choir, strings, flute, organ, marimba, "
            "music box, violin"
        ),
        drums=("breaks",),
        kits=("power", "room", "electronic"),
        sound=Sound(reverb=0.25, decay_s=1.8, pump=0.2, drive=0.8, tilt_db=2),
        melody_density=0.8,
        looseness_ms=2,
    ),
    "rock": Style(
        words=("rock", "rock music", "indie rock"),
        moods=("energetic", "confident", "raw", "anthemic"),
        tempi={"slow": (70, 86), "medium": (96, 122), "fast": (130, 168)},
        modes=("major", "mixolydian", "minor"),
        progressions=("1 5 6 4", "1 4 5 4", "6 4 1 5", "1 7 4 1"),
        chord_size=3,
        bass=("RRRRRRRR", "R.R.R.R.R.R.R.5.", "R--RR-R-R--R5-a-"),
        basses=("bass guitar", "picked bass"),
        comping=("xoxoxoxo", "x-..x.xox-..x.xo", "x---x---x---x-x-"),
        comps=("overdriven guitar", "electric guitar", "distorted guitar"),
        pads=("rock organ", "organ"),
        leads=_names(
            "distorted guitar, electric guitar, organ, piano, alto saxophone, trumpet, violin, acoustic guitar, "
            "saw lead, choir, flute, strings"
        ),
        drums=("rock",),
        kits=("standard", "power", "room"),
        sound=Sound(reverb=0.15, decay_s=0.9, drive=0.8, tilt_db=1),
        scale="pentatonic",
    ),
    "metal": Style(
        words=("metal", "heavy metal", "thrash metal"),
        moods=("aggressive", "heavy", "dark", "furious"),
        tempi={"slow": (66, 84), "medium": (98, 120), "fast": (140, 180)},
        modes=("minor", "phrygian", "harmonic minor"),
        progressions=("1 1 6 7", "1 2 1 7", "1 6 4 5", "1 1 1 2"),
        chord_size=2,
        bass=("RRRRRRRRRRRRRRRR", "R.RRR.RRR.RRR.RR", "R--RR-R-R--RR-R-"),
        basses=("picked bass", "bass guitar"),
        comping=("xxxxxxxxxxxxxxxx", "x.xxx.xxx.xxx.xx", "x--xx-x-x--xx-x-", "x-------x---x---"),
        comps=("distorted guitar",),
        pads=("choir", "strings"),
        leads=_names("distorted guitar, electric guitar, choir, strings, organ, violin, saw lead, piano, square lead"),
        drums=("metal",),
        kits=("power", "standard", "room"),
        sound=Sound(reverb=0.1, decay_s=0.8, drive=1.4, tilt_db=2),
        melody_density=2.2,
        looseness_ms=4,
    ),
    "funk": Style(
        words=("funk", "funk music", "groovy funk"),
        moods=("groovy", "playful", "upbeat", "tight"),
        tempi={"slow": (80, 88), "medium": (94, 120)},
        modes=("dorian", "mixolydian"),
        progressions=("1 1 1 4", "1 1 4 1", "1 4 1 4", "1 2 1 2"),
        chord_size=5,
        bass=("R..R..8.R.7.8.a.", "R.8...7.R..R5.7.", "R-.8.7R...R.a.RR"),
        basses=("slap bass", "bass guitar"),
        comping=("..x.ox..x.ox.xo.", "xoxx.oxoxoxx.oxo", "...x...x...x.xx."),
        comps=("clavinet", "electric guitar", "muted guitar", "organ"),
        pads=("brass section", "organ"),
        leads=_names(
            "alto saxophone, trumpet, organ, electric guitar, electric piano, piano, flute, square lead, saw "
            "lead, vibraphone, clarinet"
        ),
        drums=("funk",),
        kits=("standard", "room"),
        sound=Sound(reverb=0.12, decay_s=0.7, drive=0.6, highest_hz=15000, tilt_db=1),
        swing=0.1,
        melody_density=1.8,
        scale="blues",
    ),
    "jazz": Style(
        words=("jazz", "jazz trio", "swing jazz"),
        moods=("cool", "smoky", "sophisticated", "relaxed"),
        tempi={"slow": (62, 86), "medium": (92, 122), "fast": (140, 180)},
        modes=("major", "dorian", "minor"),
        progressions=("2 5 1 1", "1 6 2 5", "3 6 2 5", "1 4 3/6 2/5"),
        chord_size=5,
        bass=("R35a", "R53a", "R57a", "R385"),
        basses=("upright bass",),
        comping=("...x.....x..", "x.......x...", "..x..x......", ".....x.....x"),
        comps=("piano", "jazz guitar", "electric piano"),
        pads=(),
        leads=_names(
            "piano, alto saxophone, trumpet, vibraphone, clarinet, electric guitar, flute, organ, violin, "
            "electric piano, accordion"
        ),
        drums=("swing",),
        kits=("jazz", "brush"),
        sound=Sound(reverb=0.18, decay_s=1.0, drive=0.2, highest_hz=14000, tilt_db=-1),
        swing=0.33,
        melody_density=2.0,
        looseness_ms=12,
    ),
    "bossa nova": Style(
        words=("bossa nova", "brazilian bossa", "latin lounge"),
        moods=("breezy", "gentle", "romantic", "sunny"),
        tempi={"slow": (74, 88), "medium": (94, 124), "fast": (128, 150)},
        modes=("major", "dorian", "minor"),
        progressions=("1 2M 2 5", "1 6 2 5", "2 5 1 6", "1 4 3 6M"),
        chord_size=5,
        bass=("R--5---5R--5---5", "R--5---RR--5---a"),
        basses=("upright bass", "bass guitar"),
        comping=("x..x..x...x..x..", "x.x..x.x..x..x..", "..x..x.x..x..x.."),
        comps=("nylon guitar", "jazz guitar", "piano"),
        pads=("warm pad", "strings"),
        leads=_names(
            "flute, piano, alto saxophone, vibraphone, acoustic guitar, electric piano, clarinet, trumpet, "
            "violin, accordion, marimba"
        ),
        drums=("bossa",),
        kits=("brush", "jazz", "standard"),
        sound=Sound(drive=0.15, highest_hz=14000, tilt_db=-1),
        melody_density=1.3,
    ),
    "reggae": Style(
        words=("reggae", "roots reggae", "dub"),
        moods=("laid-back", "sunny", "easygoing", "warm"),
        tempi={"slow": (66, 86), "medium": (92, 104), "fast": (130, 150)},
        modes=("minor", "major", "mixolydian"),
        progressions=("1 4 1 4", "1 5 6 4", "1 2 1 2", "1 7 1 7"),
        chord_size=3,
        bass=("R-..R-5-..8-5-..", "..R-R-..5-8-R-..", "R--R--5-..R-3-5-"),
        basses=("bass guitar", "fretless bass", "deep synth bass"),
        comping=("....x.......x...", "..x...x...x...x.", "....xo......xo.."),
        comps=("electric guitar", "organ", "piano", "muted guitar"),
        pads=("organ",),
        leads=_names(
            "organ, trumpet, alto saxophone, electric guitar, flute, piano, accordion, electric piano, square "
            "lead, choir, clarinet, marimba"
        ),
        drums=("reggae",),
        kits=("standard", "room"),
        sound=Sound(reverb=0.3, decay_s=1.8, drive=0.4, highest_hz=13000, tilt_db=-1),
        swing=0.12,
        melody_density=1.0,
        scale="pentatonic",
    ),
    "folk": Style(
        words=("folk", "folk music", "acoustic folk"),
        moods=("heartfelt", "rustic", "intimate", "gentle"),
        tempi={"slow": (62, 86), "medium": (92, 122), "fast": (130, 160)},
        modes=("major", "mixolydian", "dorian"),
        progressions=("1 4 1 5", "1 5 6 4", "1 6 4 5", "1 4 5 1"),
        chord_size=3,
        bass=("R-------5-------", "R---5---R---5---", "R-------R---a---"),
        basses=("upright bass", "bass guitar"),
        comping=("x..ox.ox.oxox.ox", "x.x.x.x.x.x.x.x.", "x-o-x-xo-ox-x-xo"),
        comps=("acoustic guitar", "nylon guitar", "banjo", "dulcimer"),
        pads=("accordion", "strings"),
        leads=_names(
            "violin, flute, acoustic guitar, accordion, clarinet, harp, piano, choir, marimba, trumpet, strings"
        ),
        drums=("folk", "country"),
        kits=("brush", "standard"),
        sound=Sound(decay_s=1.1, drive=0.15, highest_hz=15000),
        melody_density=1.5,
    ),
    "waltz": Style(
        words=("waltz", "waltz music", "music in three-four time"),
        moods=("elegant", "dancing", "romantic", "wistful"),
        tempi={"slow": (72, 88), "medium": (92, 124), "fast": (132, 176)},
        modes=("major", "minor", "harmonic minor"),
        progressions=("1 5 5 1", "1 4 5 1", "1 6 2 5", "1 1 5 5"),
        chord_size=3,
        bass=("R..", "R--", "R.5"),
        basses=("upright bass", "tuba", "bassoon"),
        comping=(".xx", "..x.x.", ".x-x"),
        comps=("accordion", "piano", "strings", "pizzicato strings", "nylon guitar", "harp"),
        pads=("strings",),
        leads=_names(
            "violin, accordion, clarinet, flute, piano, trumpet, music box, strings, choir, harp, acoustic "
            "guitar, vibraphone"
        ),
        drums=("waltz",),
        kits=("brush", "jazz", "standard"),
        sound=Sound(reverb=0.25, decay_s=1.5, drive=0.1, highest_hz=15000),
        beats=3,
    ),
    "orchestral": Style(
        words=("orchestral", "orchestral music", "cinematic orchestra", "film score"),
        moods=("epic", "majestic", "dramatic", "solemn"),
        tempi={"slow": (62, 86), "medium": (92, 122), "fast": (132, 166)},
        modes=("minor", "major", "harmonic minor", "lydian"),
        progressions=("1 6 3 7", "1 4 5M 1", "1 5 6 4", "1 6 4 5"),
        chord_size=4,
        bass=("R-------5-------", "R---R---R---R---", "R.RRR.RRR.RRR.RR"),
        basses=("cello", "tuba", "bassoon"),
        comping=("x---x---x---x---", "x.x.x.x.x.x.x.x.", "x.xxx.xxx.xxx.xx", "x---------------"),
        comps=("strings", "pizzicato strings", "tremolo strings", "harp", "French horn"),
        pads=("strings", "choir", "French horn", "slow strings"),
        leads=_names("violin, trumpet, flute, clarinet, strings, choir, harp, piano"),
        drums=("orchestral",),
        kits=("orchestra",),
        sound=Sound(reverb=0.4, decay_s=2.4, drive=0.1, highest_hz=15000, tilt_db=-1),
        melody_density=1.1,
        looseness_ms=10,
    ),
    "ambient": Style(
        words=("ambient", "ambient music", "soundscape"),
        moods=("dreamy", "peaceful", "spacious", "floating"),
        tempi={"slow": (60, 84), "medium": (92, 110)},
        modes=("major", "lydian", "dorian", "minor"),
        progressions=("1 1 4 4", "1 6 4 1", "1 1 5 4", "6 6 4 4"),
        chord_size=5,
        bass=("R---------------", "R-------5-------"),
        basses=("deep synth bass", "fretless bass", "cello"),
        comping=("x-------o-------", "x---o---x---o---"),
        comps=("electric piano", "glassy pad", "harp", "FM electric piano", "kalimba"),
        pads=("warm pad", "glassy pad", "halo pad", "sweeping pad", "bowed pad", "choir pad", "slow strings"),
        leads=_names(
            "piano, electric piano, flute, vibraphone, choir, strings, harp, music box, violin, saw lead, "
            "electric guitar, clarinet"
        ),
        drums=("ambient",),
        kits=("electronic", "808"),
        sound=Sound(reverb=0.6, decay_s=3.5, drive=0.1, highest_hz=12000, tilt_db=-2),
        melody_density=0.5,
        scale="pentatonic",
        looseness_ms=15,
    ),
    "chiptune": Style(
        words=("chiptune", "8-bit music", "video game music"),
        moods=("playful", "cheerful", "bouncy", "retro"),
        tempi={"slow": (76, 88), "medium": (96, 122), "fast": (132, 176)},
        modes=("major", "minor", "mixolydian"),
        progressions=("1 5 6 4", "1 4 5 1", "6 4 1 5", "1 7 6 5"),
        chord_size=3,
        bass=("R.8.R.8.R.8.R.8.", "R.R.5.5.R.R.5.5.", "RR8RRR8RRR8RRR8R"),
        basses=("square lead", "bass and lead synth"),
        comping=("xxxxxxxxxxxxxxxx", "x.x.x.x.x.x.x.x."),
        comps=("square lead",),
        pads=(),
        leads=_names("square lead, saw lead, music box, vibraphone, piano, flute, organ"),
        drums=("chip",),
        kits=("electronic", "808"),
        sound=Sound(reverb=0.04, decay_s=0.5, drive=0.6, tilt_db=2),
        melody_density=2.4,
        looseness_ms=0,
    ),
    "trap": Style(
        words=("trap", "trap beat", "modern hip hop"),
        moods=("menacing", "moody", "dark", "confident"),
        tempi={"slow": (64, 80), "fast": (130, 150)},
        modes=("minor", "harmonic minor", "phrygian"),
        progressions=("1 1 6 7", "1 6 1 2", "1 1 4 5"),
        chord_size=3,
        bass=("R-----R---R-----", "R---------5-----", "R--R------R--8--"),
        basses=("deep synth bass",),
        comping=("x---------------", "x---x---x---x---"),
        comps=("piano", "polysynth", "pizzicato strings", "choir pad"),
        pads=("choir pad", "synth strings", "bowed pad"),
        leads=_names(
            "square lead, saw lead, electric piano, piano, vibraphone, choir, strings, flute, organ, marimba, "
            "music box, violin, trumpet, harp"
        ),
        drums=("trap",),
        kits=("808",),
        sound=Sound(reverb=0.25, decay_s=1.6, pump=0.2, drive=0.8, highest_hz=15000),
        melody_density=1.4,
        looseness_ms=3,
    ),
    "synthwave": Style(
        words=("synthwave", "retro 80s synth music", "outrun"),
        moods=("nostalgic", "neon", "driving", "dreamy"),
        tempi={"slow": (76, 88), "medium": (92, 118), "fast": (130, 150)},
        modes=("minor", "dorian", "major"),
        progressions=("6 4 1 5", "1 6 3 7", "4 5 6 6", "1 7 6 7"),
        chord_size=4,
        bass=("RRRRRRRRRRRRRRRR", "R.RRR.RRR.RRR.RR", "R8R8R8R8R8R8R8R8"),
        basses=("synth bass",),
        comping=("x---------------", "x..x..x.x..x..x.", "x-----x-----x---"),
        comps=("polysynth", "synth brass", "synth strings"),
        pads=("warm pad", "synth strings", "choir pad"),
        leads=_names(
            "square lead, saw lead, electric piano, piano, vibraphone, choir, strings, flute, organ, marimba, "
            "music box, violin, alto saxophone, electric guitar"
        ),
        drums=("synthwave",),
        kits=("electronic", "power"),
        sound=Sound(reverb=0.35, decay_s=2.0, pump=0.25, drive=0.6, highest_hz=15000),
        looseness_ms=3,
    ),
    "gospel": Style(
        words=("gospel", "gospel soul", "soul music"),
        moods=("joyful", "soulful", "uplifting", "passionate"),
        tempi={"slow": (62, 86), "medium": (92, 116)},
        modes=("major", "mixolydian"),
        progressions=("1 4 1 5", "1 3M 6 4", "1 6 2 5", "4 1 5 1"),
        chord_size=4,
        bass=("R..5..8..5a.", "R-----5--R-a", "R..R..3..5.a"),
        basses=("bass guitar", "fretless bass"),
        comping=("x--x--x--x--", "x-----x-----", "x..x.xx..x.x"),
        comps=("organ", "piano", "electric piano"),
        pads=("choir", "organ", "voice oohs"),
        leads=_names("choir, organ, piano, alto saxophone, trumpet, electric guitar, electric piano, flute, strings"),
        drums=("gospel",),
        kits=("standard", "room"),
        sound=Sound(reverb=0.25, decay_s=1.4, drive=0.4, highest_hz=15000),
        melody_density=1.3,
        scale="blues",
        looseness_ms=10,
    ),
    "latin": Style(
        words=("latin", "salsa", "latin dance music"),
        moods=("festive", "fiery", "danceable", "lively"),
        tempi={"medium": (94, 122), "fast": (150, 178)},
        modes=("minor", "dorian", "major", "harmonic minor"),
        progressions=("1 4 5 4", "2 5 1 1", "1 1 5M 5M", "1 7 6 5M"),
        chord_size=4,
        bass=("...R--5---8-R---", "R--5--8-..R-5-8-"),
        basses=("upright bass", "bass guitar"),
        comping=("x.xx.x.xx.x.xx.x", "x..x..xx..x.x.x."),
        comps=("piano", "nylon guitar", "marimba"),
        pads=("brass section", "strings"),
        leads=_names(
            "trumpet, flute, piano, vibraphone, marimba, acoustic guitar, alto saxophone, violin, accordion, clarinet"
        ),
        drums=("samba",),
        kits=("standard", "room"),
        sound=Sound(reverb=0.15, decay_s=0.9, drive=0.4, highest_hz=15000, tilt_db=1),
        melody_density=1.8,
    ),
    "disco": Style(
        words=("disco", "disco funk", "70s disco"),
        moods=("glamorous", "upbeat", "danceable", "happy"),
        tempi={"medium": (108, 124), "fast": (126, 136)},
        modes=("minor", "dorian", "major"),
        progressions=("1 4 5 4", "1 6 4 5", "6 2 5 1", "1 7 6 7"),
        chord_size=4,
        bass=("R.8.R.8.R.8.R.8.", "R-8.R-8.5-8.7-8."),
        basses=("bass guitar", "slap bass", "picked bass"),
        comping=("xoxxxoxxxoxxxoxx", "..x...x...x...x."),
        comps=("electric guitar", "clavinet", "electric piano"),
        pads=("strings", "synth strings"),
        leads=_names(
            "strings, alto saxophone, trumpet, flute, piano, electric piano, organ, violin, saw lead, vibraphone"
        ),
        drums=("disco",),
        kits=("standard", "room", "electronic"),
        sound=Sound(reverb=0.18, decay_s=1.0, pump=0.15, drive=0.5, tilt_db=1),
        melody_density=1.4,
    ),
}
"""By their canonical names."""

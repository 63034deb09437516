"""Words to begin with: prompts for the dice, and parts that prompts are built of."""

DICE = (
    "a slow piano in an empty house, rain outside",
    "acoustic folk fiddle solo over a warm drone",
    "afrobeat drums with bright guitars",
    "ambient choir, long echoes, a cold morning",
    "baroque harpsichord at a brisk walk",
    "bluegrass banjo and double bass, fast and joyful",
    "bossa nova guitar, soft shaker, late evening",
    "brass band in a narrow street",
    "chiptune with a cheerful melody",
    "church bells over a deep electronic bass",
    "cinematic strings, growing tension",
    "cumbia with accordion and hand drums",
    "deep house, round bass, sparse chords",
    "desert blues guitar, handclaps",
    "detuned synthesizer pads, tape wobble",
    "drum and bass with jazz chords",
    "dub reggae, spring reverb on the snare",
    "dusty hip hop beat with a jazz piano loop",
    "female voices singing in parallel fifths",
    "flamenco guitar and palmas",
    "funk with slapped bass and tight drums",
    "gamelan, shimmering and slow",
    "glass harmonica, music box, moonlight",
    "klezmer clarinet, a wedding getting faster",
    "lo-fi beat to study to, vinyl crackle",
    "marimba patterns that drift apart",
    "minimal techno in a large hall",
    "modal jazz with a muted trumpet",
    "morning raga on sitar with tanpura",
    "orchestral waltz, a little drunk",
    "post-rock guitars, slow build, huge drums",
    "ragtime on an old upright piano",
    "shoegaze, walls of guitar, distant voice",
    "solo cello, close, breathing",
    "soul with organ and hand claps",
    "steel drums by the sea",
    "surf rock with tremolo guitar",
    "synthwave, night drive, gated snare",
    "taiko drums and bamboo flute",
    "trip hop, upright bass, dark strings",
)

BUILDER = {
    "genre": (
        "ambient", "blues", "classical", "country", "disco", "drum and bass", "electronic", "folk", "funk", "hip hop",
        "house", "jazz", "latin", "lo-fi", "metal", "pop", "reggae", "rock", "soul", "techno",
    ),
    "mood": (
        "calm", "cheerful", "dark", "dreamy", "energetic", "epic", "gentle", "hopeful", "melancholic", "mysterious",
        "nostalgic", "playful", "romantic", "sad", "tense", "warm",
    ),
    "instrument": (
        "accordion", "acoustic guitar", "bass", "bells", "cello", "choir", "drums", "electric guitar", "flute", "harp",
        "marimba", "organ", "piano", "saxophone", "strings", "synthesizer", "trumpet", "violin",
    ),
    "tempo": ("very slow", "slow", "medium tempo", "fast", "very fast"),
}  # fmt: skip

SEED_IMAGE_WORDS = {
    "beats": ("Beat", "Two bars of four beats: everything keeps to it."),
    "half_time": ("Half time", "A slow drum with an echo in between."),
    "plucked": ("Plucked", "Sixteen plucked notes, up and down."),
    "pad": ("Pad", "A held chord whose voices swell one after the other."),
}
"""What our seed images are called, and what they do."""

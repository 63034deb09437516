"""The notes of a piece of music: what the composer writes and the sampler plays."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Note:
    """One note: onset and length in seconds from the start of the sound, MIDI note number, velocity (1-127)."""

    start_s: float
    duration_s: float
    pitch: int
    velocity: int


@dataclasses.dataclass
class Part:
    """What one instrument plays, and how it stands in the mix.

    Attributes:
        role: "drums", "bass", "chords", "pad" or "lead".
        bank: Bank of the SoundFont; 128 for drums.
        program: General MIDI program, counted from 0.
        notes: In order of their onsets.
        gain_db: Loudness relative to the other parts.
        pan: -1 (left) to 1 (right).
        width: How much of the stereo picture of the samples is kept, 0 to 1; at 0 one channel of stereo samples plays.
        reverb: Share sent to the reverberation.
        drive: Saturation, 0 for none; from 0.8 on through a loudspeaker cabinet.
        cutoff_cents: Upper bound of the low pass filter, in the cents of the SoundFont standard.
        softness_cents: How much the filter falls from the loudest to the softest note.
        detune_cents: Deviation from the pitch.
        vibrato_cents: Vibrato of long notes; 0 leaves that of the font.
        attack_s: The least time in which notes swell.
    """

    role: str
    bank: int
    program: int
    notes: list[Note]
    gain_db: float = 0.0
    pan: float = 0.0
    width: float = 0.0
    reverb: float = 0.15
    drive: float = 0.0
    cutoff_cents: float = 13500.0
    softness_cents: float = 1200.0
    detune_cents: float = 0.0
    vibrato_cents: float = 0.0
    attack_s: float = 0.0

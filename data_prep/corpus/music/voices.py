"""Playing notes with the samples of a SoundFont: one stereo track for each part of a piece.

The inner loop is compiled by numba: at 90 ms to read a font of 148 MB again for each clip and 40 ms for each part, the MIDI
renderer of the exercises is five times too slow for an endless corpus, and returns one mix instead of tracks.
"""

import dataclasses
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from data_prep.corpus.music.soundfont import COLUMNS, DRUM_BANK, SoundFont

_BLOCK = 32
"""Samples for which envelope, filter and pitch are computed at once; levels are interpolated in between."""
_SILENT = 1e-3
"""Level at which a released note ends."""
_EXTRA = ("begin_s", "hold_s_of_note", "step", "left", "right", "part")
_COLUMN = {name: index for index, name in enumerate(COLUMNS)}
_WIDTH = len(COLUMNS) + len(_EXTRA)
_OPEN_HAT, _HATS = 46, (42, 44, 46)
_DRUM_TAIL_S = 1.5


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


def render_parts(font: SoundFont, parts: list[Part], length_s: float, rate_hz: int) -> npt.NDArray[np.float32]:
    """Play parts; returns one stereo track for each, (parts, 2, samples), not normalised."""
    tracks = np.zeros((len(parts), 2, round(length_s * rate_hz)), np.float32)
    rows = [_voices(font, part, index, rate_hz) for index, part in enumerate(parts)]
    voices = np.concatenate([part for part in rows if len(part)] or [np.zeros((0, _WIDTH))])
    _play(font.samples, voices, tracks, float(rate_hz))
    return tracks


def _voices(font: SoundFont, part: Part, index: int, rate_hz: int) -> npt.NDArray[np.float64]:
    """Return what each sounding zone of each note plays, (voices, columns)."""
    preset = font.preset(part.bank, part.program)
    rows = []
    is_drum = part.bank == DRUM_BANK
    hats = sorted(note.start_s for note in part.notes if note.pitch in _HATS) if is_drum else []
    for note in part.notes:
        zones = preset.sounding(note.pitch, note.velocity)
        if part.width == 0:
            zones = _one_side(zones)
        duration_s = note.duration_s
        if is_drum:
            duration_s = _DRUM_TAIL_S
            if note.pitch == _OPEN_HAT:  # the two cymbals of the hi-hat close
                duration_s = next((hat - note.start_s for hat in hats if hat > note.start_s + 0.01), duration_s)
        row = np.empty((len(zones), _WIDTH))
        row[:, : len(COLUMNS)] = zones
        cents = (note.pitch - zones[:, _COLUMN["root"]]) * zones[:, _COLUMN["scale_cents"]] + zones[
            :, _COLUMN["tune_cents"]
        ]
        level = (note.velocity / 127) ** 2 * zones[:, _COLUMN["gain"]] / 32768
        angle = (np.clip(part.pan + part.width * zones[:, _COLUMN["pan"]], -1, 1) + 1) * np.pi / 4
        begin = len(COLUMNS)
        row[:, begin] = note.start_s
        row[:, begin + 1] = duration_s
        row[:, begin + 2] = 2 ** ((cents + part.detune_cents) / 1200) * zones[:, _COLUMN["rate_hz"]] / rate_hz
        row[:, begin + 3] = level * np.cos(angle)
        row[:, begin + 4] = level * np.sin(angle)
        row[:, begin + 5] = index
        rows.append(row)
        # Softer notes are duller, and a part may be duller or brighter than the font has it.
        softness = (1 - note.velocity / 127) * part.softness_cents
        cutoff = row[:, _COLUMN["cutoff_cents"]]
        row[:, _COLUMN["cutoff_cents"]] = np.minimum(np.minimum(cutoff, part.cutoff_cents) - softness, 13500)
        if part.vibrato_cents:
            row[:, _COLUMN["vibrato_cents"]] = part.vibrato_cents
            row[:, _COLUMN["vibrato_delay_s"]] = 0.25
            row[:, _COLUMN["vibrato_hz"]] = 5.4
        if part.attack_s:
            row[:, _COLUMN["attack_s"]] = np.maximum(row[:, _COLUMN["attack_s"]], part.attack_s)
    return np.concatenate(rows) if rows else np.zeros((0, _WIDTH))


def _one_side(zones: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the zones without the right channels of stereo samples, which cost as much as the left ones."""
    pan = zones[:, _COLUMN["pan"]]
    return zones[pan < 0.9] if (pan < -0.9).any() else zones


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _envelope(time_s: float, off_s: float, voice: Any) -> float:
    """Return the level of the volume envelope: delay, linear attack, hold, then decibels that fall evenly."""
    delay, attack, hold, decay, sustain, release = voice[11], voice[12], voice[13], voice[14], voice[15], voice[16]
    held_s = min(time_s, off_s) - delay
    if held_s < 0:
        return 0.0
    if held_s < attack:
        level = held_s / attack
    elif held_s < attack + hold:
        level = 1.0
    else:
        fallen = sustain
        if decay > 0:
            fallen = min(sustain, 100 * (held_s - attack - hold) / decay)
        level = 10 ** (-fallen / 20)
    if time_s > off_s:
        level *= 10 ** (-5 * (time_s - off_s) / max(release, 0.02))
    return level


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _low_pass(time_s: float, voice: Any, rate_hz: float) -> Any:
    """Return the coefficients b0 = b2, b1, a1, a2 of a low pass of second order whose cutoff follows the modulation envelope.

    R. Bristow-Johnson, "Cookbook formulae for audio EQ biquad filter coefficients".
    """
    cutoff_cents, resonance_db, envelope_cents, attack, decay, sustain = voice[17:23]
    if envelope_cents != 0:
        reached = sustain
        if time_s < attack:
            reached = time_s / attack
        elif decay > 0:
            reached = max(sustain, 1 - (time_s - attack) / decay)
        cutoff_cents += envelope_cents * reached
    omega = 2 * np.pi * min(440 * 2 ** ((cutoff_cents - 6900) / 1200), 0.45 * rate_hz) / rate_hz
    alpha = np.sin(omega) / (2 * 0.7071 * 10 ** (resonance_db / 20))
    scale = 1 / (1 + alpha)
    b1 = (1 - np.cos(omega)) * scale
    return np.float32(b1 / 2), np.float32(b1), np.float32(-2 * np.cos(omega) * scale), np.float32((1 - alpha) * scale)


@numba.njit(cache=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _play(samples: Any, voices: Any, tracks: Any, rate_hz: float) -> None:
    """Add every voice to the track of its part."""
    total = tracks.shape[2]
    first_extra = 26
    piece = np.empty(_BLOCK, np.float32)
    half, two, three_halves, five_halves = np.float32(0.5), np.float32(2), np.float32(1.5), np.float32(2.5)
    one, zero = np.float32(1), np.float32(0)
    for index in range(voices.shape[0]):
        voice = voices[index]
        begin_s, off_s, step = voice[first_extra], voice[first_extra + 1], voice[first_extra + 2]
        left, right = np.float32(voice[first_extra + 3]), np.float32(voice[first_extra + 4])
        track = tracks[int(voice[first_extra + 5])]
        left_track, right_track = track[0], track[1]
        loop_end, loop_length = voice[3], voice[3] - voice[2]
        is_looped = voice[4] > 0 and loop_length > 1
        last = voice[1] - 3
        position = voice[0]
        # A filter above what can be heard is left out.
        highest = 6900 + 1200 * np.log2(0.42 * rate_hz / 440)
        is_filtered = voice[17] < highest or voice[19] < 0
        b0, b1, a1, a2, s1, s2 = one, zero, zero, zero, zero, zero
        at = round(begin_s * rate_hz)
        level = 0.0
        elapsed = 0
        while at < total:
            time_s = (elapsed + _BLOCK) / rate_hz
            target = _envelope(time_s, off_s, voice)
            if time_s > off_s and target < _SILENT:
                target = 0.0
            speed = step
            if voice[23] != 0 and time_s > voice[24]:
                speed *= 2 ** (voice[23] * np.sin(2 * np.pi * voice[25] * (time_s - voice[24])) / 1200)
            if is_filtered and (elapsed == 0 or voice[19] != 0):
                b0, b1, a1, a2 = _low_pass(time_s, voice, rate_hz)
            slope = (target - level) / _BLOCK
            done = 0
            while done < _BLOCK:
                if is_looped and position >= loop_end:
                    position -= loop_length
                # As many samples at once as neither loop nor end nor the end of the track interrupts.
                stop = loop_end if is_looped else last
                count = min(_BLOCK - done, int(np.ceil((stop - position) / speed)), total - at)
                if count <= 0:
                    break
                for ahead in range(count):
                    place = position + ahead * speed
                    whole = np.int64(place)
                    share = np.float32(place - whole)
                    # Interpolation by Hermite's cubic through four samples.
                    before, here = np.float32(samples[whole - 1]), np.float32(samples[whole])
                    after, later = np.float32(samples[whole + 1]), np.float32(samples[whole + 2])
                    c1 = half * (after - before)
                    c2 = before - five_halves * here + two * after - half * later
                    c3 = half * (later - before) + three_halves * (here - after)
                    piece[ahead] = ((c3 * share + c2) * share + c1) * share + here
                if is_filtered:
                    for ahead in range(count):
                        value = piece[ahead]
                        out = b0 * value + s1
                        s1 = b1 * value - a1 * out + s2
                        s2 = b0 * value - a2 * out
                        piece[ahead] = out
                for ahead in range(count):
                    value = piece[ahead] * np.float32(level + slope * (ahead + 1))
                    left_track[at + ahead] += value * left
                    right_track[at + ahead] += value * right
                level += slope * count
                at += count
                done += count
                position += count * speed
            elapsed += _BLOCK
            if done < _BLOCK or (time_s > off_s and target == 0.0):
                break

"""Does a clip play back its training data? Every clip is compared with every training slice, shifted and transposed.

Both images are reduced to 64 bands and 64 columns. What all music of a dataset has in common is removed: the slow course of
each band, and the loudness of each frame, which drums at one tempo share. What is left, the pattern of notes, is compared by
normalised correlation at every shift in time that leaves half of the slice, and with the clip transposed by up to two
semitones. All slices are searched, none are preselected, so nothing is missed for speed: the correlations of a block of clips
with a block of slices are one matrix product for each frequency of the Fourier transform along time.

How similar is too similar follows from the real tracks: the same search of real slices among the slices of other tracks gives
the similarities that music of this kind reaches by itself.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.ndimage import uniform_filter1d

from riffusion_train.config.spectrogram import SpectrogramConfig
from riffusion_train.listening.distances import TooFewClipsError
from riffusion_train.runtime.errors import InputError

BANDS, COLUMNS = 64, 64
"""Size of the descriptors."""
TRANSPOSITIONS = (0, 1, -1, 2, -2)
"""Semitones by which a clip is moved."""
FEWEST_SLICES, FEWEST_TRACKS = 50, 10
"""Fewest slices and tracks from which the similarity of real music can be learnt."""
SAME_SOUND = 0.95
"""Two slices of different tracks that are this similar are the same recording twice, and say nothing about chance."""

_LEAST_OVERLAP = 0.5
_OVERLAP_POWER = 0.0
_LEAST_ENERGY = 0.2
_SLOW_SHARE = 0.2
_WIDE_SHARE = 0.25
_CALIBRATION_SLICES = 300
_QUERY_BLOCK, _SLICE_BLOCK = 16, 1000

Images = Sequence[npt.NDArray[np.uint8]]
_Floats = npt.NDArray[np.float32]
_Spectra = npt.NDArray[np.complex64]


@dataclasses.dataclass(frozen=True)
class TrainingSlices:
    """What a model was trained on.

    Attributes:
        images: Grey images of one size, (height, width): 0 is loud, 255 is silence, the lowest band is the bottom row.
        tracks: The track of each slice.
        seconds_per_column: The hop of the codec.
        band_hz: Centre frequencies of the bands, lowest first, (height,), see `band_centres_hz`; None searches no
            transpositions.
        embeddings: Embeddings of the slices, (slices, dim); None compares images only.
    """

    images: Images
    tracks: Sequence[str]
    seconds_per_column: float
    band_hz: npt.NDArray[np.float64] | None = None
    embeddings: npt.NDArray[np.floating] | None = None


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The training slice that a clip is most similar to.

    Attributes:
        slice: Its index.
        track: Its track.
        similarity: Normalised correlation of the images at the best shift and transposition, up to 1.
        quantile: Share of real slices whose nearest slice of another track is less similar, from 0 to 1.
        is_copy: Whether it is more similar than all but the permitted share of real slices.
        shift_s: How much later the music is in the clip than in the slice, to about a twentieth of a second.
        transposition: How many semitones higher the clip is than the slice.
        embedding_slice: Index of the slice with the nearest embedding; None without embeddings.
        embedding_distance: The cosine distance between standardised embeddings, from 0 to 2.
        embedding_quantile: Share of real slices whose nearest slice of another track is further away.
    """

    slice: int
    track: str
    similarity: float
    quantile: float
    is_copy: bool
    shift_s: float
    transposition: int
    embedding_slice: int | None = None
    embedding_distance: float | None = None
    embedding_quantile: float | None = None


class CopySearch:
    """Finds the training slice that is nearest to a clip, and says whether the clip copies it.

    Args:
        slices: The training slices.
        false_positives: Share of new real music that may be called a copy.
        seed: Seed of the choice of slices that are compared with other tracks.

    Attributes:
        threshold: Similarity above which a clip is a copy. From few slices it is only roughly known.
        between_tracks: Similarity of each compared real slice to its nearest slice of another track, in rising order.

    Raises:
        TooFewClipsError: If there are fewer than `FEWEST_SLICES` slices or `FEWEST_TRACKS` tracks.
        InputError: If the images are not of one size.
    """

    def __init__(
        self,
        slices: TrainingSlices,
        *,
        false_positives: float = 0.01,
        seed: int = 0,
    ) -> None:
        count, tracks = len(slices.images), np.unique(np.asarray(slices.tracks, str), return_inverse=True)
        if count < FEWEST_SLICES:
            raise TooFewClipsError("the search for copies", FEWEST_SLICES, count, "training slices")
        if len(tracks[0]) < FEWEST_TRACKS:
            raise TooFewClipsError("the search for copies", FEWEST_TRACKS, len(tracks[0]), "training tracks")
        self._slices, self._tracks = slices, tracks[1]
        self._shape = slices.images[0].shape
        self._matrices = _band_matrices(self._shape[0], slices.band_hz)
        described = self._describe(slices.images, self._matrices[:1])[0]
        self._spectra, self._energy = _spectra(described).conj(), _running_energy(described)
        self._standard = None if slices.embeddings is None else _Standardised(slices.embeddings)
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:_CALIBRATION_SLICES])
        nearest: list[float] = []
        for start in range(0, len(chosen), _QUERY_BLOCK):
            block = chosen[start : start + _QUERY_BLOCK]
            similar = self._similarities([slices.images[index] for index in block])
            similar[self._tracks[block][:, None] == self._tracks[None, :]] = -1.0
            nearest += [float(value) for value in similar.max(axis=1)]
        by_chance = np.sort([value for value in nearest if value < SAME_SOUND])
        self.duplicates = len(nearest) - len(by_chance)
        """Number of compared slices that another track holds too; they are left out of `between_tracks`."""
        self.between_tracks = by_chance
        self.threshold = _exceeded_by(by_chance, false_positives) if len(by_chance) else SAME_SOUND
        self._embedding_distances = self._embedding_distances_between_tracks(chosen)

    def nearest(self, image: npt.NDArray[np.uint8], embedding: npt.NDArray[np.floating] | None = None) -> Nearest:
        """Return the slice nearest to one clip; see `find`."""
        return self.find([image], None if embedding is None else embedding[None])[0]

    def find(
        self,
        images: Images,
        embeddings: npt.NDArray[np.floating] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Nearest]:
        """Return the slice nearest to each clip.

        Args:
            images: Grey images of the slices' height, of the same codec. An image wider than a slice is searched in
                windows of a slice's width that overlap by half; a narrower one needs half of it.
            embeddings: Embeddings of the clips, (clips, dim), by the embedder of the slices.
            progress: Called with the number of clips done and their number.

        Raises:
            InputError: If an image has another height or is too narrow.
        """
        views = [(clip, start) for clip, image in enumerate(images) for start in self._starts(image)]
        best: dict[int, tuple[float, int, int]] = {}  # of each clip: similarity, slice, first column of the window
        for first in range(0, len(views), _QUERY_BLOCK):
            block = views[first : first + _QUERY_BLOCK]
            similar = self._similarities([self._window(images[clip], start) for clip, start in block])
            for (clip, start), row in zip(block, similar, strict=True):
                index = int(row.argmax())
                best[clip] = max(best.get(clip, (-2.0, 0, 0)), (float(row[index]), index, start))
            if progress is not None:
                progress(block[-1][0] + 1, len(images))
        found = []
        for clip, image in enumerate(images):
            similarity, index, start = best[clip]
            cells, transposition = self._alignment(self._window(image, start), index)
            columns = cells * self._shape[1] / COLUMNS + start
            nearest = Nearest(
                slice=index,
                track=str(self._slices.tracks[index]),
                similarity=similarity,
                quantile=_share_below(self.between_tracks, similarity),
                is_copy=similarity > self.threshold,
                shift_s=columns * self._slices.seconds_per_column,
                transposition=transposition,
            )
            if embeddings is not None and self._standard is not None:
                nearest = self._with_embedding(nearest, embeddings[clip])
            found.append(nearest)
        return found

    def _starts(self, image: npt.NDArray[np.uint8]) -> list[int]:
        """Return the first columns of the windows of an image."""
        height, width = self._shape
        if image.ndim != 2 or image.shape[0] != height or image.shape[1] < _LEAST_OVERLAP * width:
            raise InputError(
                f"a clip's image of {image.shape} cannot be searched among slices of {self._shape}: "
                "use the codec of the training data, and clips of half a slice or more"
            )
        last = max(0, image.shape[1] - width)
        return [*range(0, last, width // 2), last]

    def _window(self, image: npt.NDArray[np.uint8], start: int) -> npt.NDArray[np.uint8]:
        return image[:, start : start + self._shape[1]]

    def _describe(self, images: Images, matrices: Sequence[_Floats]) -> list[_Floats]:
        """Return the descriptors of images, (images, bands, columns), for each transposition; the energy of each is 1."""
        height, width = self._shape
        described = [np.zeros((len(images), BANDS, COLUMNS), np.float32) for _ in matrices]
        for row, image in enumerate(images):
            if image.ndim != 2 or image.shape[0] != height or image.shape[1] > width:
                raise InputError(f"an image of {image.shape} cannot be compared with images of {self._shape}")
            columns = round(image.shape[1] * COLUMNS / width)
            frames = (255.0 - image[::-1].astype(np.float32)) / 255.0  # (height, width), the lowest band first
            levels = np.asarray(frames @ _averages(image.shape[1], columns).T, np.float32)  # (height, columns)
            for one, matrix in zip(described, matrices, strict=True):
                one[row, :, :columns] = _characteristic(matrix @ levels)
        return described

    def _similarities(self, windows: Images) -> _Floats:
        """Return the best correlation of each window with each slice, (windows, slices)."""
        count = len(self._energy)
        best = np.full((len(windows), count), -1.0, np.float32)
        transposed = np.stack(self._describe(windows, self._matrices))  # (transpositions, windows, bands, columns)
        queries = transposed.reshape(-1, BANDS, COLUMNS)
        spectra, energy = _spectra(queries), _running_energy(queries)
        for start in range(0, count, _SLICE_BLOCK):
            part = slice(start, min(start + _SLICE_BLOCK, count))
            similar = _best_over_shifts(spectra, energy, self._spectra[:, part], self._energy[part])
            best[:, part] = similar.reshape(len(transposed), len(windows), -1).max(axis=0)
        return best

    def _alignment(self, window: npt.NDArray[np.uint8], index: int) -> tuple[int, int]:
        """Return the shift in cells and the transposition in semitones at which a window fits a slice best."""
        queries = np.concatenate(self._describe([window], self._matrices))
        one = slice(index, index + 1)
        correlations = _correlations(
            _spectra(queries), _running_energy(queries), self._spectra[:, one], self._energy[one]
        )
        lag, row = np.unravel_index(int(correlations[:, :, 0].argmax()), correlations.shape[:2])
        # A transposed clip was moved back to fit the slice.
        return int(_SHIFTS[lag]), -TRANSPOSITIONS[row]

    def _with_embedding(self, nearest: Nearest, embedding: npt.NDArray[np.floating]) -> Nearest:
        assert self._standard is not None
        distances = self._standard.distances(embedding[None])[0]
        index = int(distances.argmin())
        further = 1.0 - _share_below(self._embedding_distances, float(distances[index]))
        return dataclasses.replace(
            nearest,
            embedding_slice=index,
            embedding_distance=float(distances[index]),
            embedding_quantile=further,
        )

    def _embedding_distances_between_tracks(self, chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        if self._standard is None or self._slices.embeddings is None:
            return np.empty(0)
        distances = self._standard.distances(np.asarray(self._slices.embeddings)[chosen])
        distances[self._tracks[chosen][:, None] == self._tracks[None, :]] = np.inf
        return np.sort(distances.min(axis=1))


class _Standardised:
    """Embeddings scaled to mean 0 and spread 1 in every dimension, and the cosine distances of others to them."""

    def __init__(self, embeddings: npt.NDArray[np.floating]) -> None:
        values = np.asarray(embeddings, np.float64)
        self._mean, self._spread = values.mean(axis=0), values.std(axis=0) + 1e-6
        self._units = self._scaled(values)

    def distances(self, embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the distances of (clips, dim), from 0 to 2, (clips, slices)."""
        return np.asarray(1.0 - self._scaled(embeddings) @ self._units.T)

    def _scaled(self, embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        values = (np.asarray(embeddings, np.float64) - self._mean) / self._spread
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9))


def band_centres_hz(config: SpectrogramConfig) -> npt.NDArray[np.float64]:
    """Return the centre frequency of each band of a codec, lowest first, (n_mels,)."""
    low, high = (np.log1p(edge / config.mel_corner_hz) for edge in (config.f_min_hz, config.f_max_hz))
    return np.asarray(config.mel_corner_hz * np.expm1(np.linspace(low, high, config.n_mels + 2)[1:-1]))


def _characteristic(levels: _Floats) -> _Floats:
    """Return what sets a clip apart, from levels (bands, columns): deviations from its slow course and from its frames."""
    fast = levels - uniform_filter1d(levels, _odd(_SLOW_SHARE * COLUMNS), axis=1, mode="nearest")
    fine = fast - uniform_filter1d(fast, _odd(_WIDE_SHARE * BANDS), axis=0, mode="nearest")
    energy = float((fine**2).sum())
    # What a silent or constant image has left is rounding.
    return np.asarray(fine / np.sqrt(energy) if energy > 1e-3 else np.zeros_like(fine), np.float32)


def _odd(length: float) -> int:
    return int(length) | 1


def _averages(size: int, cells: int) -> _Floats:
    """Return the matrix (cells, size) that averages `size` values in `cells` equal cells."""
    edges = np.linspace(0.0, size, cells + 1)
    starts = np.arange(size)
    overlap = np.minimum(starts[None] + 1, edges[1:, None]) - np.maximum(starts[None], edges[:-1, None])
    weights = np.maximum(overlap, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _band_matrices(height: int, band_hz: npt.NDArray[np.float64] | None) -> list[_Floats]:
    """Return for each transposition the matrix (bands, height) that moves the bands of an image and averages them."""
    pooled = _averages(height, BANDS)
    if band_hz is None:
        return [pooled]
    matrices = []
    for semitones in TRANSPOSITIONS:
        # A band takes the level of the band that lies so many semitones below it, between the two nearest ones.
        source_hz = band_hz / 2.0 ** (semitones / 12.0)
        position = np.interp(source_hz, band_hz, np.arange(height))
        below = np.minimum(position.astype(int), height - 2)
        share = position - below
        known = (source_hz >= band_hz[0] * 0.999) & (source_hz <= band_hz[-1] * 1.001)
        move = np.zeros((height, height))
        move[np.arange(height), below] = (1.0 - share) * known
        move[np.arange(height), below + 1] += share * known
        matrices.append(np.asarray(pooled @ move, np.float32))
    return matrices


_LENGTH = 2 * COLUMNS
_FURTHEST_SHIFT = COLUMNS - int(_LEAST_OVERLAP * COLUMNS)
_SHIFTS = np.arange(-_FURTHEST_SHIFT, _FURTHEST_SHIFT + 1)
"""How many columns later a clip is than a slice."""


def _spectra(described: _Floats) -> _Spectra:
    """Return Fourier transforms along time, padded against wrapping round, (frequencies, clips, bands)."""
    return np.ascontiguousarray(scipy.fft.rfft(described, _LENGTH, axis=2).transpose(2, 0, 1))


def _running_energy(described: _Floats) -> _Floats:
    """Return the energy of the columns before each column, (clips, columns + 1)."""
    energy = np.cumsum((described.astype(np.float64) ** 2).sum(axis=1), axis=1)
    return np.pad(energy, ((0, 0), (1, 0))).astype(np.float32)


def _correlations(clips: _Spectra, clip_energy: _Floats, slices: _Spectra, slice_energy: _Floats) -> _Floats:
    """Return normalised correlations at each of `_SHIFTS`, (shifts, clips, slices).

    Args:
        clips: Spectra, (frequencies, clips, bands).
        clip_energy: Their running energy, (clips, columns + 1).
        slices: Conjugate spectra, (frequencies, slices, bands).
        slice_energy: Their running energy, (slices, columns + 1).
    """
    # Correlation over bands and time: a product of matrices at every frequency, and one transform back.
    products = np.matmul(clips, slices.transpose(0, 2, 1))
    correlations = scipy.fft.irfft(products, _LENGTH, axis=0, overwrite_x=True)[_SHIFTS]
    for row, shift in enumerate(_SHIFTS.tolist()):
        # Energy of the common part of both; a part that is almost empty must not count for much.
        first, last = max(shift, 0), COLUMNS + min(shift, 0)
        of_clips = clip_energy[:, last] - clip_energy[:, first]
        of_slices = slice_energy[:, last - shift] - slice_energy[:, first - shift]
        overlap = ((COLUMNS - abs(shift)) / COLUMNS) ** _OVERLAP_POWER
        scale = [overlap**0.5 / np.sqrt(np.maximum(energy, _LEAST_ENERGY)) for energy in (of_clips, of_slices)]
        correlations[row] *= scale[0][:, None] * scale[1][None, :]
    return np.asarray(correlations, np.float32)


def _best_over_shifts(clips: _Spectra, clip_energy: _Floats, slices: _Spectra, slice_energy: _Floats) -> _Floats:
    return np.asarray(_correlations(clips, clip_energy, slices, slice_energy).max(axis=0))


def _exceeded_by(values: npt.NDArray[np.float64], share: float) -> float:
    """Return what only a share of further values exceeds: by rank, or by a Gumbel distribution if that is higher.

    Each value is the greatest of many similarities, and such values follow a Gumbel distribution (location μ, scale β). A few
    hundred of them say little about their highest hundredth by themselves. Two things would make the threshold too low:

    - Two slices that are unusually similar are each other's nearest, so the highest values come in pairs, and there are only
      half as many independent ones. Of m independent values, a further one exceeds the r-th highest with the chance
      r / (m + 1).
    - A threshold that is estimated too low lets more through than one as much too high keeps back: beyond it the share falls
      like exp(-t / β), so that an estimate of variance v β² is exceeded by exp(v / 2) times the share on average. It is
      therefore raised by β v / 2; v is that of mean + k · spread by moments, whose skewness is 1.14 and kurtosis 5.4.
    """
    independent = len(values) / 2
    rank = max(1, int(share * (independent + 1)))
    observed = float(np.sort(values)[-min(2 * rank - 1, len(values))])
    spread_of_scale = np.pi / np.sqrt(6)
    scale = float(values.std()) / spread_of_scale
    reduced = -np.log(-np.log1p(-share)) - np.euler_gamma  # of the quantile, from the mean, in units of the scale
    k = reduced / spread_of_scale
    variance = spread_of_scale**2 * (1 + 1.14 * k + (5.4 - 1) / 4 * k**2) / independent
    fitted = float(values.mean()) + scale * float(reduced + variance / 2)
    return float(min(SAME_SOUND, max(observed, fitted)))


def _share_below(ascending: npt.NDArray[np.float64], value: float) -> float:
    return float(np.searchsorted(ascending, value) / max(len(ascending), 1))

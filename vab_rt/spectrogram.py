"""What a sound looks like, as it arrives: its bands and its strokes, in little memory."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vab_rt.strokes import levels_of, rises_of

Samples = npt.NDArray[np.float32]

NUM_BANDS = 120
LOWEST_HZ, HIGHEST_HZ = 50.0, 16_000.0
FLOOR_DB = -100.0
_WINDOW_MS = 64  # short enough for a stroke, long enough for two notes of a low voice
_MAX_COLUMNS = 4096  # of more, two and two become one


class Spectrogram:
    """Bands and levels of each 10 ms of a sound that is added in pieces, of any length."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz, self.num_samples = rate_hz, 0
        self._hop = rate_hz // 100
        self._size = max(rate_hz * _WINDOW_MS // 1000, self._hop)
        self._before = (self._size - self._hop) // 2  # of the 10 ms that a window is about
        self._window = np.hanning(self._size + 1)[:-1].astype(np.float32)
        self._bins_of_bands = _bins_of(band_edges_hz(rate_hz), self._size, rate_hz)
        self._left = np.zeros(self._before, np.float32)
        self._levels: list[npt.NDArray[np.float32]] = []
        self._columns = np.empty((0, NUM_BANDS), np.float32)
        self._single = np.empty((0, NUM_BANDS), np.float32)  # fewer than become one column
        self._per_column = 1

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.rate_hz

    def add(self, samples: Samples) -> None:
        """What comes next [S], in -1 to 1."""
        self.num_samples += len(samples)
        for begin in range(0, len(samples), self.rate_hz):  # a second of windows at a time
            self._add(samples[begin : begin + self.rate_hz])

    def _add(self, samples: Samples) -> None:
        heard = np.concatenate([self._left, samples.astype(np.float32)])
        num_windows = max(0, (len(heard) - self._size) // self._hop + 1)
        self._left = heard[num_windows * self._hop :]
        if not num_windows:
            return
        windows = np.lib.stride_tricks.sliding_window_view(heard, self._size)[:: self._hop]
        about = windows[:, self._before : self._before + self._hop]  # [N, hop]
        self._levels.append(levels_of(about.ravel(), self.rate_hz).astype(np.float32))
        spectra = np.fft.rfft(windows * self._window)  # [N, bins]
        amplitude = np.abs(spectra).astype(np.float32) * (2 / self._window.sum())
        self._keep(amplitude**2 @ self._bins_of_bands)

    def _keep(self, powers: npt.NDArray[np.float32]) -> None:
        """Adds columns [N, bands]; of too many, the louder one of each two stays."""
        single = np.concatenate([self._single, powers])
        whole = len(single) - len(single) % self._per_column
        columns = single[:whole].reshape(-1, self._per_column, NUM_BANDS).max(1)
        self._columns = np.concatenate([self._columns, columns])
        self._single = single[whole:]
        while len(self._columns) > _MAX_COLUMNS:
            even = len(self._columns) // 2 * 2
            pairs = self._columns[:even].reshape(-1, 2, NUM_BANDS).max(1)
            rest = np.repeat(self._columns[even:], self._per_column, axis=0)
            self._single = np.concatenate([rest, self._single])
            self._columns, self._per_column = pairs, 2 * self._per_column

    def finish(self) -> None:
        """Nothing more comes: what is left is seen beside silence."""
        num_blocks = -(-self.num_samples // self._hop)
        end = self._before + self.num_samples
        needed = (num_blocks - 1) * self._hop + self._size
        self._add(np.zeros(max(0, needed - end), np.float32))

    def levels_db(self) -> tuple[npt.NDArray[np.float32], float]:
        """dB of each band [N, bands], the lowest first, full scale 0; and seconds of a column."""
        rest = self._single.max(0, keepdims=True) if len(self._single) else self._single
        power = np.concatenate([self._columns, rest])
        column_s = self._per_column * self._hop / self.rate_hz
        floor = np.float32(10 ** (FLOOR_DB / 10))
        return 10 * np.log10(power + floor), column_s

    def strokes_s(self) -> npt.NDArray[np.float64]:
        """When it strikes, in seconds: those of `strokes.strokes_of`."""
        if not self._levels:
            return np.empty(0)
        levels = np.concatenate(self._levels).astype(np.float64)
        return rises_of(levels) * self._hop / self.rate_hz


def band_edges_hz(rate_hz: int) -> npt.NDArray[np.float64]:
    """The edges of all bands [bands + 1], equally high on a logarithmic axis."""
    return np.geomspace(LOWEST_HZ, min(HIGHEST_HZ, rate_hz / 2), NUM_BANDS + 1)


def _bins_of(edges_hz: npt.NDArray[np.float64], size: int, rate_hz: int) -> npt.NDArray[np.float32]:
    """The share of each bin in each band [bins, bands]: their mean over the band, or between two
    bins where a band is narrower than one."""
    bins = edges_hz * size / rate_hz
    share = np.zeros((size // 2 + 1, len(edges_hz) - 1), np.float32)
    for band, (low, high) in enumerate(pairwise(bins)):
        points = np.linspace(low, high, max(2, int(np.ceil(high - low)) + 1))
        below = np.minimum(points.astype(int), size // 2 - 1)
        part = (points - below) / len(points)
        np.add.at(share[:, band], below, 1 / len(points) - part)
        np.add.at(share[:, band], below + 1, part)
    return share

"""YAMNet: what a sound is heard as, by a network that nobody here trained.

521 scores of AudioSet's classes for each 0.975 s (github.com/tensorflow/models, research/audioset/
yamnet), from the user's own `.tflite` file, through LiteRT.
"""

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.evaluation.spectra import resampled
from vab_rt.errors import DataError, OptionError, first_line, not_installed

Floats = NDArray[np.float64]
Sound = NDArray[np.float32]
Scores = Callable[[Sound], NDArray[np.float32]]
"""16 kHz mono [S] in [-1, 1] -> scores [windows, classes], 0 to 1."""

RATE_HZ, WINDOW, HOP = 16_000, 15_600, 7_800
QUIET_DB = 40.0
KIND, LABELS = "yamnet", "yamnet_label_list.txt"
LIKELY_TRUE, LIKELY_MADE = 3, 8
GENERAL = frozenset(
    (
        *("Animal", "Domestic animals, pets", "Livestock, farm animals, working animals"),
        *("Wild animals", "Bird", "Music", "Musical instrument", "Plucked string instrument"),
        *("Keyboard (musical)", "Percussion", "Bowed string instrument", "Brass instrument"),
        *("Wind instrument, woodwind instrument", "Vehicle", "Motor vehicle (road)", "Engine"),
        *("Sound effect", "Noise", "Silence", "Speech", "Environmental noise", "Tools"),
        *("Inside, small room", "Inside, large room or hall", "Inside, public space"),
        *("Outside, urban or manmade", "Outside, rural or natural", "Mechanisms"),
        "Field recording",
    )
)
"""Classes that say no more than which family a sound is of, by hand."""


class YAMNet:
    """names: of its classes, in order."""

    def __init__(self, path: Path) -> None:
        """Raises DataError for a file that is not YAMNet, BackendError without LiteRT."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise not_installed(f"{KIND} needs ai-edge-litert", "ai-edge-litert", error) from error
        self.names = read_names(path)
        try:
            self.interpreter = Interpreter(str(path), num_threads=1)
            self.interpreter.allocate_tensors()
            (taken,) = self.interpreter.get_input_details()
            (given,) = self.interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:  # both for what it cannot read
            raise _no_yamnet(path, first_line(error)) from error
        shapes = tuple(taken["shape"]), tuple(given["shape"])
        if shapes != ((WINDOW,), (1, len(self.names))):
            raise _no_yamnet(path, f"its tensors are {shapes[0]} and {shapes[1]}")
        self.taken, self.given = taken["index"], given["index"]

    def __call__(self, sound: Sound) -> NDArray[np.float32]:
        """See `Scores`."""
        return np.stack([self.scores_of(window) for window in windows(sound)])

    def scores_of(self, window: Sound) -> NDArray[np.float32]:
        """The scores of [WINDOW] samples."""
        self.interpreter.set_tensor(self.taken, window)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.given)[0].copy()  # [classes]


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_yamnet(text: str) -> YAMNet:
    """What `--classifier yamnet:FILE` names. Raises OptionError; see YAMNet."""
    kind, _, path = text.partition(":")
    if kind != KIND or not path:
        raise OptionError(f"classifier is {text!r}, expected {KIND}:FILE, YAMNet as a .tflite")
    return YAMNet(Path(path))


def read_names(path: Path) -> tuple[str, ...]:
    """The classes, from the metadata that the file ends with. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as file:
            return tuple(file.read(LABELS).decode().splitlines())
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _no_yamnet(path, str(error)) from error


def _no_yamnet(path: Path, found: str) -> DataError:
    return DataError(
        f"{path} cannot be read as YAMNet ({found}), expected the .tflite with metadata of "
        "TensorFlow's task library, 16 kHz in, 521 scores out"
    )


def windows(sound: Sound) -> Sound:
    """[windows, WINDOW] of a sound [S], HOP apart; silence after its end."""
    count = 1 + max(0, -(-(len(sound) - WINDOW) // HOP))
    padded = np.pad(sound, (0, max(0, (count - 1) * HOP + WINDOW - len(sound))))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP].astype(np.float32)


def at_16_khz(sound: Sound, rate_hz: int) -> Sound:
    return resampled(sound, rate_hz, RATE_HZ)


def mean_scores(scores: Scores, sound: Sound) -> Floats:
    """[classes]: the mean over the windows of a sound [S] that are no quieter than QUIET_DB below
    the loudest: what pauses say counts for nothing."""
    level = np.sqrt((windows(sound).astype(np.float64) ** 2).mean(1))
    loud = level >= level.max() * 10 ** (-QUIET_DB / 20)
    return scores(sound)[loud].mean(0, dtype=np.float64)


def divergence(true: Floats, made: Floats) -> float:
    """KL(true || made) of mean scores [classes], made to sum to 1; in nats."""
    p, q = (np.clip(x, 1e-6, 1) / np.clip(x, 1e-6, 1).sum() for x in (true, made))
    return float((p * np.log(p / q)).sum())


def heard_alike(true: Floats, made: Floats, names: tuple[str, ...]) -> bool:
    """Whether one of the 3 likeliest classes of a true sound, of those that are not GENERAL, is
    among the 8 likeliest of the made one; of mean scores [classes]."""
    specific = np.array([name not in GENERAL for name in names])
    first = np.argsort(-np.where(specific, true, -1), kind="stable")[:LIKELY_TRUE]
    return bool(np.isin(first, np.argsort(-made, kind="stable")[:LIKELY_MADE]).any())

"""Embeddings of sound to measure distances with (FAD, KLD), each with the name it reports.

That of the classifier of FoleyWorld is always there; VGGish, PaSST and CLAP, which the field
publishes its figures with, need weights that the user brings.
"""

import io
import itertools
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchaudio.functional import resample

from training.checkpoint import check_weights
from training.evaluation.classifier import AudioClassifier, classify, softmax
from vab_rt.errors import DataError, OptionError, first_line, not_installed

RATE_HZ = 16_000
OWN = "classifier"
VGGISH_WINDOW, VGGISH_HOP, VGGISH_FFT = 400, 160, 512
VGGISH_FRAMES, VGGISH_MELS, VGGISH_RANGE_HZ = 96, 64, (125.0, 7500.0)


class Embedded(NamedTuple):
    """vectors [M, D] of one clip; probabilities [classes], or None where there are no classes."""

    vectors: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None


class Embedding(Protocol):
    """Sound of one clip, 16 kHz mono [S] in [-1, 1] -> what is compared."""

    name: str
    has_classes: bool

    def __call__(self, audio: NDArray[np.float32]) -> Embedded: ...


def open_embedding(text: str, classifier: AudioClassifier) -> Embedding:
    """The embedding that `--embedding` names: classifier, vggish:FILE, passt:FILE or clap:FOLDER.

    Raises OptionError, DataError and ExportError for weights that do not fit, BackendError for a
    missing library.
    """
    kind, path = check_embedding(text)
    return ClassifierEmbedding(classifier) if path is None else _OPENERS[kind](path)


def check_embedding(text: str) -> tuple[str, Path | None]:
    """The kind and the file that a text names. Raises OptionError."""
    kind, _, path = text.partition(":")
    if (kind, path) == (OWN, ""):
        return kind, None
    if kind not in _OPENERS or not path:
        raise OptionError(
            f"embedding is {text!r}, expected {OWN}, vggish:FILE, passt:FILE or clap:FOLDER"
        )
    return kind, Path(path)


class ClassifierEmbedding:
    """The classifier's last layer before its classes, one vector a clip."""

    name = "log-mel classifier trained on FoleyWorld (training/evaluation/classifier.py)"
    has_classes = True

    def __init__(self, classifier: AudioClassifier) -> None:
        self.classifier = classifier

    def __call__(self, audio: NDArray[np.float32]) -> Embedded:
        logits, vectors = classify(self.classifier, audio[None])
        return Embedded(vectors, softmax(logits[0]))


class VGGish:
    """A vector for each 0.96 s (arXiv:1609.09430), from the weights of torchvggish."""

    has_classes = False

    def __init__(self, path: Path) -> None:
        self.name = f"VGGish, 128 before the last ReLU ({path.name})"
        with torch.device("meta"):  # 290 MB that need no random numbers
            self.network = vggish_network()
        weights = read_weights(path)
        check_weights(str(path), weights, self.network.state_dict())
        self.network.load_state_dict(weights, assign=True)
        self.network.eval()

    @torch.inference_mode()
    def __call__(self, audio: NDArray[np.float32]) -> Embedded:
        frames = vggish_log_mel(torch.from_numpy(audio))  # [frames, mels]
        count = len(frames) // VGGISH_FRAMES
        if not count:
            raise DataError(f"{len(audio)} samples are too short for VGGish, expected 0.96 s")
        patches = frames[: count * VGGISH_FRAMES].unflatten(0, (count, 1, VGGISH_FRAMES))
        maps = self.network["features"](patches)  # [M, 512, frames / 16, mels / 16]
        vectors = self.network["embeddings"](maps.permute(0, 2, 3, 1).flatten(1))
        return Embedded(vectors.double().numpy(), None)


def vggish_network() -> nn.ModuleDict:
    """Untrained, with the names that torchvggish's weights have."""
    features: list[nn.Module] = []
    widths = (1, 64, 128, 256, 256, 512, 512)
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        features += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        if i not in (2, 4):  # pooled after 64, 128, the second 256 and the second 512
            features.append(nn.MaxPool2d(2))
    sizes = (512 * 4 * 6, 4096, 4096, 128)
    linear = [[nn.Linear(a, b), nn.ReLU()] for a, b in itertools.pairwise(sizes)]
    embeddings = list(itertools.chain.from_iterable(linear))[:-1]
    return nn.ModuleDict(
        {"features": nn.Sequential(*features), "embeddings": nn.Sequential(*embeddings)}
    )


def vggish_log_mel(audio: Tensor) -> Tensor:
    """audio [S] -> [frames, mels]: triangles on the mel scale, not on that of frequency."""
    windows = audio.unfold(0, VGGISH_WINDOW, VGGISH_HOP) * torch.hann_window(VGGISH_WINDOW)
    magnitude = torch.fft.rfft(windows, VGGISH_FFT).abs()  # [frames, bins]
    bins = mel_of(torch.linspace(0, RATE_HZ / 2, magnitude.shape[1]))[:, None]
    low, high = mel_of(torch.tensor(VGGISH_RANGE_HZ))
    edges = torch.linspace(float(low), float(high), VGGISH_MELS + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)  # [bins, mels]
    filters[0] = 0
    return (magnitude @ filters + 0.01).log()


def mel_of(hz: Tensor) -> Tensor:
    return 1127 * (1 + hz / 700).log()


class PaSST:
    """Its mean token, and probabilities of the 527 classes of AudioSet (arXiv:2110.05069)."""

    has_classes = True

    def __init__(self, path: Path) -> None:
        try:
            from hear21passt.models.passt import get_model
            from hear21passt.models.preprocess import AugmentMelSTFT
        except ImportError as error:
            raise not_installed(
                "embedding passt needs hear21passt", "hear21passt", error
            ) from error
        self.name = f"PaSST ({path.name})"
        with redirect_stdout(io.StringIO()):  # it prints itself, as does its front end
            self.network = get_model("passt_s_swa_p16_128_ap476", pretrained=False)
            self.log_mel = AugmentMelSTFT(norm=1, fmin_aug_range=10, fmax_aug_range=2000).eval()
        weights = read_weights(path)
        check_weights(str(path), weights, self.network.state_dict())
        self.network.load_state_dict(weights)
        self.network.eval()

    @torch.inference_mode()
    def __call__(self, audio: NDArray[np.float32]) -> Embedded:
        sound = resample(torch.from_numpy(audio)[None], RATE_HZ, 32_000)
        with redirect_stdout(io.StringIO()):
            logits, vectors = self.network(self.log_mel(sound)[:, None])
        probabilities = logits.softmax(1)[0]
        return Embedded(vectors.double().numpy(), probabilities.double().numpy())


class CLAP:
    """One vector a clip, from a folder with a CLAP of transformers (arXiv:2211.06687)."""

    has_classes = False

    def __init__(self, folder: Path) -> None:
        try:
            from transformers import ClapFeatureExtractor, ClapModel
        except ImportError as error:
            raise not_installed(
                "embedding clap needs transformers", "transformers", error
            ) from error
        if not (folder / "config.json").is_file():
            raise DataError(
                f"{folder} has no config.json, expected a folder as `save_pretrained` of "
                "transformers writes it, such as a copy of laion/clap-htsat-unfused"
            )
        self.name = f"CLAP ({folder.name})"
        try:
            self.extract = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            model, loaded = ClapModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # transformers and safetensors raise whatever their readers do
            raise DataError(
                f"{folder} cannot be read ({first_line(error)}), expected a whole CLAP of "
                "transformers; copy it again from where it came"
            ) from error
        lacking = sorted(name for name in loaded["missing_keys"] if name.startswith("audio_"))
        if lacking:  # transformers makes those up, with a warning
            raise DataError(
                f"{folder} lacks {lacking[0]} ({len(lacking)} in all), expected all that CLAP "
                "hears with; copy it again from where it came"
            )
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, audio: NDArray[np.float32]) -> Embedded:
        rate_hz = self.extract.sampling_rate
        sound = resample(torch.from_numpy(audio), RATE_HZ, rate_hz).numpy()
        inputs = self.extract(sound, sampling_rate=rate_hz, return_tensors="pt")
        found = self.model.get_audio_features(**inputs)
        vectors = getattr(found, "pooler_output", found)  # from transformers 5 on, an object
        return Embedded(vectors.double().numpy(), None)


_OPENERS: dict[str, Callable[[Path], Embedding]] = {"vggish": VGGish, "passt": PaSST, "clap": CLAP}


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state_dict, read without running code. Raises DataError."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever their readers do
        raise DataError(
            f"{path} cannot be read ({first_line(error)}), expected a state_dict of torch"
        ) from error
    if not isinstance(weights, dict):
        raise DataError(f"{path} holds a {type(weights).__name__}, expected a state_dict of torch")
    return weights

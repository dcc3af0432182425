"""Torch against ONNX on fixed inputs; a graph that differs is never kept."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from export.modules import CodecDecoder, CodecEncoder
from export.tolerances import TOLERANCES
from training.codecs.spectral import SpectralCodec
from vab_rt.config import ModelConfig
from vab_rt.contract import BACKBONES, GraphContract, contract_of
from vab_rt.engines.sessions import add_weights, check_session
from vab_rt.errors import ExportError

Arrays = dict[str, NDArray]
BATCHES = (1, 2)
TIMED_RUNS = 3


class Loss(NamedTuple):
    """How far logits [B, K, T, V] moved. agreement: share of rows with the same argmax."""

    relative_error: float
    agreement: float

    def __str__(self) -> str:
        return f"relative error {self.relative_error:.1e}, same argmax in {self.agreement:.2%}"


def verify(
    name: str,
    module: nn.Module,
    path: Path,
    config: ModelConfig,
    *,
    is_rounded: bool = False,
    weights: Arrays | None = None,
) -> float:
    """The largest relative error of the graph (of tokens: the share that differs, all ties).

    is_rounded: both round to 16 bits inside. weights: what the graph names and does not hold.
    Raises ExportError beyond the table's tolerance.
    """
    inputs_of = partial(fixed_inputs, name, config)
    contract = contract_of(config)[name]
    session = open_session(path, weights)
    return compare(name, module, session, contract, inputs_of, is_rounded=is_rounded)


def compare(
    name: str,
    module: nn.Module,
    session: onnxruntime.InferenceSession,
    contract: GraphContract,
    inputs_of: Callable[[int], Arrays],
    *,
    is_rounded: bool = False,
) -> float:
    """The same of a graph of any kind. inputs_of: of a batch of that size."""
    check_session(session, name, contract, "this export")
    errors = []
    for batch in BATCHES:
        inputs = inputs_of(batch)
        expected, found = run_torch(module, inputs), session.run(None, inputs)[0]
        if isinstance(module, CodecEncoder):
            check_tokens(module.codec, inputs["audio"], expected, found)
            errors.append(float((expected != found).mean()))
        else:
            errors.append(relative_error(expected, found))
            check_error(name, errors[-1], "rounded" if is_rounded else tolerance_of(name, module))
    return max(errors)


def tolerance_of(name: str, module: nn.Module) -> str:
    """Its row in the table."""
    is_spectral = isinstance(module, CodecDecoder) and isinstance(module.codec, SpectralCodec)
    return "phases" if is_spectral else name


def check_error(name: str, error: float, tolerance: str | None = None) -> None:
    limit, reason = TOLERANCES[tolerance or name]
    if not error <= limit:  # also when it is NaN
        raise ExportError(
            f"{name} differs from torch by {error:.1e} of its largest value, expected at most "
            f"{limit:g} ({reason}); nothing was written"
        )


def check_tokens(codec: nn.Module, audio: NDArray, expected: NDArray, found: NDArray) -> None:
    """Tokens [B, K, T] are equal, but where two codes lie equally near. Raises ExportError.

    Past the first difference along K the residuals differ, so only the first is checked.
    """
    differs, limit = expected != found, TOLERANCES["codec_encoder"].relative
    if not differs.any():
        return
    with torch.no_grad():
        latents = codec.latents(torch.from_numpy(audio))  # [B, T, width]
    for b, t in np.argwhere(differs.any(1)):
        k = int(differs[b, :, t].argmax())
        before = torch.from_numpy(expected[b, :k, t, None]).long()  # [K', 1]
        with torch.no_grad():
            near = codec.distances(latents[b, t][None], before)[0]  # [V]
        if abs(near[expected[b, k, t]] - near[found[b, k, t]]) > limit:
            raise ExportError(
                f"codec_encoder gives token {found[b, k, t]} at {[int(b), k, int(t)]}, expected "
                f"{expected[b, k, t]} as in torch; nothing was written"
            )


def measure_loss(exact: NDArray, found: NDArray) -> Loss:
    same = (exact.argmax(-1) == found.argmax(-1)).mean()
    return Loss(relative_error(exact, found), float(same))


def relative_error(expected: NDArray, found: NDArray) -> float:
    """Largest difference over largest value; NaN where either is not finite."""
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def fixed_inputs(name: str, config: ModelConfig, batch: int) -> Arrays:
    """The same inputs every time: noise of each input's kind, and tones for audio."""
    random = np.random.default_rng(0)
    inputs: Arrays = {}
    for tensor in contract_of(config)[name].inputs:
        shape = tuple(batch if isinstance(size, str) else size for size in tensor.shape)
        if tensor.name == "frames":
            inputs["frames"] = random.integers(256, size=shape, dtype=np.uint8)
        elif tensor.name == "tokens":
            tokens = random.integers(config.codebook_size, size=shape, dtype=np.int32)
            hidden = (random.random(shape) < 0.5) & (name in BACKBONES)
            inputs["tokens"] = np.where(hidden, np.int32(config.mask_id), tokens)
        elif tensor.name == "coarse":
            inputs["coarse"] = random.integers(config.codebook_size, size=shape, dtype=np.int32)
        elif tensor.name == "features":
            features = random.standard_normal(shape, np.float32)
            inputs["features"] = features / np.linalg.norm(features, axis=-1, keepdims=True)
        elif tensor.name == "conditional":
            is_seen = (np.arange(batch) % 2 == 0).astype(np.float32)
            inputs["conditional"] = is_seen * np.float32(max(1.0, config.max_guidance))
        else:
            inputs["audio"] = _sweep_in_noise(random, shape, config.sample_rate_hz)
    return inputs


def run_torch(module: nn.Module, inputs: Arrays) -> NDArray:
    with torch.no_grad():
        return module(*(torch.from_numpy(array) for array in inputs.values())).numpy()


def open_session(path: Path, weights: Arrays | None = None) -> onnxruntime.InferenceSession:
    """Its threads sleep when idle: they would take the cores from torch, which runs in turn."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It would make integer products of those in 8-bit floats, and then find that they are none.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    add_weights(onnxruntime, options, weights or {})
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def seconds_per_run(session: onnxruntime.InferenceSession, inputs: Arrays) -> float:
    """The best of a few runs."""
    seconds = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _sweep_in_noise(
    random: np.random.Generator, shape: tuple[int, ...], sample_rate_hz: int
) -> NDArray:
    time_s = np.arange(shape[1]) / sample_rate_hz
    sweep = 0.3 * np.sin(2 * np.pi * (200 + 300 * time_s) * time_s)
    return (sweep + 0.1 * random.standard_normal(shape)).astype(np.float32)

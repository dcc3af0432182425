"""The models that are evaluated: a bundle as users run it, or a checkpoint through its own modules.

Both become a pipeline of the runtime, so that what is measured is what decodes in the product.
"""

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training import foleyworld
from training.checkpoint import read_checkpoint
from training.evaluation.classifier import KEPT
from training.evaluation.embeddings import OWN
from vab_rt.bundle import open_bundle
from vab_rt.config import GenerateOptions, TokenOptions, fill_in
from vab_rt.contract import STREAMS
from vab_rt.engines import Engine, Engines
from vab_rt.engines.cpu import SessionEngine, num_physical_cores
from vab_rt.errors import BackendError, OptionError
from vab_rt.pipeline import Pipeline, load
from vab_rt.systems.vab import Vab

Module = TypeVar("Module", bound=torch.nn.Module)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is evaluated: a checkpoint, or else a bundle (None: the shipped one), and how.

    classifier: the file of its weights. embeddings: see `open_embedding` and `Listener`. films,
    heard: folders to keep films in, and what was heard of this very trial, for a later call to go
    on. device: of a checkpoint, as torch names it. varied: how many of the first clips are
    generated once more, with another seed. unconditional: also without the picture.
    """

    classifier: Path = KEPT
    bundle: str | None = None
    checkpoint: Path | None = None
    embeddings: tuple[str, ...] = (OWN,)
    options: GenerateOptions = GenerateOptions()
    films: Path | None = None
    heard: Path | None = None
    device: str = "cpu"
    varied: int = 60
    unconditional: bool = False


class Model(NamedTuple):
    """pipeline: what a user runs. encode: audio [B, S] -> tokens int32 [B, K, T]."""

    pipeline: Pipeline
    encode: Callable[[NDArray[np.float32]], NDArray[np.int32]]


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_model(trial: Trial) -> Model:
    """Raises BundleError, ExportError, BackendError; OptionError for one of no use here."""
    model = _open_bundle(trial.bundle) if trial.checkpoint is None else _open_checkpoint(trial)
    config = model.pipeline.config
    found = (config.clip_s, config.sample_rate_hz)
    if found != (foleyworld.CLIP_S, foleyworld.SAMPLE_RATE_HZ):
        raise OptionError(
            f"model {config.name} makes {found[0]:g} s at {found[1]} Hz, expected the clips of "
            f"FoleyWorld, {foleyworld.CLIP_S:g} s at {foleyworld.SAMPLE_RATE_HZ} Hz"
        )
    return model


def _open_bundle(folder: str | None) -> Model:
    alone = multiprocessing.parent_process() is None
    threads = num_physical_cores() if alone else 1
    bundle = open_bundle(folder)
    contract = bundle.contracts["codec_encoder"]
    graph = bundle.read_graph("codec_encoder")
    encoder = SessionEngine("codec_encoder", graph, contract, threads, str(bundle.folder))
    return Model(load(folder, threads=threads), lambda audio: encoder(audio=audio))


def _open_checkpoint(trial: Trial) -> Model:
    checkpoint, device = read_checkpoint(trial.checkpoint), trial.device
    if checkpoint.config.given_codebooks:
        raise OptionError(
            f"model {checkpoint.config.name} predicts only the codebooks after the first "
            f"{checkpoint.config.given_codebooks}, expected one that predicts all"
        )
    codec = on_device(checkpoint.codec(), device)
    seeing = zip(STREAMS, checkpoint.visual_parts().values(), strict=False)
    graphs = {
        **{name: torch_engine(on_device(part, device), device) for name, part in seeing},
        "backbone": torch_engine(on_device(checkpoint.vab(), device), device),
        "codec_decoder": torch_engine(lambda tokens: codec.decode(tokens).clamp(-1, 1), device),
    }
    encode = torch_engine(codec.encode, device)
    config, own = checkpoint.config, checkpoint.header.options
    defaults = fill_in(own, TokenOptions(), f"model {config.name}")
    system = Vab(config, Engines(graphs, device), defaults)
    return Model(Pipeline(system), lambda audio: encode(audio=audio))


def torch_engine(function: Callable[..., torch.Tensor], device: str) -> Engine:
    """A torch function with the contract's names as an engine of the runtime."""

    @torch.inference_mode()
    def run(**inputs: NDArray) -> NDArray:
        tensors = {name: torch.from_numpy(x).to(device) for name, x in inputs.items()}
        return function(**tensors).cpu().numpy()

    return run


def on_device(module: Module, device: str) -> Module:
    """Raises BackendError for a device that is not there."""
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises both for a missing device
        raise BackendError(
            f"device {device!r} cannot be used ({error}), expected cpu or cuda; choose another"
        ) from error

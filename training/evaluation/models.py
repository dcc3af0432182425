"""The models that are evaluated: a bundle as users run it, or a checkpoint through its own modules.

Both become a pipeline of the runtime, so that what is measured is what decodes in the product.
"""

import functools
import multiprocessing
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from training import foleyworld
from training.checkpoint import read_checkpoint
from training.datasets.rendered import check_world
from training.evaluation.evaluator import Arrays, EvalConfig, Sound
from training.evaluation.spectra import resampled
from vab_rt.bundle import open_bundle
from vab_rt.contract import STREAMS
from vab_rt.engines import Engine, Engines
from vab_rt.engines.sessions import open_graph
from vab_rt.errors import BackendError, OptionError
from vab_rt.options import GenerateOptions, TokenOptions, fill_in
from vab_rt.pipeline import Pipeline, load
from vab_rt.systems import State
from vab_rt.systems.vab import Vab
from vab_rt.threads import num_physical_cores
from vab_rt.windows import Window

Module = TypeVar("Module", bound=torch.nn.Module)


class Model(NamedTuple):
    """pipeline: what a user runs. encode: audio [B, S] -> tokens int32 [B, K, T]."""

    pipeline: Pipeline
    encode: Callable[[Sound], NDArray[np.int32]]


@functools.lru_cache(maxsize=2)  # for all clips of a process, and in another precision
def open_any_model(config: EvalConfig) -> Model:
    """Raises BundleError, ExportError, BackendError; OptionError for one of no use here."""
    return _open_bundle(config) if config.checkpoint is None else _open_checkpoint(config)


class AtWorldRate(Pipeline):
    """A model of another rate, whose `render` is at FoleyWorld's."""

    def render(self, state: State) -> Sound:  # [B, S]
        sound = super().render(state)
        return resampled(sound, self.config.sample_rate_hz, foleyworld.SAMPLE_RATE_HZ)


def open_in_world(config: EvalConfig) -> Model:
    """A model of any rate, to be heard at FoleyWorld's: so are what it renders and encodes. Raises
    as `open_any_model` does, and OptionError for one of clips of another length."""
    pipeline, encode = open_any_model(config)
    clip_s, rate_hz = pipeline.config.clip_s, pipeline.config.sample_rate_hz
    if clip_s != foleyworld.CLIP_S or rate_hz == foleyworld.SAMPLE_RATE_HZ:
        return open_model(config)

    def encode_resampled(audio: Sound) -> NDArray[np.int32]:
        return encode(resampled(audio, foleyworld.SAMPLE_RATE_HZ, rate_hz))

    return Model(AtWorldRate(pipeline.system), encode_resampled)


def open_model(config: EvalConfig) -> Model:
    """A model of FoleyWorld's clips and rate. Raises the same."""
    model = open_any_model(config)
    check_world(model.pipeline.config)
    return model


def _open_bundle(config: EvalConfig) -> Model:
    alone = multiprocessing.parent_process() is None
    threads = num_physical_cores() if alone else 1
    bundle = open_bundle(config.bundle)
    encoder = open_graph(bundle, "codec_encoder", threads)
    pipeline = load(config.bundle, threads=threads, precision=config.precision)
    return Model(pipeline, lambda audio: encoder(audio=audio))


def _open_checkpoint(config: EvalConfig) -> Model:
    checkpoint, device = read_checkpoint(config.checkpoint), config.device
    model, own = checkpoint.config, checkpoint.header.options
    if model.given_codebooks:
        raise OptionError(
            f"model {model.name} predicts only the codebooks after the first "
            f"{model.given_codebooks}, expected one that predicts all"
        )
    codec = on_device(checkpoint.codec(), device)
    visual = zip(STREAMS, checkpoint.visual_parts().values(), strict=False)
    graphs = {
        **{name: torch_engine(on_device(part, device), device) for name, part in visual},
        "backbone": torch_engine(on_device(checkpoint.vab(), device), device),
        "codec_decoder": torch_engine(lambda tokens: codec.decode(tokens).clamp(-1, 1), device),
    }
    encode = torch_engine(codec.encode, device)
    defaults = fill_in(own, TokenOptions(), f"model {model.name}")
    system = Vab(model, Engines(graphs, device), defaults)
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


def generate(pipeline: Pipeline, features: NDArray[np.float32], options: GenerateOptions) -> Sound:
    """Sound [S] for the features of one clip [1, F, visual_dim]."""
    system = pipeline.system
    whole = Window(
        0, features[0], len(features[0]), slice(0, pipeline.config.num_samples), is_last=True
    )
    *_, (_, finished) = system.decode(whole, None, system.options(options))
    return pipeline.render(finished)[0]


def generate_from(
    number: int, features: NDArray[np.float32], config: EvalConfig
) -> tuple[dict[str, Sound], Arrays]:
    """The sound for features [F, visual_dim], for `evaluate_clips`."""
    pipeline = open_model(config).pipeline
    return {"generated": generate(pipeline, features[None], config.options_of(number))}, {}


def true_sound(number: int, seed: int, config: EvalConfig) -> tuple[dict[str, Sound], Arrays]:
    """That of the scene of a seed, for `evaluate_clips`."""
    return {"ground_truth": foleyworld.make_scene(seed).audio()}, {}

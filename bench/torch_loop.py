"""The same model in plain PyTorch, beside the runtime: the peer of `bench generate`.

Weights are random, as time does not depend on them: a checkpoint of the bundle's own config is
exported, and both sides run it in turn in this process. A process of its own, so that PyTorch does
not count in the memory of what is measured beside it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vab_rt
from bench.options import at_least_one
from bench.peers.parallel import Parallel
from bench.report import PAUSE_S
from export.tolerances import TOLERANCES
from export.verify import fixed_inputs, relative_error, run_torch
from training.checkpoint import MOTION
from training.codecs.codec import build_codec
from training.configs import CONFIGS, Recipe, read_recipe, recipe_names
from training.model import VAB
from training.visual_encoder import build_visual_encoder
from vab_rt.bundle import open_bundle
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions
from vab_rt.pipeline import Pipeline
from vab_rt.video import Video


class TorchModel:
    """The three modules of one checkpoint, and the loop of `Parallel` over them."""

    def __init__(self, config: ModelConfig, codec_settings: dict[str, Any], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.config, self.codec_settings = config, codec_settings
        self.codec = build_codec(config, codec_settings).eval()
        if config.codec != "dac":  # whose codebooks begin as noise; theirs begin empty
            for layer in self.codec.quantizer.vq.layers:
                layer.codebook.normal_(std=0.3)
        self.vab = VAB(config).eval()
        self.vab.use_codebooks(self.codec.codebooks)
        self.visual_encoder = build_visual_encoder(config)

    def save(self, path: Path) -> Path:
        seeing = {"image_encoder": self.visual_encoder.images, MOTION: self.visual_encoder.motion}
        parts = {"vab": self.vab, "codec": self.codec, **seeing}
        facts = {
            "config": msgspec.to_builtins(self.config),
            "codec_settings": self.codec_settings,
            "license": "Apache-2.0",
            "provenance": {"data": "none, random weights"},
        }
        torch.save(facts | {name: part.state_dict() for name, part in parts.items() if part}, path)
        return path

    @torch.inference_mode()
    def generate(self, video: Path, options: TokenOptions) -> tuple[Tensor, float]:
        """Samples [1, S] of one clip, and the seconds spent on its tokens."""
        frames = list(islice(Video(video).frames(self.config), self.config.num_frames))
        images = [torch.from_numpy(np.stack([frame.image for frame in frames]))]
        if self.config.large_stride:
            large = [frame.large for frame in frames if frame.large is not None]
            images.append(torch.from_numpy(np.stack(large)))
        features = self.visual_encoder(*images)[None]  # [1, F, visual_dim]
        begin = time.perf_counter()
        tokens = Parallel(self.vab, options).tokens(features, options.seed)
        tokens_s = time.perf_counter() - begin
        return self.codec.decode(tokens).clamp(-1, 1), tokens_s


def recipe_of(config: ModelConfig) -> Recipe:
    """The recipe that trains this model, with the kinds that it has learned, and guided in two
    passes. Raises OptionError."""
    own = msgspec.structs.replace(config, max_guidance=0.0)
    for name in recipe_names():
        recipe = read_recipe(name)
        visual_dim = recipe.model.visual_dim + len(own.kinds) - len(recipe.model.kinds)
        told = msgspec.structs.replace(recipe.model, kinds=own.kinds, visual_dim=visual_dim)
        if told == own:
            return msgspec.structs.replace(recipe, model=own)
    raise OptionError(
        f"no recipe of {CONFIGS} has the model of this bundle ({config.name}), expected one with "
        "equal facts; export the bundle again, or add its recipe"
    )


def export(model: TorchModel, folder: Path, precision: str = "fp32") -> Path:
    """precision: see `export.build_engines --precision`."""
    checkpoint, bundle = model.save(folder / "ckpt.pt"), folder / "bundle"
    command = [sys.executable, "-m", "export.build_engines", str(checkpoint), "--out", str(bundle)]
    subprocess.run([*command, "--precision", precision], check=True, stdout=sys.stderr)
    return bundle


@torch.inference_mode()
def count_flops(model: TorchModel) -> dict[str, int]:
    """The work of one clip: the frames, one guided step, and the sound."""
    c = model.config
    tokens = torch.zeros(2, c.num_codebooks, c.num_token_steps, dtype=torch.int32)
    frames = [torch.zeros(c.num_frames, c.frame_size, c.frame_size, 3, dtype=torch.uint8)]
    if c.large_stride:
        side = c.image_size
        frames.append(torch.zeros(c.num_visual, side, side, 3, dtype=torch.uint8))
    features = torch.zeros(2, c.num_frames, c.visual_dim)
    return {
        "visual": flops_of(model.visual_encoder, *frames),
        "guided_step": flops_of(model.vab, tokens, features, torch.tensor([1.0, 0.0])),
        "codec": flops_of(model.codec.decode, tokens[:1]),
    }


def flops_of(call: Callable[..., Tensor] | nn.Module, *inputs: Tensor) -> int:
    """Multiplications and additions of the matrix products in call(*inputs)."""
    # The counter does not know fused attention; spelled out, it is matrix products.
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
    return counter.get_total_flops()


def logits_error(model: TorchModel, pipeline: Pipeline) -> float:
    """The error of one guided step, relative: torch against the runtime's backbone."""
    inputs = fixed_inputs("backbone", model.config, batch=2)
    found = pipeline.system.engines["backbone"](**inputs)
    return relative_error(run_torch(model.vab, inputs), found)


def compare(
    model: TorchModel, pipeline: Pipeline, video: Path, repeats: int
) -> Iterator[dict[str, float]]:
    """Seconds of both sides, in turn, one clip each; the first turn only warms up."""
    for seed in range(repeats + 1):
        options = TokenOptions(seed=seed)
        begin = time.perf_counter()
        _, torch_tokens_s = model.generate(video, options)
        torch_s = time.perf_counter() - begin
        time.sleep(PAUSE_S)
        begin = time.perf_counter()
        *_, last = pipeline.generate_steps(video, options)
        ours_s = time.perf_counter() - begin
        time.sleep(PAUSE_S)
        figures = {"torch_s": torch_s, "torch_tokens_s": torch_tokens_s, "ours_s": ours_s}
        if seed > 0:
            yield figures | {"ours_tokens_s": last.timings_s["tokens"]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.torch_loop", description=__doc__)
    parser.add_argument("video", type=Path, help="a clip as long as the model's")
    parser.add_argument("--model", help="the bundle whose config is taken (default: the shipped)")
    parser.add_argument("--repeats", type=at_least_one, default=5)
    arguments = parser.parse_args()
    recipe = recipe_of(open_bundle(arguments.model).config)
    model = TorchModel(recipe.model, recipe.codec)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = vab_rt.load(export(model, Path(folder)))
    error, limit = logits_error(model, pipeline), TOLERANCES["backbone"].relative
    if not error <= limit:
        sys.exit(f"not timed: logits differ by {error:.1e}, expected at most {limit:g}")
    turns = list(compare(model, pipeline, arguments.video, arguments.repeats))
    medians = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    print(json.dumps(medians | {"relative_error": error, "flops": count_flops(model)}))


if __name__ == "__main__":
    main()

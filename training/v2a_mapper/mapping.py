"""Train the mapper, the one part of V2A-Mapper that is new: vectors of frames to those of sound.

Mean square error on frozen vectors (arXiv:2308.09300): of the vector itself for the regression, of
the one that is left when the noise is taken out for the prior, which is DALLE2-pytorch's loss.
`recipes.train v2a-mapper` does it on FoleyWorld; on your own vectors, such as those that
`training.v2a_mapper.extract` makes with the real CLIP and CLAP: `python -m
training.v2a_mapper.mapping --pairs PAIRS --out DIR`.
"""

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.command import report, run_command, settings_of
from training.datasets.resumable_arrays import read_grown
from training.fitting import EMA, cosine_lr, fit, set_lr
from training.representation import load_averaged
from training.saving import save_whole
from training.v2a_mapper.config import read_v2a_recipe
from training.v2a_mapper.diffusion import noised
from training.v2a_mapper.mapper import PriorNetwork, aggregate, build_mapper
from training.v2a_mapper.settings import MapperSettings, MappingSettings
from vab_rt.errors import DataError
from vab_rt.v2a_mapper.config import V2AConfig
from vab_rt.v2a_mapper.diffusion import cosine_alphas

ARRAYS = ("features", "vectors")


class Matched(msgspec.Struct, frozen=True):
    """features [N, F, visual_dim] of frames, vectors [N, audio_dim] of unit length of the sound.

    Raises DataError where they are not as many, or of other widths than `config` says.
    """

    features: Tensor
    vectors: Tensor
    config: V2AConfig

    def __post_init__(self) -> None:
        c, found = self.config, (list(self.features.shape), list(self.vectors.shape))
        fits = len(found[0]) == 3 and found[0][2] == c.visual_dim
        if not fits or not found[0][0] or found[1] != [found[0][0], c.audio_dim]:
            raise DataError(
                f"features are {found[0]} and vectors {found[1]}, expected [N, F, "
                f"{c.visual_dim}] and [N, {c.audio_dim}] of the same N, at least 1, for "
                f"model {c.name}; make them with its own encoders"
            )


def train_mapper(
    folder: Path, matched: Matched, sizes: MapperSettings, settings: MappingSettings
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/KIND.pt, by the config's kind of mapper,
    with the averaged weights."""
    s, config = settings, matched.config
    torch.manual_seed(s.seed)
    mapper = build_mapper(config, sizes)
    assert mapper is not None, config.mapper
    mapper.train()
    average = EMA(mapper, s.average)
    optimizer = torch.optim.AdamW(mapper.parameters(), weight_decay=s.weight_decay)
    left = torch.from_numpy(cosine_alphas(config.mapper_timesteps)).float()

    def step(i: int, progress: float) -> dict[str, float]:
        set_lr(optimizer, cosine_lr(progress, s.peak_rate))
        random = np.random.default_rng((s.seed, i))
        rows = torch.from_numpy(random.integers(len(matched.vectors), size=s.batch))
        visual = aggregate(matched.features[rows], config.aggregator, random)
        target = matched.vectors[rows]
        if isinstance(mapper, PriorNetwork):
            loss = prior_loss(mapper, visual, target, left, s.drop, random)
        else:
            loss = F.mse_loss(mapper(visual), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mapper.parameters(), s.max_norm)
        optimizer.step()
        average.update(mapper)
        return {"loss": loss.item()}

    parts = {"mapper": mapper, "average": average, "optimizer": optimizer}
    yield from fit(folder / f"{config.mapper}.pt", parts, step, None, s.steps)


def prior_loss(
    prior: PriorNetwork,
    visual: Tensor,
    target: Tensor,
    left: Tensor,
    drop: float,
    random: np.random.Generator,
) -> Tensor:
    """How far the sound is missed, of frames and sounds [B, D], in vectors of length sqrt(D)."""
    count, dim = target.shape
    clean = target * dim**0.5
    times = torch.from_numpy(random.integers(len(left), size=count))
    noise = torch.from_numpy(random.standard_normal((count, dim), np.float32))
    seen, heard = (
        torch.from_numpy((random.random(count) >= drop).astype(np.float32)) for _ in range(2)
    )
    found = prior(noised(clean, noise, left[times]), times, visual, seen, heard)
    return F.mse_loss(found, clean)


def read_matched(path: Path, config: V2AConfig) -> Matched:
    """An .npz of `features` [N, F, visual_dim] and `vectors` [N, audio_dim], which are made unit
    length, or a folder of `training.v2a_mapper.extract`. Raises DataError."""
    try:
        features, vectors = (read_folder if path.is_dir() else read_npz)(path)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected an .npz of features [N, F, "
            f"{config.visual_dim}] and vectors [N, {config.audio_dim}], or the folder of an "
            "extraction that is finished"
        ) from error
    for name, array in (("features", features), ("vectors", vectors)):
        if not torch.isfinite(array).all():
            raise DataError(f"{path}: {name} hold NaN or infinity, expected finite numbers")
    if not vectors.norm(dim=-1).all():
        raise DataError(
            f"{path}: a vector has no length, expected each to have; leave its clip out"
        )
    return Matched(features, F.normalize(vectors, dim=-1), config)


def read_npz(path: Path) -> tuple[Tensor, ...]:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no .npz")
    with np.load(path, allow_pickle=False) as saved:
        return tuple(torch.from_numpy(saved[name]).float() for name in ARRAYS)


def read_folder(folder: Path) -> tuple[Tensor, ...]:
    """Without the clips that could not be read."""
    arrays, notes = read_grown(folder, ARRAYS)
    rows = [row for row, note in enumerate(notes) if "skipped" not in note]
    return tuple(torch.from_numpy(arrays[name][rows]).float() for name in ARRAYS)


def load_mapper(path: Path, config: V2AConfig, sizes: MapperSettings) -> nn.Module:
    """What `train_mapper` left. Raises DataError, ExportError for other sizes."""
    mapper = build_mapper(config, sizes)
    assert mapper is not None, config.mapper
    return load_averaged(path, mapper)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.v2a_mapper.mapping",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", default="v2a-mapper-audioldm", help="a recipe with the sizes")
    parser.add_argument("--pairs", type=Path, required=True, help="an .npz, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--mapper", choices=["regression", "prior"], default="prior", help=" ")
    parser.add_argument("--aggregator", choices=["mean", "middle", "random"], help="of frames")
    for name, value in msgspec.structs.asdict(MappingSettings()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help=" ")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    recipe, settings = read_v2a_recipe(arguments.config), settings_of(arguments, MappingSettings)
    config = msgspec.structs.replace(recipe.model, mapper=arguments.mapper)
    if arguments.aggregator is not None:
        config = msgspec.structs.replace(config, aggregator=arguments.aggregator)
    matched, sizes = read_matched(arguments.pairs, config), recipe.networks.mapper
    report(config.mapper, train_mapper(arguments.out, matched, sizes, settings))
    trained = load_mapper(arguments.out / f"{config.mapper}.pt", config, sizes)
    path = arguments.out / "mapper.pt"
    save_whole(path, trained.state_dict())
    print(path)


if __name__ == "__main__":
    main()

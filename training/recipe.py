"""The whole chain in one command: `python -m training.recipe default`.

world -> codec -> CLIP -> tokens and features -> pre-training -> ckpt.pt. Each stage leaves a file
in the run's folder; run the command again to go on where it stopped.
"""

import argparse
import datetime
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from training import data
from training.clip_training import train_clip
from training.codec import build_codec
from training.codec_training import train_codec
from training.image_encoder import TINY, ImageEncoder, build_clip
from training.pretrain import PretrainSettings, TokenisedClips, pretrain
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError, VabError

CONFIGS = Path(__file__).parent / "configs"
TOKENISE_BATCH = 16


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file in `configs/`: a model and how it is trained. Minutes are per stage."""

    model: ModelConfig
    codec: dict[str, int] = {}
    pretrain: PretrainSettings = PretrainSettings()
    clips: int = 1600
    codec_minutes: float = 25
    clip_minutes: float = 10
    pretrain_minutes: float = 60
    licence: str = "Apache-2.0"


def read_recipe(name: str) -> Recipe:
    """A recipe by name or path. Raises OptionError naming the file and the key at fault."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
        raise OptionError(f"no recipe {name!r}; expected a .toml file or one of: {known}")
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except msgspec.DecodeError as error:  # msgspec names the key and what it expected
        raise OptionError(f"{path}: {error}") from error


def run(recipe: Recipe, folder: Path) -> Path:
    """Train everything into `folder`; returns the path of the finished checkpoint.

    Raises OptionError for a model whose codec or image encoder is not trained here.
    """
    if recipe.model.codec != "spectral" or recipe.model.image_encoder != TINY:
        raise OptionError(
            f"model {recipe.model.name} has the codec {recipe.model.codec} and the image encoder "
            f"{recipe.model.image_encoder}, expected spectral and {TINY}: recipes train these on "
            "FoleyWorld; the others come with weights of their own, which cannot be brought in yet"
        )
    clips = data.clips(folder / "world", "train", recipe.clips, recipe.model)
    report("codec", train_codec(folder, clips, recipe.model, recipe.codec, recipe.codec_minutes, 0))
    report("clip", train_clip(folder, clips, recipe.model, recipe.clip_minutes, 0))
    codec, encoder = load_codec(recipe, folder), load_image_encoder(recipe, folder)
    tokenised = tokenise(folder / "tokenised.npz", clips, codec, encoder)
    report(
        "pretrain",
        pretrain(
            folder,
            tokenised,
            codec.codebooks,
            recipe.model,
            recipe.pretrain,
            recipe.pretrain_minutes,
        ),
    )
    return write_checkpoint(recipe, folder, codec, encoder)


def report(stage: str, losses: Iterable[tuple[int, float, dict[str, float]]]) -> None:
    for step, progress, means in losses:
        figures = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(f"{stage} {progress:6.1%}  step {step}  {figures}", flush=True)


def load_codec(recipe: Recipe, folder: Path) -> torch.nn.Module:
    codec = build_codec(recipe.model, recipe.codec)
    codec.load_state_dict(_average(folder / "codec.pt"))
    return codec.eval()


def load_image_encoder(recipe: Recipe, folder: Path) -> ImageEncoder:
    clip = build_clip(recipe.model)
    clip.load_state_dict(_average(folder / "clip.pt"))
    return ImageEncoder(recipe.model, clip.visual).eval()


def _average(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["average"]


def tokenise(
    path: Path, clips: data.Clips, codec: torch.nn.Module, encoder: ImageEncoder
) -> TokenisedClips:
    """Tokens and visual features of every clip, kept in `path` until codec or encoder change."""
    sources = [path.with_name(name).stat().st_mtime for name in ("codec.pt", "clip.pt")]
    if not path.exists() or path.stat().st_mtime < max(sources):
        batches = list(_tokenise_batches(clips, codec, encoder))
        tokens, features = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        beside = path.with_suffix(".tmp.npz")
        np.savez(beside, tokens=tokens, features=features)
        beside.replace(path)
    with np.load(path, allow_pickle=False) as saved:
        return TokenisedClips(tokens=saved["tokens"], features=saved["features"])


@torch.no_grad()
def _tokenise_batches(
    clips: data.Clips, codec: torch.nn.Module, encoder: ImageEncoder
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(clips), TOKENISE_BATCH):
        audio = torch.from_numpy(clips.audio[start : start + TOKENISE_BATCH] / np.float32(32767))
        frames = torch.from_numpy(
            clips.frames[start : start + TOKENISE_BATCH].copy()
        )  # [B, F, H, W, 3]
        features = encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        yield codec.encode(audio).numpy().astype(np.int16), features.numpy()


def write_checkpoint(
    recipe: Recipe, folder: Path, codec: torch.nn.Module, encoder: torch.nn.Module
) -> Path:
    """Gather the averaged weights of every stage in `folder`/ckpt.pt, ready for export."""
    saved = torch.load(folder / "vab.pt", weights_only=True)
    checkpoint: dict[str, Any] = {
        "config": msgspec.to_builtins(recipe.model),
        "codec_settings": dict(recipe.codec),
        "vab": saved["average"],
        "codec": codec.state_dict(),
        "image_encoder": encoder.state_dict(),
        "licence": recipe.licence,
        "provenance": {
            "data": f"FoleyWorld, {recipe.clips} training clips of 10 s, procedural",
            "trained_by": "python -m training.recipe",
            "date": datetime.date.today().isoformat(),
            "pretraining_steps": str(saved["step"]),
        },
    }
    torch.save(checkpoint, folder / "ckpt.pt")
    return folder / "ckpt.pt"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.recipe", description=__doc__)
    parser.add_argument("name", help="a recipe of training/configs, or a .toml file")
    parser.add_argument("--out", type=Path, help="the run's folder (default runs/NAME)")
    parser.add_argument("--minutes", type=float, help="pre-training minutes, all runs together")
    arguments = parser.parse_args()
    try:
        recipe = read_recipe(arguments.name)
        if arguments.minutes is not None:
            recipe = msgspec.structs.replace(recipe, pretrain_minutes=arguments.minutes)
        folder = arguments.out or Path("runs") / Path(arguments.name).stem
        print(f"checkpoint: {run(recipe, folder)}")
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

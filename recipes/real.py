"""The chain of a model of real kinds: `python -m recipes.train real --sounds DIR --pictures DIR`.

sounds -> FoleyWorld and pairs -> kinds -> motion encoder -> codec -> tokens and features ->
pre-training -> ckpt.pt -> bundle -> evaluation. The kinds are the folders' names.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn

from recipes.encoders import write_start
from recipes.real_data import (
    PAIRS_VERSION,
    Folders,
    RealData,
    material_of,
    read_data,
    samples_of,
    training_pairs,
    validation_pairs,
)
from recipes.results import describe, evaluate_bundle, export
from recipes.transformer import train_model
from training import distributed
from training.checkpoint import MOTION, Checkpoint, read_checkpoint
from training.codec_training import train_codec
from training.codecs.recordings import Recordings, rows_of
from training.codecs.settings import read_training
from training.command import report, shown
from training.configs import Recipe
from training.datasets.kind_clips import KindClips
from training.datasets.pair_clips import PairClips
from training.datasets.pair_scenes import draw_views
from training.datasets.resumable_arrays import Field, Row, grow, read_grown
from training.datasets.sound_folders import fingerprint, of_split
from training.efficientnet import LITE0
from training.fitting import averaged_weights
from training.kinds import KindsEncoder, train_kinds
from training.motion_training import motion_weights, train_motion
from training.samples import as_floats
from training.saving import save_whole
from training.stage import begin, inputs_path, stage
from training.visual_encoder import MotionEncoder
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

VIEWS, VIEWS_EACH = 24_000, 30
"""Of all pictures, from which what is seen is learned: at most, and of each on average."""
OF_ENCODED = ("tokens", "motion", "images", "shown", "heard")


def run(recipe: Recipe, folder: Path, folders: Folders) -> None:
    """Everything into `folder`. Raises OptionError for a model without kinds, DataError."""
    check_model(recipe.model)
    with distributed.rank_zero_first():
        data = read_data(folder, recipe.model, folders)
        recipe = msgspec.structs.replace(recipe, model=data.config)
        pairs = training_pairs(folder, recipe, data)
        held_out = validation_pairs(folder, recipe, data)
        visual: dict[str, nn.Module] = {"image_encoder": kinds_encoder(folder, data, folders.table)}
        visual[MOTION] = motion_encoder(folder, recipe, pairs)
        learn_codec(folder, recipe, data, pairs)
        start = write_start(
            folder / "start.pt", recipe, data.config, visual, folder / "codec.pt", made_of(recipe)
        )
        clips = encoded_pairs(folder / "train", start, pairs)
        validation = encoded_pairs(folder / "validation", start, held_out).in_memory()
    checkpoint = train_model(
        folder,
        read_checkpoint(start),
        clips,
        validation,
        recipe.pretrain,
        recipe.pretrain_minutes,
        recipe.options_of(recipe.model),
        recipe.distilled,
    )
    if distributed.rank() == 0:
        export(checkpoint, folder / "bundle")
        evaluate_bundle(recipe, folder)
        describe(folder)


def check_model(model: ModelConfig) -> None:
    if model.image_encoder != LITE0 or model.kinds or not model.motion_dim:
        raise OptionError(
            f"model {model.name} has the image encoder {model.image_encoder}, "
            f"{len(model.kinds)} kinds and motion_dim {model.motion_dim}, expected {LITE0}, none "
            "yet, and more than 0: --sounds and --pictures go with the recipe real, or with one "
            "made from it"
        )


def made_of(recipe: Recipe) -> str:
    return (
        f"{recipe.clips} clips of 10 s, made of recordings and pictures of "
        f"{len(recipe.model.kinds)} kinds, and {recipe.rendered_clips} clips of FoleyWorld"
    )


def kinds_encoder(folder: Path, data: RealData, table: Path | None) -> KindsEncoder:
    """Trained on views of the pictures for training, in `folder`/kinds.pt."""
    path, config = folder / "kinds.pt", data.config
    pictures = of_split(data.pictures, "train")

    def make() -> None:
        count = min(VIEWS, VIEWS_EACH * len(pictures))
        views = draw_views(count, material_of(folder, data, "train"), config.image_size)
        encoder = train_kinds(config, shown("views seen", views, count), data.table)
        content = {"average": {"weights": encoder.state_dict(), "count": 1}, "step": count}
        save_whole(path, content)

    stage(
        path,
        make,
        kinds=list(config.kinds),
        pictures=fingerprint(pictures),
        sounds=fingerprint(data.sounds),
        table=table or "none",
        version=[PAIRS_VERSION, VIEWS, VIEWS_EACH],
    )
    encoder = KindsEncoder(config)
    encoder.load_state_dict(averaged_weights(path))
    return encoder.eval()


def motion_encoder(folder: Path, recipe: Recipe, pairs: PairClips) -> MotionEncoder:
    """Trained on the pairs in `folder`/pairs, in `folder`/motion.pt."""
    begin(folder / "motion.pt", pairs=inputs_path(folder / "pairs"))
    report(
        "motion",
        train_motion(folder, pairs, recipe.model, recipe.motion_minutes, 0, recipe.motion),
    )
    motion = MotionEncoder(recipe.model)
    motion.load_state_dict(motion_weights(averaged_weights(folder / "motion.pt")))
    return motion.eval()


def learn_codec(folder: Path, recipe: Recipe, data: RealData, pairs: PairClips) -> None:
    """Into `folder`/codec.pt: recordings of all folders, and the pairs and FoleyWorld's clips in
    rows of the same length."""
    path, config = folder / "codec.pt", recipe.model
    training = read_training(config.codec, recipe.codec_training)
    begin(path, pairs=inputs_path(folder / "pairs"))
    rows = codec_rows(folder, data, pairs, training.crop_s)
    report(
        path.stem,
        train_codec(folder, rows, config, recipe.codec, recipe.codec_minutes, 0, training),
    )


def codec_rows(folder: Path, data: RealData, pairs: PairClips, crop_s: float) -> Recordings:
    rate_hz = data.config.sample_rate_hz
    sounds = samples_of(folder, data.sounds, rate_hz)
    length = round(max(2.0, crop_s) * rate_hz)
    rows = [
        rows_of(samples, length)
        for one, samples in zip(sounds.listed, sounds.samples, strict=True)
        if one.split == "train"
    ]
    made = np.asarray(pairs.audio[: len(pairs) // 4, :length])
    return Recordings(audio=np.concatenate([*rows, made]))


def encoded_pairs(folder: Path, start: Path, pairs: PairClips) -> KindClips:
    """Tokens and features by the encoders in `start`, in `folder` until either changes."""
    checkpoint = read_checkpoint(start)
    c = checkpoint.config
    fields = {
        "tokens": Field("<i2", (c.num_codebooks, c.num_token_steps)),
        "motion": Field("<f2", (c.num_frames, c.motion_dim)),
        "images": Field("<f2", (pairs.images.shape[1], c.image_dim)),
        "shown": Field("|i1", pairs.shown.shape[1:]),
        "heard": Field("<i2", pairs.heard.shape[1:]),
    }

    def rows_from(first: int) -> Iterator[Row]:
        yield from encode(pairs, first, checkpoint)

    stage(
        folder,
        lambda: grow(folder, fields, len(pairs), rows_from),
        parts=[folder.with_name(f"{folder.name}.partial")],
        start=start,
        shown=np.asarray(pairs.shown),
        heard=np.asarray(pairs.heard),
    )
    arrays, _ = read_grown(folder, OF_ENCODED)
    return KindClips(**arrays, config=c)


@torch.inference_mode()
def encode(pairs: PairClips, first: int, checkpoint: Checkpoint) -> Iterator[Row]:
    device = distributed.device()
    codec, images, motion = (
        module.to(device).eval()
        for module in (
            checkpoint.codec(),
            checkpoint.image_encoder(),
            checkpoint.motion_encoder(),
        )
    )
    for i in range(first, len(pairs)):
        audio = torch.from_numpy(as_floats(pairs.audio[i])).to(device)
        frames = torch.from_numpy(np.array(pairs.frames[i])).to(device)
        features = np.zeros((pairs.images.shape[1], checkpoint.config.image_dim), np.float16)
        count = int(pairs.shown[i].max()) + 1
        if count:
            seen = images(torch.from_numpy(np.array(pairs.images[i, :count])).to(device))
            features[:count] = seen.cpu().numpy()
        arrays = {
            "tokens": codec.encode(audio[None])[0].cpu().numpy().astype(np.int16),
            "motion": motion.of_clip(frames).cpu().numpy().astype(np.float16),
            "images": features,
            "shown": np.array(pairs.shown[i]),
            "heard": np.array(pairs.heard[i]),
        }
        yield Row(arrays)

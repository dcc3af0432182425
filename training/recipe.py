"""The whole chain in one command: `python -m training.recipe default`.

world -> codec -> CLIP -> tokens and features -> pre-training -> ckpt.pt -> retrieval and classes
-> bundle -> evaluation. Each stage leaves a file in the run's folder; run the command again to go
on where it stopped. With --start and --shards it begins at the tokens of one's own clips.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from training import evaluate, foleyworld, ranks
from training.checkpoint import Checkpoint, Header, read_checkpoint, write_checkpoint
from training.classification import finetune_classifier
from training.clip_training import train_clip
from training.codec_training import train_codec
from training.codecs.codec import build_codec
from training.codecs.settings import read_training
from training.contrastive import finetune_contrastive, start_from
from training.datasets.clips import ClipSource, TokenisedClips
from training.datasets.rendered import rendered_clips
from training.evaluation.trial import Trial
from training.finetuning import open_shards, report, run_command
from training.fitting import averaged_weights, steps_made
from training.image_encoder import TINY, ImageEncoder, build_clip
from training.model import VAB
from training.pretrain import pretrain
from training.recipes import Recipe, read_recipe
from training.representation import MODALITIES
from vab_rt.errors import DataError, OptionError

CHECKOUT = Path(__file__).parents[1]


def run(recipe: Recipe, folder: Path) -> None:
    """Everything on FoleyWorld, into `folder`.

    Raises OptionError for a model whose codec or image encoder is not trained here.
    """
    with ranks.first_alone():
        start = train_encoders(recipe, folder)
        clips = encoded(folder / "train.npz", start, "train", recipe.clips)
        validation = encoded(
            folder / "validation.npz", start, "validation", recipe.validation_clips
        )
    checkpoint = train_model(recipe, folder, read_checkpoint(start), clips, validation)
    if ranks.rank() == 0:
        finetune(recipe, folder, checkpoint, clips)
        export(checkpoint, folder / "bundle")
        evaluate_all(recipe, folder, checkpoint)


def run_on_shards(recipe: Recipe, folder: Path, start: Path, shards: str, held_out: str) -> None:
    """The transformer's stages, on clips that `training.extract` made with `start`."""
    begin = read_checkpoint(start)
    if begin.config != recipe.model:
        raise OptionError(
            f"{start} is of the model {begin.config.name}, expected {recipe.model.name} of the "
            "recipe with the same facts; start from a checkpoint of the same recipe"
        )
    clips = open_shards(shards, begin)
    validation = open_shards(held_out, begin).in_memory() if held_out else None
    checkpoint = train_model(recipe, folder, begin, clips, validation)
    if ranks.rank() == 0:
        finetune(recipe, folder, checkpoint, clips)
        if validation is not None:
            evaluate_finetuned(folder, checkpoint, validation)
        export(checkpoint, folder / "bundle")


def train_encoders(recipe: Recipe, folder: Path) -> Path:
    """Codec and image encoder, in a checkpoint whose transformer is untrained: its path."""
    if recipe.model.codec != "spectral" or recipe.model.image_encoder != TINY:
        raise OptionError(
            f"model {recipe.model.name} has the codec {recipe.model.codec} and the image encoder "
            f"{recipe.model.image_encoder}, expected spectral and {TINY}: recipes train these on "
            "FoleyWorld; the others come with weights of their own: put them in a checkpoint and "
            "begin with --start CKPT --shards DIR"
        )
    config, world = recipe.model, folder / "world"
    training = read_training(config.codec, recipe.codec_training)
    rendered = rendered_clips(world, "train", recipe.rendered_clips, config)
    minutes = recipe.codec_minutes
    report("codec", train_codec(folder, rendered, config, recipe.codec, minutes, 0, training))
    report("clip", train_clip(folder, rendered, config, recipe.clip_minutes, 0))
    start = folder / "start.pt"
    if is_older(start, folder / "codec.pt", folder / "clip.pt"):
        codec = build_codec(config, recipe.codec)
        codec.load_state_dict(averaged_weights(folder / "codec.pt"))
        clip = build_clip(config)
        clip.load_state_dict(averaged_weights(folder / "clip.pt"))
        torch.manual_seed(recipe.pretrain.seed)
        vab = VAB(config)
        vab.use_codebooks(codec.codebooks)
        modules = {"vab": vab, "codec": codec, "image_encoder": ImageEncoder(config, clip.visual)}
        write_checkpoint(start, header_of(recipe, folder), modules)
    return start


def header_of(recipe: Recipe, folder: Path) -> Header:
    steps = {f"{name}_steps": str(steps_made(folder / f"{name}.pt")) for name in ("codec", "clip")}
    world = f"FoleyWorld {foleyworld.VERSION}, {recipe.clips} training clips of 10 s, procedural"
    trained_by = {"data": world, "trained_by": "python -m training.recipe"}
    return Header(
        config=recipe.model,
        codec_settings=recipe.codec,
        licence=recipe.licence,
        provenance=trained_by | steps,
    )


def encoded(path: Path, start: Path, split: str, count: int) -> TokenisedClips:
    """Clips of a split by the encoders in `start`, kept in `path` until these change."""
    if not is_older(path, start):
        kept = TokenisedClips.load(path)
        if len(kept) == count:
            return kept
    seeds = foleyworld.clip_seeds(split, 0, count)
    evaluate.held_out_clips(start, seeds, os.cpu_count() or 1).save(path)
    return TokenisedClips.load(path)


def is_older(path: Path, *sources: Path) -> bool:
    """Whether `path` is missing or was made before one of the files it comes from."""
    return not path.exists() or path.stat().st_mtime < max(s.stat().st_mtime for s in sources)


def train_model(
    recipe: Recipe,
    folder: Path,
    start: Checkpoint,
    clips: ClipSource,
    validation: TokenisedClips | None,
) -> Path:
    """Pre-train the transformer of `start`; the path of the finished checkpoint."""
    settings, minutes = recipe.pretrain, recipe.pretrain_minutes
    report("pretrain", pretrain(folder, clips, validation, start.vab(), settings, minutes))
    path = folder / "ckpt.pt"
    if ranks.rank() == 0 and is_older(path, folder / "vab.pt", start.path):
        vab = VAB(start.config)
        vab.load_state_dict(averaged_weights(folder / "vab.pt"))
        modules = {"vab": vab, "codec": start.codec(), "image_encoder": start.image_encoder()}
        made = {
            "date": datetime.date.today().isoformat(),
            "pretraining_steps": str(steps_made(folder / "vab.pt")),
        }
        write_checkpoint(path, start.header.with_provenance(made), modules)
    ranks.wait()
    return path


def finetune(recipe: Recipe, folder: Path, checkpoint: Path, clips: ClipSource) -> None:
    vab, minutes = read_checkpoint(checkpoint).vab().to(ranks.device()), recipe.contrastive_minutes
    report("contrastive", finetune_contrastive(folder, vab, clips, recipe.contrastive, minutes))
    start_from(folder / "contrastive.pt", vab)  # helps sound alone most (the paper's table 11)
    for modality in MODALITIES:
        stage = finetune_classifier(
            folder, vab, clips, modality, recipe.classification, recipe.classification_minutes
        )
        report(f"classify {modality}", stage)


def evaluate_all(recipe: Recipe, folder: Path, checkpoint: Path) -> None:
    """On held-out clips of unseen seeds, into `folder`/evaluation-TASK.json."""
    seeds = foleyworld.clip_seeds("test", 0, recipe.evaluated_clips)
    workers = os.cpu_count() or 1
    judge = evaluate.trained_judge(folder / "judge.pt")
    trial = Trial(bundle=str(folder / "bundle"), judge=judge, films=folder / "films")
    keep(folder, "generation", evaluate.evaluate_generation(trial, seeds, workers))
    evaluate_finetuned(folder, checkpoint, evaluate.held_out_clips(checkpoint, seeds, workers))


def evaluate_finetuned(folder: Path, checkpoint: Path, clips: TokenisedClips) -> None:
    contrastive = folder / "contrastive.pt"
    keep(folder, "retrieval", evaluate.evaluate_retrieval(checkpoint, contrastive, clips))
    if clips.labels.shape[1]:
        keep(folder, "classification", evaluate.evaluate_classification(checkpoint, folder, clips))


def keep(folder: Path, task: str, result: dict) -> None:
    (folder / f"evaluation-{task}.json").write_text(json.dumps(result) + "\n")
    print(f"{task}: {json.dumps(result)}", flush=True)


def export(checkpoint: Path, bundle: Path) -> None:
    """The layer above this one, so it is run, not imported."""
    command = [sys.executable, "-m", "export.build_engines", str(checkpoint.resolve())]
    options = ["--out", str(bundle.resolve()), "--store", "fp16", "--force"]
    if subprocess.run([*command, *options], cwd=CHECKOUT, check=False).returncode:
        raise DataError(f"{checkpoint} was not exported, see above; expected {bundle}")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.recipe", description=__doc__)
    parser.add_argument("name", help="a recipe of training/configs, or a .toml file")
    parser.add_argument("--out", type=Path, help="the run's folder (default runs/NAME)")
    parser.add_argument("--minutes", type=float, help="pre-training minutes, all runs together")
    parser.add_argument(
        "--start", type=Path, help="a checkpoint whose codec and image encoder stay"
    )
    parser.add_argument("--shards", help="clips that training.extract made with START")
    parser.add_argument("--held-out", default="", help="shards to validate and evaluate on")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    recipe = read_recipe(arguments.name)
    if arguments.minutes is not None:
        recipe = recipe.with_minutes(arguments.minutes)
    if (arguments.start is None) != (arguments.shards is None):
        raise OptionError("--start and --shards go together: a checkpoint and clips made with it")
    folder = arguments.out or Path("runs") / Path(arguments.name).stem
    with ranks.joined():
        if arguments.shards is None:
            run(recipe, folder)
        else:
            run_on_shards(recipe, folder, arguments.start, arguments.shards, arguments.held_out)
    print(f"checkpoint: {folder / 'ckpt.pt'}\nbundle: {folder / 'bundle'}")


if __name__ == "__main__":
    main()

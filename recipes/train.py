"""The whole chain in one command: `python -m recipes.train default`.

world -> codec -> CLIP -> motion encoder, where the model has one -> tokens and features ->
pre-training -> ckpt.pt -> retrieval and classes -> bundle -> evaluation. Each stage leaves a file
in the run's folder; run the command again to go on where it stopped. With --start and --shards it
begins at the tokens of your own clips. A recipe with a `fine` model trains two transformers and
leaves retrieval and classes out. With --sounds and --pictures it learns the kinds of these folders,
see `recipes/real.py`; v2a-mapper is the other system, see `recipes/v2a_mapper.py`.
"""

import argparse
from pathlib import Path

import msgspec

from export.build_engines import leave_out_remarks
from recipes import real, v2a_mapper, vab
from recipes.real_data import Folders
from training import distributed
from training.command import run_command
from training.configs import read_recipe
from training.file_names import readable
from training.stage import described, differing, read_inputs, write_inputs
from training.v2a_mapper.config import is_v2a_recipe, read_v2a_recipe
from vab_rt.errors import OptionError
from vab_rt.output import UNFINISHED, writing

FREE = {
    *("pretrain_minutes", "fine_minutes", "contrastive_minutes", "classification_minutes"),
    *("distill_minutes", "denoiser_minutes", "evaluated_clips", "options"),
}
"""What may change between runs in one folder: no other network learns from what comes of it."""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.train", description=__doc__)
    parser.add_argument("name", help="a recipe of training/configs, or a .toml file")
    parser.add_argument("--out", type=Path, help="the run's folder (default runs/NAME)")
    parser.add_argument("--minutes", type=float, help="pre-training minutes, all runs together")
    parser.add_argument(
        "--start", type=Path, help="a checkpoint whose codec and visual encoders stay"
    )
    parser.add_argument(
        "--image-encoder", type=Path, help="a checkpoint whose visual encoders stay"
    )
    parser.add_argument("--shards", help="clips that training.extract made with START")
    parser.add_argument("--held-out", default="", help="shards to validate and evaluate on")
    parser.add_argument("--sounds", type=Path, help="your recordings, a folder a kind")
    parser.add_argument("--pictures", type=Path, help="pictures of the same kinds, and of others")
    parser.add_argument(
        "--kinds", type=Path, help="a CSV from ImageNet's classes to these kinds, if there is one"
    )
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    leave_out_remarks()
    if is_v2a_recipe(arguments.name):
        return _run_v2a(arguments)
    recipe = read_recipe(arguments.name)
    if arguments.minutes is not None:
        recipe = recipe.with_minutes(arguments.minutes)
    if arguments.shards is not None and (recipe.fine or arguments.image_encoder):
        what = "--image-encoder" if arguments.image_encoder else "a recipe of two transformers"
        raise OptionError(f"{what} is for FoleyWorld, expected none with --start and --shards")
    check_folders(arguments)
    if (arguments.start is None) != (arguments.shards is None):
        raise OptionError("--start and --shards go together: a checkpoint and clips made with it")
    folder = arguments.out or Path("runs") / Path(arguments.name).stem
    with distributed.init_distributed():
        with distributed.rank_zero_first():
            hold_recipe(
                folder,
                recipe,
                image_encoder=arguments.image_encoder,
                start=arguments.start,
                shards=arguments.shards,
                sounds=arguments.sounds,
                pictures=arguments.pictures,
            )
        if arguments.sounds is not None:
            table = arguments.kinds
            real.run(recipe, folder, Folders(arguments.sounds, arguments.pictures, table))
        elif arguments.shards is None:
            vab.run(recipe, folder, arguments.image_encoder)
        else:
            vab.run_on_shards(recipe, folder, arguments.start, arguments.shards, arguments.held_out)
    print(f"checkpoint: {folder / 'ckpt.pt'}")
    if recipe.model.given_codebooks:
        print(f"next: python -m export.build_engines COARSE.pt --fine {folder / 'ckpt.pt'}")
    else:
        print(f"bundle: {folder / 'bundle'}")


def check_folders(arguments: argparse.Namespace) -> None:
    """Raises OptionError for what does not go together."""
    given = arguments.sounds is not None, arguments.pictures is not None
    if given[0] != given[1] or (arguments.kinds is not None and not all(given)):
        raise OptionError(
            "--sounds and --pictures go together, and --kinds with both: folders of "
            "KIND/FILE, and a CSV with imagenet_index and kind"
        )
    if any(given) and (arguments.start or arguments.shards or arguments.image_encoder):
        raise OptionError(
            "--sounds makes all encoders itself, expected no --start, --shards and "
            "--image-encoder beside it; leave them out"
        )


def _run_v2a(arguments: argparse.Namespace) -> None:
    if arguments.start or arguments.shards or arguments.image_encoder or arguments.sounds:
        raise OptionError(
            f"--start, --shards, --image-encoder and --sounds are of VAB, expected none with "
            f"{arguments.name}; its recipe names the run whose image encoder it takes, under ready"
        )
    recipe = read_v2a_recipe(arguments.name)
    if arguments.minutes is not None:
        recipe = recipe.with_minutes(arguments.minutes)
    folder = arguments.out or Path("runs") / Path(arguments.name).stem
    hold_recipe(folder, recipe)
    v2a_mapper.run(recipe, folder)
    print(f"checkpoint: {folder / 'ckpt.pt'}\nbundle: {folder / 'bundle'}")


def hold_recipe(folder: Path, recipe: msgspec.Struct, **given: Path | str | None) -> None:
    """Leaves the recipe, and what else was `given`, in `folder`, whose later runs must have the
    same but for what is FREE. Raises OptionError naming what differs."""
    path = folder / "recipe.json"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(UNFINISHED):  # of a process that was killed
            leftover.unlink()
    words = {name: None if value is None else readable(value) for name, value in given.items()}
    inputs = msgspec.to_builtins(recipe) | words
    inputs = {name: value for name, value in inputs.items() if name not in FREE}
    if list(folder.iterdir()) == [path]:
        path.unlink()  # nothing was made yet
    before = read_inputs(path)
    if different := differing(before, inputs):
        name, now = different[0], described(inputs)
        had = f"with {name} {before[name]!r}" if name in before else f"without {name}"
        raise OptionError(
            f"{folder} was begun {had}, expected that and not {now.get(name, 'without')!r} "
            f"({len(different)} differ in all); choose another --out, or delete {path} to keep "
            "what was made"
        )
    write_inputs(path, inputs)


if __name__ == "__main__":
    main()

"""`python -m training.foleyworld render|sheet`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from training.file_names import print_any_name
from training.foleyworld.contact_sheets import write_sheet
from training.foleyworld.rendering import write_clip
from training.foleyworld.scenes import CLASSES, SPLITS, Scene, clip_seeds, make_scene
from vab_rt.errors import VabError
from vab_rt.output import writing


def main(arguments: list[str] | None = None) -> None:
    """Exit codes 0, 1 (an error, one line), 2 (usage), 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    print_any_name()
    try:
        if options.command == "render":
            for path in rendered(options):
                print(path)
        else:
            write_sheet(options.out, _scenes(options))
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def rendered(options: argparse.Namespace) -> Iterator[Path]:
    """Write the clips; yields the path of each."""
    scenes = _scenes(options)
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        path = options.out / f"{'-'.join(scene.classes)}-{scene.seed:09d}.mp4"
        write_clip(path, scene, options.width, options.height, options.fps, options.silent)
        yield path


def _scenes(options: argparse.Namespace) -> list[Scene]:
    seeds = clip_seeds(options.split, options.seed, options.clips)
    kinds = CLASSES if options.kind == "each" else (options.kind,)
    return [
        make_scene(seed, kinds[i % len(kinds)], options.sources) for i, seed in enumerate(seeds)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.foleyworld", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("render", "write mp4 clips with truth"), ("sheet", "contact sheet")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--clips", type=int, default=8)
        command.add_argument("--seed", type=int, default=0, help="first clip within the split")
        command.add_argument("--split", choices=list(SPLITS), default="test")
        command.add_argument(
            "--kind", choices=[*CLASSES, "each"], help="one class, or each in turn"
        )
        command.add_argument(
            "--sources", type=int, choices=[1, 2], help="in each clip; drawn by the seed if absent"
        )
    command = commands.choices["render"]
    command.add_argument("--width", type=int, default=480)
    command.add_argument("--height", type=int, default=270)
    command.add_argument("--fps", type=int, default=25)
    command.add_argument("--silent", action="store_true", help="no audio track")
    return parser


if __name__ == "__main__":
    main()

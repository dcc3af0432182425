"""`python -m training.foleyworld render|sheet`."""

import argparse
from pathlib import Path

from training.foleyworld.rendering import write_clip, write_sheet
from training.foleyworld.scenes import CLASSES, SPLITS, Scene, clip_seeds, make_scene


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.command == "render":
        render(options)
    else:
        write_sheet(options.out, _scenes(options))


def render(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    for scene in _scenes(options):
        path = options.out / f"{scene.sources[0].kind}-{scene.seed:09d}.mp4"
        write_clip(path, scene, options.width, options.height, options.fps, options.silent)
        print(path)


def _scenes(options: argparse.Namespace) -> list[Scene]:
    seeds = clip_seeds(options.split, options.seed, options.clips)
    if options.kind == "each":
        return [make_scene(s, CLASSES[i % len(CLASSES)]) for i, s in enumerate(seeds)]
    return [make_scene(seed, options.kind) for seed in seeds]


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
    command = commands.choices["render"]
    command.add_argument("--width", type=int, default=480)
    command.add_argument("--height", type=int, default=270)
    command.add_argument("--fps", type=int, default=25)
    command.add_argument("--silent", action="store_true", help="no audio track")
    return parser


if __name__ == "__main__":
    main()

"""vab-rt search: which sound files of one's own fit a video."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vab_rt.cli.console import print_line, readable, tell_progress, with_count
from vab_rt.cli.groups import Load, with_groups
from vab_rt.cli.options import JsonLine, Quiet, VideoIn
from vab_rt.errors import OptionError
from vab_rt.options import check_top
from vab_rt.signals import end_if_told

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.pipeline import Pipeline
    from vab_rt.sound_index import SoundIndex


@with_groups
def search(
    video: VideoIn,
    sounds: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|INDEX",
            help="Sound files of your own, in folders as you like; or the index of such a folder.",
            readable=False,  # ours to check, with an error that says more
        ),
    ],
    top: Annotated[int, typer.Option(metavar="N", help="How many files are told, at most.")] = 10,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the folder's index is kept.",
            show_default="the user's cache folder",
        ),
    ] = None,
    as_json: JsonLine = False,
    quiet: Quiet = False,
    *,
    load: Load,
) -> None:
    """Find those of your own sound files that fit a video. The index of a folder is made once, and
    brought up to date by what changed."""
    begin = time.perf_counter()
    quiet = quiet or as_json
    tell_progress(quiet=quiet)
    from vab_rt.video import Video

    if index is not None and sounds.is_file():
        raise OptionError(
            f"{sounds} and --index {index} are two indexes, expected one; leave --index out, or "
            "name a folder"
        )
    check_top(top)
    pipeline = load()
    loaded = time.perf_counter()
    made = _index(pipeline, sounds, index, quiet=quiet)
    indexed = time.perf_counter()
    found = pipeline.search(Video(video), made, top)
    end = time.perf_counter()
    if as_json:
        report: dict[str, Any] = {
            "model": pipeline.config.name,
            "device": pipeline.device,
            "precision": pipeline.precision,
            "folder": readable(made.folder),
            "num_files": int(made.is_usable.sum()),
            "left_out": [readable(name) for name in made.unusable],
            "found": [
                {"file": readable(one.path), "score": one.score, "start_s": one.start_s}
                for one in found
            ],
            "timings_s": {
                "load": loaded - begin,
                "index": indexed - loaded,
                "search": end - indexed,
                "total": end - begin,
            },
        }
        print_line(json.dumps(report))
        return
    for one in found:
        print_line(f"{one.score:6.2f}  from {one.start_s:6.2f} s  {one.path}")


def _index(pipeline: "Pipeline", sounds: Path, file: Path | None, *, quiet: bool) -> "SoundIndex":
    made = None
    for step in with_count(pipeline.index_sounds(sounds, file), "indexing", quiet=quiet):
        end_if_told()
        made = step.index
    assert made is not None, "with the last"
    return made

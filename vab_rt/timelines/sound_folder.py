"""Where the sounds of a timeline lie, and how long each is."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from vab_rt.errors import OutputError
from vab_rt.output import check_output
from vab_rt.steps import Step
from vab_rt.timelines.timeline import Timeline


@contextmanager
def sound_folder(
    timeline: Timeline, source: Path, out: Path, *, force: bool
) -> Iterator[tuple[Path, Path]]:
    """The folder of the sounds, and one that goes at the end. What is new in the former goes too
    where the timeline does not come about. Raises OutputError."""
    check_output(out, force=force, source=source)
    with tempfile.TemporaryDirectory(prefix="vab-rt-") as name, ExitStack() as undo:
        scratch = Path(name)
        folder = scratch if timeline.holds_sounds else out.with_name(f"{out.stem}.sound")
        if folder is not scratch:
            _make_folder(folder, force=force)
            undo.callback(_remove_new, folder, set(folder.iterdir()))
        yield folder, scratch
        undo.pop_all()


def _make_folder(folder: Path, *, force: bool) -> None:
    try:
        folder.mkdir(exist_ok=True)
        is_full = any(folder.iterdir())
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error.strerror}), expected a folder for the sounds; choose "
            "another name or place for OUT"
        ) from error
    if is_full and not force:
        raise OutputError(
            f"{folder} holds files already, expected a new folder for the sounds; choose another "
            "OUT, or replace those of the same name with --force"
        )


def _remove_new(folder: Path, before: set[Path]) -> None:
    for path in set(folder.iterdir()) - before:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: what was there stays
        folder.rmdir()


def as_long(steps: Iterator[Step], num_samples: int) -> Iterator[Step]:
    """Their sound, cut or filled with silence to so many samples: a clip may end a frame after its
    media."""
    held: Step | None = None
    for step in steps:
        if held is not None:
            yield held
        audio = None if step.audio is None else step.audio[:num_samples]
        num_samples -= 0 if audio is None else len(audio)
        held = replace(step, audio=audio)
    assert held is not None and held.audio is not None, "its last step has sound"
    yield replace(held, audio=np.pad(held.audio, (0, num_samples)))

"""What a sound will be like, after the first of its steps: of the right kind, at the right moments.

Its tokens are those that the first step of the finished sound draws from the same seed: what that
step is sure of stays, and the steps after it draw the rest again.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import tee
from typing import Any

from vab_rt.errors import OptionError
from vab_rt.options import GenerateOptions
from vab_rt.steps import Step, of_one_window
from vab_rt.systems import System
from vab_rt.systems.vab import CoarseToFine, Vab
from vab_rt.windows import Window


def require_preview(system: System[Any]) -> Vab:
    """Raises OptionError for a model without tokens."""
    if not isinstance(system, Vab):
        raise OptionError(
            f"model {system.config.name} has no preview, as each of its steps changes the whole "
            "sound, expected one that decodes tokens; choose another model, or fewer --steps"
        )
    return system


def one_step(system: Vab, options: GenerateOptions) -> GenerateOptions:
    """The same options for a preview."""
    fine_steps = 1 if isinstance(system, CoarseToFine) else options.fine_steps
    return options.but(steps=1, fine_steps=fine_steps)


def previewed_steps(
    windows: Iterator[Window],
    decode: Callable[[Iterator[Window], GenerateOptions], Iterator[Step]],
    quick: GenerateOptions,
    options: GenerateOptions,
    num_steps: int,
) -> Iterator[Step]:
    """The steps of a sound, and before those of each window one with its `preview`.

    decode: windows, with options, to steps. num_steps: of a window, with `options`.
    """
    first, rest = tee(windows)
    finished = decode(rest, options)
    for step in decode(first, quick):
        if step.audio is None:
            continue
        yield replace(step, step=0, num_steps=num_steps, audio=None, take=None, preview=step.audio)
        yield from of_one_window(finished)

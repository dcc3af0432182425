"""A job's files, made in the process that has the pipeline."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.error

from vab_rt.audio import Audio
from vab_rt.audio_file import AudioWriter, plan_output
from vab_rt.candidates import Ranked, ranked_steps, seed_of
from vab_rt.delivery import Delivery
from vab_rt.errors import MediaError, MediaWarning, VabError
from vab_rt.mixing import require_sound
from vab_rt.pipeline import Pipeline
from vab_rt.serve.queries import Made, Order, SoundFile
from vab_rt.serve.talk import Talk
from vab_rt.steps import Step, Summary
from vab_rt.video import Video

_LISTS = {"hls", "dash", "concat", "imf", "sdp", "webm_dash_manifest"}


def make(pipeline: Pipeline, talk: Talk, order: Order) -> Made:
    """talk: told the percent that is done. Raises Cancelled, VabError."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MediaWarning)
        made = _make(pipeline, talk, order)
    said = [one.message for one in told if isinstance(one.message, MediaWarning)]
    made.warnings.extend(order.without_paths(str(message)) for message in said)
    return made


def _make(pipeline: Pipeline, talk: Talk, order: Order) -> Made:
    refuse_lists(order.video)
    video = Video(order.video, order.start_s, order.duration_s)
    for number in range(1, order.num_candidates + 1):
        plan_output(order.output(number), video=video)
    rate_hz, seed, summary = pipeline.config.sample_rate_hz, order.options.seed, Summary()
    if order.edit is not None:
        old = Audio.load(order.edit.sound)
        rate_hz, (_, _, start_s, end_s, _) = old.sample_rate_hz, order.edit
        steps = pipeline.regenerate_steps(video, old, start_s, end_s, order.options)
    elif order.num_candidates == 1:
        steps = pipeline.generate_steps(video, order.options)
    else:
        steps = pipeline.candidate_steps(video, order.options, num_candidates=order.num_candidates)
    told = summary.watch(_told(steps, order, talk))
    sounds, num_samples = [], 0
    for number, (candidate, score, parts) in enumerate(_candidates(told, order), 1):
        path = order.output(number)
        num_samples = _write(path, video, parts, rate_hz)
        sounds.append(SoundFile(path, seed_of(seed, candidate), score))
    duration_s = num_samples / rate_hz
    return Made(
        sounds, _has_sound(video), duration_s, rate_hz, summary.shares(), [], summary.timings_s
    )


def _has_sound(video: Video) -> bool:
    try:
        return require_sound(video) > 0
    except VabError:
        return False


def _candidates(
    steps: Iterator[Step], order: Order
) -> Iterable[tuple[int, float | None, Iterable[Step]]]:
    """Candidate, score and steps of each, best first; one alone is written as it is made."""
    if order.num_candidates == 1:
        return [(0, None, steps)]
    ranked: list[Ranked] = ranked_steps(steps)
    return [(one.candidate, one.score, one.steps) for one in ranked]


def _write(path: Path, video: Video, steps: Iterable[Step], rate_hz: int) -> int:
    """The file and its take beside it, as `vab-rt generate` writes them; its length in samples."""
    take = None
    with AudioWriter(plan_output(path, video=video), rate_hz) as file:
        for step in steps:
            take = step.take
            if step.audio is not None:
                file.write(step.audio)
    if take is not None:
        file.keep(take)
    return file.num_samples


def deliver(order: Order, sound: Path, out: Path, delivery: Delivery) -> None:
    """A finished sound in another file, as it is wanted. Raises VabError."""
    video = Video(order.video, order.start_s, order.duration_s)
    with without_paths(order):
        Audio.load(sound).save(out, video=video, force=True, take=False, delivery=delivery)


@contextmanager
def without_paths(order: Order) -> Iterator[None]:
    """Errors that a client causes, as they are told to it."""
    try:
        yield
    except VabError as error:
        raise type(error)(order.without_paths(str(error))) from error.__cause__


def _told(steps: Iterator[Step], order: Order, talk: Talk) -> Iterator[Step]:
    told = 0
    for step in steps:
        talk.require_wanted()
        yield step
        done, total = step.position(order.num_candidates)
        percent = 0 if total is None else min(99, 100 * done // total)
        if percent > told:
            told = percent
            talk.tell(told)


def refuse_lists(video: Path) -> None:
    """Raises MediaError for what names other files, which would be this machine's."""
    try:
        with av.open(f"file:{video}", container_options={"pattern_type": "none"}) as container:
            name = container.format.name
    except (av.error.FFmpegError, OSError, ValueError):
        return  # what is wrong with it is told by whoever reads it
    if _LISTS & set(name.split(",")):
        raise MediaError(
            f"{video} is a list of other files ({name}), expected the video itself; send that"
        )

"""The sounds that the rows of an ablation make, as the classifier hears them."""

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.command import shown
from training.evaluation.generation import generate, open_listener
from training.evaluation.heard import Heard
from training.evaluation.held_out import one_thread_in_a_worker
from training.evaluation.trial import Trial, open_model
from training.processes import in_parallel


class SoundJob(NamedTuple):
    """The sound for features [F, visual_dim] by the trial's model; without them the true one."""

    number: int
    seed: int
    trial: Trial
    features: NDArray[np.float32] | None = None


def hear(job: SoundJob) -> tuple[int, Heard]:
    one_thread_in_a_worker()
    listener, options = open_listener(job.trial), job.trial.options
    if job.features is None:
        return job.number, listener(foleyworld.make_scene(job.seed).audio())
    options = msgspec.structs.replace(options, seed=options.seed + job.number)
    pipeline = open_model(job.trial).pipeline
    return job.number, listener(generate(pipeline, job.features[None], options))


def hear_all(jobs: list[SoundJob], workers: int) -> list[Heard]:
    """In the order of the jobs."""
    heard = dict(shown("clips heard", in_parallel(hear, jobs, workers), len(jobs)))
    return [heard[number] for number in range(len(jobs))]

"""Jobs over processes: all results arrive, errors are those of the job, a dead process is named."""

import multiprocessing
import os
import time

import pytest
import torch
from command import is_running, wait_for

from training.processes import in_order, in_parallel
from vab_rt.errors import BackendError, MediaError


def square(number):
    return number * number, multiprocessing.parent_process() is not None


def fail_on_three(number):
    if number == 3:
        raise MediaError("three.mp4 cannot be read")
    return number


def die(number):
    os._exit(number)


def sleepless_parent(path):
    """Leaves a worker at work and dies as a killed process does."""
    jobs = in_parallel(write_and_wait, [path] * 2, workers=2)
    next(jobs)


def write_and_wait(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(600)


def test_one_worker_is_this_process():
    assert list(in_parallel(square, range(4), 1)) == [
        (0, False),
        (1, False),
        (4, False),
        (9, False),
    ]


def num_threads(_):
    return torch.get_num_threads()


def test_a_worker_has_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert list(in_parallel(num_threads, range(2), 2)) == [1, 1]


def test_several_workers_do_every_job_elsewhere():
    results = list(in_parallel(square, iter(range(7)), 2))
    assert sorted(results) == [(n * n, True) for n in range(7)]


def slow_zero(number):
    time.sleep(0.5 if number == 0 else 0)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_in_the_order_of_their_jobs(workers):
    assert list(in_order(slow_zero, range(5), workers)) == list(range(5))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_job_is_raised(workers):
    with pytest.raises(MediaError, match=r"three\.mp4 cannot be read"):
        list(in_parallel(fail_on_three, range(9), workers))


def test_a_process_that_dies_is_an_error_that_says_what_to_do():
    with pytest.raises(BackendError, match="one of 2 processes died.*run the same command again"):
        list(in_parallel(die, [1, 1, 1], 2))


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path):
    path = tmp_path / "pids"
    path.touch()
    parent = multiprocessing.get_context("spawn").Process(target=sleepless_parent, args=(path,))
    parent.start()
    assert wait_for(lambda: path.read_text().count("\n") == 2)
    parent.kill()
    parent.join()
    pids = [int(pid) for pid in path.read_text().split()]
    assert wait_for(lambda: not any(map(is_running, pids)))

"""What a server did, as Prometheus reads it."""

from collections.abc import Iterator

from vab_rt.serve.job import OVER
from vab_rt.serve.jobs import Jobs

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(jobs: Jobs) -> str:
    return "".join(f"{line}\n" for line in _lines(jobs))


def _lines(jobs: Jobs) -> Iterator[str]:
    yield from _about("sounds_total", "counter", "Sounds that are over, by how they ended.")
    for status in OVER:
        yield f'vab_rt_sounds_total{{status="{status}"}} {jobs.ended[status]}'
    rows = (
        ("refused_total", "counter", "Requests for a sound without a place.", jobs.num_refused),
        ("waiting", "gauge", "Sounds that wait.", len(jobs.waiting)),
        ("waiting_most", "gauge", "Sounds that may wait.", jobs.max_waiting),
        ("in_progress", "gauge", "Sounds in progress.", int(jobs.running is not None)),
        ("kept", "gauge", "Sounds that are known, over or not.", len(jobs.known)),
        ("worker_up", "gauge", "Whether there is a worker.", int(not jobs.num_failed_starts)),
        (
            "worker_restarts_total",
            "counter",
            "Workers in place of one that died.",
            jobs.num_restarts,
        ),
        ("busy_seconds_total", "counter", "Seconds that sounds took.", round(jobs.busy_s, 3)),
        ("sound_seconds_total", "counter", "Seconds of sound made.", round(jobs.made_s, 3)),
    )
    for name, kind, text, value in rows:
        yield from _about(name, kind, text)
        yield f"vab_rt_{name} {value}"


def _about(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP vab_rt_{name} {text}"
    yield f"# TYPE vab_rt_{name} {kind}"

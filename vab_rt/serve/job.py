"""A job: a sound that was asked for, and what is told of it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from vab_rt.serve.queries import Made, Order, SoundFile

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
OVER: tuple[Status, ...] = ("completed", "failed", "cancelled")


class Refused(Exception):
    """A request that is answered with an HTTP status and a line of text."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def ending() -> Refused:
    return Refused(
        503,
        "the server is ending; ask again when it is back",
        retry_after="30",
        connection="close",
    )


@dataclass(eq=False)
class Job:
    """A sound that was asked for, and what became of it."""

    id: str
    order: Order
    status: Status = "queued"
    progress: int = 0
    """percent"""
    error: str | None = None
    made: Made | None = None
    created_at: float = field(default_factory=time.time)
    """seconds since 1970, as the other times that are told"""
    finished_at: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    expiry: asyncio.TimerHandle | None = None
    """when it is forgotten, once it is over"""
    stop: threading.Event = field(default_factory=threading.Event)
    """set when nobody wants it any more"""

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    def tell(self) -> None:
        """Wakes all that watch it."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def reports(self) -> AsyncIterator[dict[str, Any]]:
        """What is to be told of it: now, and after each change until it is over."""
        while True:
            changed, report = self.changed, self.report()
            yield report  # the job may go on, and end, before the next line
            if report["status"] in OVER:
                return
            await changed.wait()

    def sound(self, number: int) -> SoundFile:
        """A finished file, counted from 1. Raises Refused where there is none."""
        if self.made is None:
            raise Refused(
                409, f"the sound is {self.status}, expected it completed; ask again later"
            )
        if not 1 <= number <= len(self.made.sounds):
            count = len(self.made.sounds)
            raise Refused(404, f"candidate is {number}, expected one of 1 to {count}")
        return self.made.sounds[number - 1]

    def report(self) -> dict[str, Any]:
        order, made = self.order, self.made
        told: dict[str, Any] = {
            "id": self.id,
            "object": "sound",
            "status": self.status,
            "progress": self.progress,
            "error": self.error,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "seed": order.options.seed,
            "format": order.format,
            "num_candidates": order.num_candidates,
            "regenerated": None if order.edit is None else order.edit.report(),
            "duration_s": made and made.duration_s,
            "sample_rate_hz": made and made.sample_rate_hz,
            "video_has_sound": made and made.video_has_sound,
            "kinds": made.kinds if made else {},
            "warnings": made.warnings if made else [],
            "timings_s": made.timings_s if made else {},
            "candidates": [],
        }
        for number, sound in enumerate(made.sounds if made else (), 1):
            content = f"/v1/sounds/{self.id}/content?candidate={number}"
            one = {
                "candidate": number,
                "seed": sound.seed,
                "score": sound.score,
                "content": content,
            }
            told["candidates"].append(one)
        return told

"""The routes."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import vab_rt
from vab_rt.errors import VabError
from vab_rt.options import check_kinds
from vab_rt.seconds import check_part_of_sound
from vab_rt.serve.files import borrowed, place_for, shown
from vab_rt.serve.guard import Guard
from vab_rt.serve.job import Job, Refused
from vab_rt.serve.jobs import Jobs
from vab_rt.serve.metrics import MEDIA_TYPE, metrics_text
from vab_rt.serve.openapi import document
from vab_rt.serve.pages import PATHS, page_routes
from vab_rt.serve.queries import (
    ContentQuery,
    EditOrder,
    NoQuery,
    Order,
    PreviewQuery,
    RegenerateQuery,
    SoundQuery,
    options_of,
    parse,
)
from vab_rt.serve.talk import Bug, Cancelled
from vab_rt.serve.uploads import declared_bytes, file_below, save_body, too_large
from vab_rt.serve.worker import Worker

HEARTBEAT_S = 15.0
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None) or errno.ENOSPC)
_GONE = "there is no such sound, or no longer; ask for it again"


@dataclass(frozen=True)
class Limits:
    """What a server takes, and from whom."""

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    token: str | None = None
    root: Path | None = None
    max_bytes: int = 2_000_000_000


class Routes:
    """What they have in common: the jobs of one server, and processes for what is seen of them."""

    def __init__(self, jobs: Jobs, viewers: Sequence[Worker], limits: Limits) -> None:
        self.jobs, self.limits = jobs, limits
        self.viewers, self.viewing = [*viewers], asyncio.Semaphore(len(viewers))
        self.previewing = asyncio.Lock()  # one at a time: each is as much work as a sound

    async def create(self, request: Request) -> Response:
        query = parse(request.query_params, SoundQuery)
        check_kinds(query.kinds, self.jobs.model.config)
        num_bytes = declared_bytes(request, self.limits.max_bytes)
        if query.path is not None:
            return self._create_of_path(query, query.path, num_bytes)
        try:
            with self.jobs.new_folder() as folder:
                order = _order(query, folder, folder / "video")
                if num_bytes is None:  # how large it is comes before whether there is a place
                    await save_body(request, order.video, self.limits.max_bytes)
                with self.jobs.place():
                    if num_bytes is not None:
                        await save_body(request, order.video, self.limits.max_bytes)
                    return _accepted(self.jobs.add(order))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    def _create_of_path(self, query: SoundQuery, path: str, num_bytes: int | None) -> Response:
        if num_bytes:
            raise Refused(400, "there are a path and a body, expected one of them")
        video = file_below(self.limits.root, path)
        if video.stat().st_size > self.limits.max_bytes:
            raise too_large(self.limits.max_bytes)
        with self.jobs.place(), self.jobs.new_folder() as folder:
            return _accepted(self.jobs.add(_order(query, folder, video, path)))

    async def show(self, request: Request) -> Response:
        return JSONResponse(self._job(request).report())

    async def events(self, request: Request) -> Response:
        job = self._job(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(job), media_type="text/event-stream", headers=headers)

    async def content(self, request: Request) -> Response:
        job, query, path = await self._file(request)
        return shown(path, f"{job.id}.{query.candidate}{path.suffix}")

    async def spectrogram(self, request: Request) -> Response:
        job, _, path = await self._file(request)
        return JSONResponse(await self._viewed(job, "spectrogram", path))

    async def _file(self, request: Request) -> tuple[Job, ContentQuery, Path]:
        """What a request wants of a finished sound."""
        job, query = self._job(request), parse(request.query_params, ContentQuery)
        sound, delivery = job.sound(query.candidate).path, query.delivery()
        path = place_for(job.order, sound, query.format or job.order.format, delivery)
        if not path.exists():
            await self._viewed(job, "deliver", job.order, sound, path, delivery)
        return job, query, path

    async def preview(self, request: Request) -> Response:
        job, query = self._job(request), parse(request.query_params, PreviewQuery)
        path = job.order.folder / f"preview.{query.format}"
        async with self.previewing:
            if not path.exists():
                await self._viewed(job, "preview", job.order, path)
        return shown(path, f"{job.id}.{path.name}")

    async def delete(self, request: Request) -> Response:
        job = self._job(request)
        self.jobs.cancel(job)
        return JSONResponse(job.report(), 200 if job.is_over else 202)

    async def regenerate(self, request: Request) -> Response:
        old = self._job(request)
        defaults = msgspec.structs.asdict(old.order.options)
        del defaults["library"], defaults["library_strength"]
        defaults["seed"] = (defaults["seed"] + 1) % 2**64
        query = parse(request.query_params, RegenerateQuery, **defaults)
        check_kinds(query.kinds, self.jobs.model.config)
        whole, made = old.sound(query.candidate), old.made
        assert made is not None, "with a sound"
        token_s = 1 / self.jobs.model.config.hop_rate_hz
        part_s = check_part_of_sound(query.start_s, query.end_s, made.duration_s, token_s)
        with self.jobs.place(), self.jobs.new_folder() as folder:
            try:
                video, sound = await run_in_threadpool(borrowed, old.order, whole.path, folder)
            except OSError as error:
                raise Refused(404, f"the sound {old.id} is gone") from error
            edit = EditOrder(old.id, query.candidate, *part_s, sound)
            order = replace(
                old.order,
                folder=folder,
                video=video,
                options=options_of(query),
                num_candidates=1,
                edit=edit,
            )
            return _accepted(self.jobs.add(order))

    async def models(self, request: Request) -> Response:
        c, device, precision = self.jobs.model
        model = {
            "id": c.name,
            "object": "model",
            "device": device,
            "precision": precision,
            "sample_rate_hz": c.sample_rate_hz,
            "clip_s": c.clip_s,
            "kinds": list(c.kind_names),
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, request: Request) -> Response:
        jobs = self.jobs
        status = "ending" if jobs.is_ending else "without a worker" if jobs.is_stuck else "ok"
        told = {
            "status": status,
            "version": vab_rt.__version__,
            "waiting": len(jobs.waiting),
            "worker_restarts": jobs.num_restarts,
        }
        return JSONResponse(told, 200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(metrics_text(self.jobs), media_type=MEDIA_TYPE)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document())

    async def _viewed(self, job: Job, work: str, *args: Any) -> Any:
        """By a process of its own; Refused when the sound goes meanwhile."""
        async with self.viewing:
            viewer = self.viewers.pop()
            try:
                return await viewer.do(work, *args, stop=job.stop)
            except (VabError, Cancelled, Bug) as error:
                if job.stop.is_set():
                    raise Refused(404, _GONE) from error
                raise
            finally:
                self.viewers.append(viewer)

    def _job(self, request: Request) -> Job:
        job = self.jobs.known.get(request.path_params["id"])
        if job is None:
            raise Refused(404, _GONE)
        self.jobs.keep(job)
        return job


def open_app(jobs: Jobs, viewers: Sequence[Worker], limits: Limits) -> Starlette:
    """The server's application: its jobs are worked through as long as its lifespan is. viewers:
    without a model; so many things are shown at once."""
    routes = Routes(jobs, viewers, limits)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        work = asyncio.create_task(jobs.work())
        try:
            yield
        finally:
            await jobs.drain(0)
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work

    guard = Middleware(
        Guard,
        host=limits.host,
        names=limits.names,
        token=limits.token,
        open_paths=("/health", *PATHS),
    )
    return Starlette(
        routes=[
            *page_routes(),
            Route("/v1/sounds", routes.create, methods=["POST"]),
            _without_options("/v1/sounds/{id}", routes.show),
            _without_options("/v1/sounds/{id}", routes.delete, "DELETE"),
            _without_options("/v1/sounds/{id}/events", routes.events),
            Route("/v1/sounds/{id}/content", routes.content),
            Route("/v1/sounds/{id}/spectrogram", routes.spectrogram),
            Route("/v1/sounds/{id}/preview", routes.preview),
            Route("/v1/sounds/{id}/regenerate", routes.regenerate, methods=["POST"]),
            _without_options("/v1/models", routes.models),
            _without_options("/health", routes.health),
            _without_options("/metrics", routes.metrics),
            _without_options("/openapi.json", routes.openapi),
        ],
        middleware=[guard],
        exception_handlers={Refused: _refused, VabError: _wrong, HTTPException: _no_route},
        lifespan=lifespan,
    )


def _without_options(
    path: str, answer: Callable[[Request], Awaitable[Response]], method: str = "GET"
) -> Route:
    async def answer_plain(request: Request) -> Response:
        parse(request.query_params, NoQuery)
        return await answer(request)

    return Route(path, answer_plain, methods=[method])


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, more, expected = request.url.path, {}, "one of those in /openapi.json"
    if error.status_code == 405:  # of all routes of this path, where starlette tells the first's
        routes = [route for route in request.app.routes if route.matches(request.scope)[0].value]
        more["Allow"] = ", ".join(sorted({method for route in routes for method in route.methods}))
        expected = f"{more['Allow']} for {path}"
    message = f"{request.method} {path} is no request of this server, expected {expected}"
    return JSONResponse({"error": message}, error.status_code, more)


async def _wrong(request: Request, error: Exception) -> Response:
    is_full = getattr(error.__cause__, "errno", None) in _FULL
    return JSONResponse({"error": str(error)}, 507 if is_full else 400)


def _accepted(job: Job) -> Response:
    return JSONResponse(job.report(), 202, {"Location": f"/v1/sounds/{job.id}"})


def _order(query: SoundQuery, folder: Path, video: Path, shown: str = "the video") -> Order:
    return Order(
        folder=folder,
        video=video,
        options=options_of(query),
        start_s=query.start_s,
        duration_s=query.duration_s,
        num_candidates=query.num_candidates,
        format=query.format,
        shown=shown,
    )


async def _events(job: Job) -> AsyncIterator[str]:
    """Server-sent events: the job's report, now and whenever it has changed."""
    reports = job.reports()
    waiting: asyncio.Future[dict[str, Any]] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(reports))
            done, _ = await asyncio.wait([waiting], timeout=HEARTBEAT_S)
            if not done:
                yield ": still here\n\n"
                continue
            try:
                report = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield f"event: {report['status']}\ndata: {json.dumps(report)}\n\n"
    finally:
        if waiting is not None:
            waiting.cancel()

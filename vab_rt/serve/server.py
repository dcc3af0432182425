"""A server that runs: worker, folder, socket, and an end in order."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from vab_rt.errors import OptionError, reason_of
from vab_rt.serve.app import Limits, open_app
from vab_rt.serve.guard import is_loopback, refusal
from vab_rt.serve.jobs import Jobs
from vab_rt.serve.scratch import scratch_folder
from vab_rt.serve.talk import Model
from vab_rt.serve.worker import Worker

_MOST_CONNECTIONS = 1000
_CLOSING_S = 3
HEAD_S = 10.0
"""How long a request may take to say what it wants; at most twice that on a used connection."""
_NUM_VIEWERS = 4
"""Processes at most that show videos and sounds; previews occupy one of them at a time."""


def serve(
    load: Mapping[str, Any],
    limits: Limits,
    *,
    port: int,
    max_waiting: int,
    keep_s: float,
    drain_s: float,
    job_timeout_s: float,
    tell: Callable[[str, Model], None],
) -> None:
    """Until a signal ends it. load: what `vab_rt.load` takes, by name. job_timeout_s: how long a
    worker may give no sign of life. tell: the address, and the model that was loaded.

    Raises OptionError for an address that cannot be had, and one that others reach without a token;
    what loading raises.
    """
    if limits.token is None and not is_loopback(limits.host):
        raise OptionError(
            f"host is {limits.host}, which other machines reach, expected a token with it; set "
            "VAB_RT_TOKEN, or leave --host out"
        )
    with (
        _listening(limits.host, port) as sock,
        scratch_folder() as folder,
        Worker(load, patience_s=job_timeout_s) as worker,
        ExitStack() as stack,
    ):
        worker.start()
        viewers = [
            stack.enter_context(Worker(patience_s=job_timeout_s)) for _ in range(_NUM_VIEWERS)
        ]
        jobs = Jobs(worker, folder, max_waiting=max_waiting, keep_s=keep_s)
        server = _Server(jobs, open_app(jobs, viewers, limits), drain_s)
        tell(_address(limits.host, sock), jobs.model)
        server.run([sock])


class Connection(H11Protocol):
    """One that does not ask for anything keeps no place of those that do; one too many, and what is
    no HTTP, are answered as all that is refused."""

    _asked: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEAD_S, self._look)
        if len(self.connections) > _MOST_CONNECTIONS:
            message = f"{_MOST_CONNECTIONS} connections are open; ask again later"
            self.app = refusal(503, message, {"Retry-After": "1"})

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else it is answered already
            answer = refusal(400, "this is no request of HTTP/1.1, expected one")
            head = h11.Response(status_code=400, headers=answer.raw_headers, reason="Bad Request")
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _look(self) -> None:
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self.cycle is self._asked:
            self.transport.close()
        elif not self.transport.is_closing():
            self._asked = self.cycle
            self.loop.call_later(HEAD_S, self._look)


class _Server(uvicorn.Server):
    """Told to end, it first does what is left, or cancels it, and answers meanwhile."""

    def __init__(self, jobs: Jobs, app: Starlette, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                access_log=False,
                log_config=None,
                log_level=logging.WARNING,
                server_header=False,
                timeout_graceful_shutdown=_CLOSING_S,
            )
        )
        self._jobs, self._drain_s = jobs, drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drained = asyncio.create_task(self._jobs.drain(self._drain_s))
        while not drained.done() and not self.force_exit:
            await asyncio.sleep(0.02)
        await self._jobs.drain(0)
        await super().shutdown(sockets)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on: 40 ms more for each answer.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(1024)
    except (OSError, OverflowError) as error:
        sock.close()
        raise OptionError(
            f"port {port} of {host} cannot be had ({reason_of(error)}), expected one that is free; "
            "choose another with --port, or 0 for any"
        ) from error
    return sock


def _address(host: str, sock: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{sock.getsockname()[1]}"

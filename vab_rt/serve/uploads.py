"""Videos on their way in: a request's body to a file, or the name of a file that is here."""

import asyncio
import time
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from vab_rt.serve.job import Refused, ending

PATIENCE_S = 60.0
SLOWEST_BYTES_PER_S = 10_000
"""The least speed of a body, on the average after PATIENCE_S."""
_PIECE_BYTES = 1 << 20


def declared_bytes(request: Request, max_bytes: int) -> int | None:
    """As the header says. Raises Refused where that is too much."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if int(text) > max_bytes:
        raise too_large(max_bytes)
    return int(text)


def too_large(max_bytes: int) -> Refused:
    return Refused(
        413,
        f"the video is larger than {max_bytes / 1e6:g} MB, the most that this server takes; send "
        "a shorter part",
        connection="close",
    )


async def save_body(request: Request, path: Path, max_bytes: int) -> int:
    """Its size. Raises Refused for one that is empty, too large or too slow, and where the disk is
    full or the server ends; ClientDisconnect."""
    begin, num_bytes, piece = time.monotonic(), 0, bytearray()
    pieces = request.stream()
    try:
        with path.open("wb") as file:
            while True:
                left_s = begin + PATIENCE_S + num_bytes / SLOWEST_BYTES_PER_S - time.monotonic()
                async with asyncio.timeout(max(0.0, left_s)):
                    received = await anext(pieces, None)
                num_bytes += len(received or b"")
                if num_bytes > max_bytes:
                    raise too_large(max_bytes)
                piece += received or b""
                if len(piece) >= _PIECE_BYTES or received is None:
                    await run_in_threadpool(file.write, bytes(piece))
                    piece.clear()
                if received is None:
                    break
    except TimeoutError as error:
        raise Refused(
            408, "the video came too slowly; send it again", connection="close"
        ) from error
    except asyncio.CancelledError as error:  # as the server has waited long enough to end
        raise ending() from error
    except OSError as error:
        raise Refused(
            507, f"the server has no room for the video ({error.strerror})", connection="close"
        ) from error
    if not num_bytes:
        raise Refused(400, "there is no video, expected one as the body; send its bytes")
    return num_bytes


def file_below(root: Path | None, name: str) -> Path:
    """A file below a server's root. Raises Refused for all else, and says nothing of it."""
    if root is None:
        raise Refused(403, "this server takes no paths, expected the video as the body")
    missing = Refused(404, "path names no file below the server's root; check the name")
    try:
        path = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # a null character; links in a circle
        raise missing from error
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise missing
    return path

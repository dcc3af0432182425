"""A job's files: where they lie, and as answers, whole or in part."""

import hashlib
import os
import shutil
from pathlib import Path

import msgspec
from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from vab_rt.delivery import Delivery
from vab_rt.serve.job import Refused
from vab_rt.serve.queries import Order

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "aiff": "audio/aiff",
    "mka": "audio/x-matroska",
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "avi": "video/x-msvideo",
}
_MOST_DELIVERIES = 16


def place_for(order: Order, sound: Path, name: str, delivery: Delivery) -> Path:
    """The place of a finished sound in a file of a format, as it is wanted, beside it: of those
    wanted in other ways the latest few are kept."""
    if delivery == Delivery():
        return sound.with_suffix(f".{name}")
    digest = hashlib.sha256(msgspec.json.encode(delivery)).hexdigest()[:16]
    others = sorted(order.folder.glob(f"{sound.stem}.{'?' * 16}.*"), key=_changed_at)
    for old in others[: -_MOST_DELIVERIES + 1]:
        old.unlink(missing_ok=True)
    return sound.with_suffix(f".{digest}.{name}")


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # removed meanwhile
        return 0.0


def borrowed(old: Order, sound: Path, folder: Path) -> tuple[Path, Path]:
    """The video of an order and a sound of it, with what lies beside that by its name, in the
    folder of another. Raises OSError."""
    own, video = folder / f"before.{old.format}", old.video
    if video.is_relative_to(old.folder):
        video = _linked(video, folder / "video")
    _linked(sound, own)
    for beside in sound.parent.glob(f"{sound.name}.*"):
        _linked(beside, folder / (own.name + beside.name.removeprefix(sound.name)))
    return video, own


def _linked(file: Path, link: Path) -> Path:
    """The same file by another name, so that it outlives the first."""
    try:
        os.link(file, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(file, link)
    return link


class RangedFile(FileResponse):
    """A file of which a part may be asked for. Raises Refused for a Range that is none of it."""

    chunk_size = 1 << 20  # each is read by a thread, whose turn costs more than the reading

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_good(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                asked, size = Headers(scope=scope).get("range"), self.headers["content-length"]
                status = message["status"]
                more = {"Content_Range": f"bytes */{size}"} if status == 416 else {}
                expected = f"bytes=FIRST-LAST within its {size} bytes"
                raise Refused(status, f"the range is {asked}, expected {expected}", **more)
            await send(message)

        await super().__call__(scope, receive, send_good)


def shown(path: Path, name: str) -> FileResponse:
    """A sound or a film, to be kept by this name."""
    kind = MEDIA_TYPES.get(path.suffix[1:], "application/octet-stream")
    headers = {"X-Content-Type-Options": "nosniff"}
    return RangedFile(path, media_type=kind, filename=name, headers=headers)

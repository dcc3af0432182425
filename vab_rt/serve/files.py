"""Files as answers, whole or in part."""

from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from vab_rt.serve.jobs import Refused

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


class RangedFile(FileResponse):
    """A file of which a part may be asked for. Raises Refused for a Range that is none of it."""

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

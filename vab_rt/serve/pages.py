"""The page in front of the server: files as they are, and nothing from elsewhere."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vab_rt.serve.files import RangedFile

_FOLDER = Path(__file__).with_name("page")
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_KINDS |= {".mp4": "video/mp4", "": "text/plain"}
_NAMES = """
app.js input.js player.js server.js spectrogram.js takes.js style.css example.mp4
wavesurfer/LICENSE wavesurfer/wavesurfer.esm.js wavesurfer/regions.esm.js wavesurfer/timeline.esm.js
"""
_FILES = {"/": "index.html"} | {f"/page/{name}": name for name in _NAMES.split()}
PATHS = tuple(_FILES)
# wavesurfer sets styles of its own; films and sounds of the user are blobs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self' blob:; media-src blob:; img-src data: blob:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def page_routes() -> list[Route]:
    """One a file."""
    return [Route(path, _show, include_in_schema=False) for path in PATHS]


async def _show(request: Request) -> Response:
    path = _FOLDER / _FILES[request.url.path]
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return RangedFile(path, media_type=_KINDS[path.suffix], headers=headers)

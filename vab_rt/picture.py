"""A picture of a result: frames above the spectrogram of the sound, with its strokes marked.

Drawn with Pillow, an extra: pip install 'vab-rt[picture]'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from vab_rt.audio import Audio
from vab_rt.errors import OptionError, OutputError, not_installed
from vab_rt.media import square_pixels
from vab_rt.options import check_kind
from vab_rt.output import check_output, whole_file, writing
from vab_rt.paths import as_path
from vab_rt.source import require_file
from vab_rt.spectrogram import Spectrogram, band_edges_hz
from vab_rt.video import SCALING, Video, VideoLike, as_video

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw


class Box(NamedTuple):
    """Pixels of a picture, right and bottom not among them."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


SIZE = (1500, 348)
FRAMES = Box(66, 12, 1466, 92)
SOUND = Box(66, 100, 1466, 310)
MARK = (0, 255, 255)
MARK_SIZE = (3, 14)  # around the middle of its moment, below the upper edge
_NUM_FRAMES = (6, 16)  # as many as fit at this height, between these
_GAP = 4
_INK, _PAPER, _FONT_SIZE, _TICK = (40, 40, 40), (255, 255, 255), 15, 5
_TICKS_HZ = {100: "100", 1000: "1k", 8000: "8k Hz"}
_MOST_TICKS = 11
_RANGE_DB = 60.0  # from black to white
_LEAST_LOUDEST_DB = -30.0  # what is quieter than this all along stays dark
# Black, violet, red, orange, pale yellow: lightness rises evenly, as in matplotlib's magma (CC0).
_COLORS = (
    *((0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122)),
    *((229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191)),
)


def save_picture(path: str | Path, audio: Audio, video: VideoLike, *, force: bool = False) -> None:
    """Writes a PNG of 1500x348 pixels: frames of the video above the spectrogram of its sound, on
    one axis of seconds, the strokes of the sound marked.

    - video: a path, or the Video of the part that the sound is of.
    - force: replace a file that exists.

    Raises OutputError, MediaError, and BackendError without Pillow.
    """
    check_kind("audio", audio, Audio, "vab_rt.Audio")
    with PictureWriter(plan_picture(path, video, force=force), audio.sample_rate_hz) as picture:
        picture.write(audio.samples)


@dataclass(frozen=True)
class PicturePlan:
    """A picture that can be written."""

    path: Path
    video: Video
    force: bool


def plan_picture(
    path: str | Path,
    video: VideoLike,
    *,
    out: str | Path | None = None,
    force: bool = False,
) -> PicturePlan:
    """For one PictureWriter. out: where the sound goes, which the picture may not.

    Raises OutputError unless it can be written, MediaError where there is no video, and
    BackendError without Pillow.
    """
    _require_pillow()
    path = as_path("path", path, "the name of a file, such as out.png")
    if path.suffix.lower() != ".png":
        raise OutputError(
            f"{path} ends in {path.suffix or 'no suffix'}, expected .png for a picture; rename it"
        )
    video = as_video(video)
    require_file(video.path)
    check_output(path, force=force, source=video.path)
    if out is not None and path.resolve() == Path(out).resolve():
        raise OutputError(
            f"{path} is where the sound goes, expected another file; choose a new name"
        )
    return PicturePlan(path, video, force)


class PictureWriter:
    """Hears sound as it arrives; the picture appears when the `with` block ends well.

    Memory does not grow with the length of the video. Raises MediaError, OutputError; on any
    exception, Ctrl-C included, nothing is left behind.
    """

    def __init__(self, plan: PicturePlan, rate_hz: int) -> None:
        self._plan, self._sound = plan, Spectrogram(rate_hz)

    def write(self, samples: npt.NDArray[np.float32]) -> None:
        """What comes next [S], float32, -1 to 1."""
        self._sound.add(samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            return
        plan = self._plan
        self._sound.finish()
        drawn = draw(self._sound, plan.video)
        with whole_file(plan.path, force=plan.force) as part, writing(plan.path):
            drawn.save(part, "PNG")


def draw(sound: Spectrogram, video: Video) -> "Image":
    """The picture of a sound that is finished, RGB. Raises OptionError for a sound of no length,
    MediaError."""
    if not sound.num_samples:
        raise OptionError("the sound has no samples, expected some; leave the picture out")
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", SIZE, _PAPER)
    for image, corner in _film(video, sound.duration_s):
        picture.paste(image, corner)
    picture.paste(_bands(sound), SOUND[:2])
    pen = ImageDraw.Draw(picture)
    pen.font = ImageFont.load_default(_FONT_SIZE)
    for at_s in sound.strokes_s():
        middle = column_of(float(at_s), sound.duration_s)
        left = max(SOUND.left, middle - MARK_SIZE[0] // 2)
        right = min(SOUND.right, middle + MARK_SIZE[0] // 2 + 1)
        pen.rectangle((left, SOUND.top, right - 1, SOUND.top + MARK_SIZE[1] - 1), MARK)
    _label_hz(pen, sound.rate_hz)
    _label_seconds(pen, sound.duration_s)
    return picture


def column_of(at_s: float, duration_s: float) -> int:
    """The column of pixels that shows this moment."""
    return SOUND.left + min(SOUND.width - 1, int(at_s / duration_s * SOUND.width))


def _film(video: Video, duration_s: float) -> Iterator[tuple["Image", tuple[int, int]]]:
    """Images of the video and where each begins: its moment is below its middle."""
    least, most = _NUM_FRAMES
    wide = FRAMES.height * video.info.width / video.info.height
    number = min(most, max(least, round(FRAMES.width / wide)))
    room = ((FRAMES.width + _GAP) // number - _GAP, FRAMES.height)
    middles = [FRAMES.left + FRAMES.width * (2 * i + 1) // (2 * number) for i in range(number)]
    times_s = [(middle - SOUND.left) / SOUND.width * duration_s for middle in middles]
    for frame, middle in zip(video.frames_at(times_s), middles, strict=True):
        image = _image_of(frame, video, room)
        top = FRAMES.top + (FRAMES.height - image.height) // 2
        yield image, (middle - image.width // 2, top)


def _image_of(frame: VideoFrame, video: Video, room: tuple[int, int]) -> "Image":
    """A frame, upright, as large as there is room for."""
    from PIL import Image

    turns = round(frame.rotation / 90) % 4
    wide, high = square_pixels(frame, video.info.pixel_aspect)
    width, height = room if turns % 2 == 0 else room[::-1]
    scale = min(width / wide, height / high)
    size = (max(1, round(wide * scale)), max(1, round(high * scale)))
    stored = frame.reformat(*size, format="rgb24", interpolation=SCALING).to_ndarray()  # [h, w, 3]
    return Image.fromarray(np.ascontiguousarray(np.rot90(stored, turns)))


def _bands(sound: Spectrogram) -> "Image":
    from PIL import Image

    level_db, column_s = sound.levels_db()  # [N, bands]
    upright = Image.fromarray(np.ascontiguousarray(level_db.T[::-1]))
    shown = min(len(level_db), sound.duration_s / column_s)
    scaled = upright.resize(
        (SOUND.width, SOUND.height),
        Image.Resampling.BILINEAR,
        box=(0, 0, shown, upright.height),
    )
    loudest = max(_LEAST_LOUDEST_DB, float(level_db.max()))
    share = np.clip((np.asarray(scaled) - loudest) / _RANGE_DB + 1, 0, 1)  # [height, width]
    steps, colors = np.linspace(0, 1, len(_COLORS)), np.array(_COLORS, float).T
    painted = np.stack([np.interp(share, steps, color) for color in colors], -1)
    return Image.fromarray(np.round(painted).astype(np.uint8))


def _label_hz(pen: "ImageDraw", rate_hz: int) -> None:
    edges = np.log(band_edges_hz(rate_hz))
    for hz, text in _TICKS_HZ.items():
        height = (np.log(hz) - edges[0]) / (edges[-1] - edges[0])
        if height <= 1:
            y = SOUND.bottom - 1 - round(height * (SOUND.height - 1))
            pen.line((SOUND.left - _TICK, y, SOUND.left - 1, y), _INK)
            pen.text((SOUND.left - _TICK - 4, y), text, _INK, anchor="rm")


def _label_seconds(pen: "ImageDraw", duration_s: float) -> None:
    """At 1, 2 or 5 times a power of ten seconds; a last one that would be cut is left out."""
    step_s = _tick_s(duration_s)
    for number in range(int(duration_s / step_s + 1e-9) + 1):
        x = SOUND.left + min(SOUND.width - 1, round(number * step_s / duration_s * SOUND.width))
        pen.line((x, SOUND.bottom, x, SOUND.bottom + _TICK - 1), _INK)
        pen.text((x, SOUND.bottom + _TICK + 4), f"{number * step_s:.6g} s", _INK, anchor="mt")


def _tick_s(duration_s: float) -> float:
    exponent = np.floor(np.log10(duration_s / _MOST_TICKS))
    steps = (float(f"{mantissa}e{exponent + ten:.0f}") for ten in (0, 1) for mantissa in (1, 2, 5))
    return next(step for step in steps if duration_s / step <= _MOST_TICKS)


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise not_installed("pictures need Pillow", "'vab-rt[picture]'", error) from error

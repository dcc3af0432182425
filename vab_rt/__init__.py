"""Sound for silent video: `vab_rt.load().generate("in.mp4").save("out.wav")`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vab_rt.telemetry import turn_off_telemetry

if TYPE_CHECKING:
    from vab_rt.audio import Audio
    from vab_rt.delivery import Delivery
    from vab_rt.errors import MediaWarning, VabError
    from vab_rt.options import GenerateOptions
    from vab_rt.picture import save_picture
    from vab_rt.pipeline import Pipeline, load
    from vab_rt.search import Found
    from vab_rt.steps import Step
    from vab_rt.video import Video, VideoLike

    __version__: str

# The only thing done at import, as it has to come before any import of onnxruntime.
turn_off_telemetry()

__all__ = [
    "Audio",
    "Delivery",
    "Found",
    "GenerateOptions",
    "MediaWarning",
    "Pipeline",
    "Step",
    "VabError",
    "Video",
    "VideoLike",
    "__version__",
    "load",
    "save_picture",
]

# Imported when first used: onnxruntime and FFmpeg take longer to load than most hosts will wait.
_HOMES = {
    "Audio": "vab_rt.audio",
    "Delivery": "vab_rt.delivery",
    "Found": "vab_rt.search",
    "GenerateOptions": "vab_rt.options",
    "MediaWarning": "vab_rt.errors",
    "Pipeline": "vab_rt.pipeline",
    "Step": "vab_rt.steps",
    "VabError": "vab_rt.errors",
    "Video": "vab_rt.video",
    "VideoLike": "vab_rt.video",
    "load": "vab_rt.pipeline",
    "save_picture": "vab_rt.picture",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("vab-rt")
    if name not in _HOMES:
        raise AttributeError(f"module 'vab_rt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

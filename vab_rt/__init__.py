"""Sound for silent video: `vab_rt.load().generate("in.mp4").save("out.wav")`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vab_rt.audio import Audio
    from vab_rt.config import GenerateOptions
    from vab_rt.errors import VabError
    from vab_rt.pipeline import load

__all__ = ["Audio", "GenerateOptions", "VabError", "load"]

# Imported when first used: onnxruntime and FFmpeg take longer to load than most hosts will wait.
_HOMES = {
    "Audio": "vab_rt.audio",
    "GenerateOptions": "vab_rt.config",
    "VabError": "vab_rt.errors",
    "load": "vab_rt.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vab_rt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

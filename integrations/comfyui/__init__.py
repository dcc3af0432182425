"""vab-rt in ComfyUI: a node from VIDEO to AUDIO."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]

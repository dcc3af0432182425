"""What people read of a model: lines from its manifest, and its card, README.md of the bundle.

A card says what the model was trained on, its license and its measures. It is Markdown with YAML in
front, as hubs show it. The manifest lists it like any other file.
"""

import re
from collections.abc import Iterator

from vab_rt.bundle import Bundle
from vab_rt.contract import Manifest
from vab_rt.errors import BundleError
from vab_rt.streams import harmless
from vab_rt.systems import module_of

CARD = "README.md"
MAX_CARD_BYTES = 200_000
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)


def facts_of(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Name and value of what people should know of a model."""
    c = manifest.model
    yield "sound", f"{c.sample_rate_hz} Hz mono, {c.clip_s:g} s at a time"
    yield "frames", f"{c.visual_rate_hz:g} a second, {c.image_size} pixels ({c.image_encoder})"
    yield from module_of(manifest).facts_of(manifest)


def read_card(bundle: Bundle) -> str | None:
    """The text for people, without what stands in front; None for a bundle without a card.

    Nothing in it can steer a terminal. Raises BundleError for a card that is not the manifest's.
    """
    entry = bundle.manifest.files.get(CARD)
    if entry is None:
        return None
    if entry.size_bytes > MAX_CARD_BYTES:
        raise BundleError(
            f"{bundle.folder / CARD} has {entry.size_bytes} bytes, expected at most "
            f"{MAX_CARD_BYTES} in a card; do not use this bundle"
        )
    text = bundle.read_file(CARD).decode("utf-8", "replace").replace("\r\n", "\n")
    return harmless(_FRONT_MATTER.sub("", text)).strip()

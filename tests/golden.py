"""What the shipped model makes of the three example clips, as it was when `golden.npz` was made:
`python tests/golden.py` makes it again. Nothing but another model should need that.

Elsewhere networks round in other ways, so bytes are held where processor and libraries are alike.
"""

import hashlib
import platform
import re
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import vab_rt

GOLDEN = Path(__file__).with_suffix(".npz")
EXAMPLES = Path(__file__).parents[1] / "examples"
CLIPS = ("ball", "hammer", "waves")


def made(pipeline: vab_rt.Pipeline, clip: str) -> dict[str, np.ndarray]:
    """Of seed 7, the model's own options: tokens [K, T], and the digest of the wav."""
    steps = list(pipeline.generate_steps(EXAMPLES / f"{clip}.mp4", seed=7))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "out.wav"
        pipeline.gather(iter(steps)).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {clip: steps[-1].state.astype(np.int16), f"{clip}.sha256": np.array(digest)}


def machine() -> str:
    """What rounding hangs on: the processor, to its last flag, and the libraries that compute."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    of_processor = {line for line in lines if re.match(r"(vendor|cpu family|model|flags)", line)}
    processor = hashlib.sha256("\n".join(sorted(of_processor)).encode()).hexdigest()
    libraries = [f"{name} {version(name)}" for name in ("av", "numpy", "onnxruntime")]
    return ", ".join([platform.system(), processor, *libraries])


if __name__ == "__main__":
    arrays = {"machine": np.array(machine())}
    for clip in CLIPS:
        arrays |= made(vab_rt.load(), clip)
    np.savez_compressed(GOLDEN, **arrays)

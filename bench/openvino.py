"""OpenVINO beside onnxruntime's own CPU provider, in float32 and with an int8 backbone: for
`bench hosts`."""

import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

import vab_rt
from bench.report import PAUSE_S, console, in_turn, summarise
from export.manifest import describe, put_manifest
from export.verify import Loss, measure_loss
from vab_rt.bundle import Bundle
from vab_rt.config import ModelConfig
from vab_rt.engines.providers import what_is_missing
from vab_rt.quantisation import in_int8
from vab_rt.seeing import as_frames
from vab_rt.systems.vab import Vab

NDArray = npt.NDArray[Any]
MOST_APART = 1e-3
WAYS = {"cpu": "cpu", "openvino": "openvino", "cpu_int8": "cpu", "openvino_int8": "openvino"}
LOST = ("openvino_apart", "openvino_same_tokens", "int8_error", "int8_same_argmax")
SEED = 0xFEDCBA9876543210


def make(system: Vab, frames: NDArray, large: NDArray) -> tuple[NDArray, NDArray]:
    """Tokens [1, K, T] and sound [1, S] of a clip's frames, with what the model recommends."""
    features = see(system, frames, large)
    c = system.codec_config
    tokens = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    seeds = np.array([SEED], np.uint64)
    *_, (_, tokens) = system.decode_tokens(features, tokens, seeds, system.defaults)
    return tokens, system.render(tokens)


def see(system: Vab, frames: NDArray, large: NDArray) -> NDArray:
    """Features [1, F, visual_dim]."""
    seen = as_frames(frames, large, system.config.large_stride or 1)
    return np.stack([*system.see(seen)])[None]


def beside_cpu(
    bundle: Bundle, frames: NDArray, large: NDArray, num_runs: int
) -> tuple[dict[str, float | None], str | None]:
    """Medians of a clip from its frames to its sound, how far OpenVINO is off the CPU, and what the
    int8 backbone loses; or nothing, and why."""
    found, install = what_is_missing("openvino")
    if found:
        nothing = dict.fromkeys((*(f"{way}_s" for way in WAYS), *LOST))
        return nothing, f"{found}; {install}" if install else found
    with TemporaryDirectory() as folder:
        int8 = int8_copy(bundle, Path(folder) / "int8")
        systems = {
            way: vab_rt.load(int8 if way.endswith("int8") else bundle.folder, device).system
            for way, device in WAYS.items()
        }
        lost = losses(systems, frames, large)
        calls = {way: partial(make, system, frames, large) for way, system in systems.items()}
        times = summarise(in_turn(calls, num_runs, warm_ups=1, pause_s=PAUSE_S))
    return {f"{way}_s": round(times[way].median / 1e3, 4) for way in WAYS} | lost, None


def losses(systems: Mapping[str, Vab], frames: NDArray, large: NDArray) -> dict[str, float]:
    """Exits where OpenVINO is off by more than rounding: that may change a token where two are
    equally likely, and all that follow."""
    cpu, openvino = systems["cpu"], systems["openvino"]
    (tokens, sound), (others, _) = (make(one, frames, large) for one in (cpu, openvino))
    rows = half_masked(tokens, see(cpu, frames, large), cpu.config)
    apart, off = np.abs(openvino.render(tokens) - sound).max(), loss_of(cpu, openvino, rows)
    if max(apart, off.relative_error) > MOST_APART:
        sys.exit(f"not timed: OpenVINO's sound is {apart:.1e} off; its logits: {off}")
    same = (tokens == others).mean()
    console.print(f"parity: {same:.1%} of the tokens are equal, samples {apart:.1e} off; {off}")
    loss = loss_of(cpu, systems["cpu_int8"], rows)
    found = (float(apart), float(same), loss.relative_error, loss.agreement)
    return dict(zip(LOST, found, strict=True))


def half_masked(tokens: NDArray, features: NDArray, config: ModelConfig) -> dict[str, NDArray]:
    """Inputs of a step of the first stage, with and without what is seen."""
    masked = tokens[:, : config.num_codebooks].copy()
    masked[..., ::2] = config.mask_id
    rows = {"tokens": masked.repeat(2, axis=0), "features": features.repeat(2, axis=0)}
    return rows | {"conditional": np.array([1, 0], np.float32)}


def loss_of(exact: Vab, other: Vab, rows: dict[str, NDArray]) -> Loss:
    """How far apart the two are on the masked steps."""
    logits = (system.engines["backbone"](**rows)[..., ::2, :] for system in (exact, other))
    return measure_loss(*logits)


def int8_copy(bundle: Bundle, folder: Path) -> Path:
    """A bundle of the same model whose backbones multiply in int8."""
    shutil.copytree(bundle.folder, folder)
    manifest, files = bundle.manifest, dict(bundle.manifest.files)
    for name in manifest.stepped:
        if name in manifest.graphs:
            path = folder / manifest.graphs[name].file
            path.write_bytes(in_int8(path.read_bytes()))
            files[path.name] = describe(path)
    put_manifest(folder, msgspec.structs.replace(manifest, files=files, precision="int8"))
    return folder

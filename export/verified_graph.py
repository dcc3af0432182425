"""A bundle as one graph, compared with the runtime before it is a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime

from export.one_graph import build_one_graph, request
from vab_rt.bundle import Bundle
from vab_rt.engines import open_engines
from vab_rt.errors import ExportError
from vab_rt.options import TokenOptions
from vab_rt.output import check_output, whole_file
from vab_rt.seeing import as_frames
from vab_rt.systems.vab import open_system

NUM_REQUESTS = 20
MOST_APART = 1e-3
"""How far samples may differ. Tokens must be equal; a codec that adds up phases rounds otherwise
where other nodes stand beside it."""


class OneGraph(NamedTuple):
    """A file that was written. apart: of its samples from the runtime's, at most."""

    path: Path
    size_bytes: int
    num_requests: int
    apart: float


def write_one_graph(bundle: Bundle, out: Path, *, with_video: bool, force: bool) -> OneGraph:
    """Builds, verifies and writes it. Raises OutputError, and ExportError as the others do."""
    check_output(out, force=force)
    model = build_one_graph(bundle)
    apart = verify_one_graph(model, bundle)
    if with_video:
        model = build_one_graph(bundle, with_video=True)
        apart = max(apart, verify_video(model, bundle))
    content = model.SerializeToString()
    with whole_file(out, force=force) as part:
        part.write_bytes(content)
    return OneGraph(out, len(content), NUM_REQUESTS, apart)


def verify_one_graph(model: onnx.ModelProto, bundle: Bundle) -> float:
    """How far its sound is from the runtime's, whose tokens it gave for NUM_REQUESTS. Raises
    ExportError for a request that gave others."""
    session, system = _session(model), open_system(bundle, open_engines(bundle, "cpu"))
    c, random, apart = system.codec_config, np.random.default_rng(0), 0.0
    for seed, wish in enumerate(_requests(system.defaults, system.config.max_guidance)):
        features = random.normal(0, 1, (1, c.num_frames, c.visual_dim)).astype(np.float32)
        given = random.integers(0, c.codebook_size, (1, c.num_codebooks, c.num_token_steps), "i4")
        given[random.random(given.shape) < random.choice([0.5, 1.0, 1.0])] = c.mask_id
        own = seed * 0x9E3779B97F4A7C15 % 2**64
        *_, (_, expected) = system.decode_tokens(features, given, np.array([own], "u8"), wish)
        found, audio = session.run(None, {"features": features, **request(given, own, wish)})
        _compare(f"seed {own}", found, expected)
        apart = max(apart, float(np.abs(audio - system.render(expected)).max()))
    if apart > MOST_APART:
        raise ExportError(
            f"the graph's sound is {apart:.1e} off the runtime's, expected at most {MOST_APART:g}; "
            f"onnxruntime {onnxruntime.__version__} may be too old or too new"
        )
    return apart


def verify_video(model: onnx.ModelProto, bundle: Bundle) -> float:
    """The same of a clip's frames, of noise that moves."""
    session, system = _session(model), open_system(bundle, open_engines(bundle, "cpu"))
    c, random = system.config, np.random.default_rng(0)
    still = random.integers(0, 256, (2 * c.image_size, c.image_size, 3), np.uint8)
    images = np.stack([np.roll(still, 2 * i, 0)[: c.image_size] for i in range(c.num_frames)])
    frames = images[:, : c.frame_size, : c.frame_size]
    large = images[:: c.large_stride] if c.large_stride else images[:0]
    features = np.stack([*system.see(as_frames(frames, large, c.large_stride or 1))])
    codec = system.codec_config
    given = np.full((1, codec.num_codebooks, codec.num_token_steps), codec.mask_id, np.int32)
    seeds = np.array([7], np.uint64)
    *_, (_, expected) = system.decode_tokens(features[None], given, seeds, system.defaults)
    seen = {"frames": frames} | ({"images": large} if c.large_stride else {})
    found, audio = session.run(None, {**seen, **request(given, 7, system.defaults)})
    _compare("frames", found, expected)
    return float(np.abs(audio - system.render(expected)).max())


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _compare(what: str, found: Any, expected: Any) -> None:
    """Raises ExportError for other tokens."""
    if not np.array_equal(found, expected):
        raise ExportError(
            f"the graph gave {(found != expected).mean():.2%} other tokens than the runtime for "
            f"{what}, expected the same; onnxruntime {onnxruntime.__version__} may be too old or "
            "too new"
        )


def _requests(defaults: TokenOptions, max_guidance: float) -> Iterator[TokenOptions]:
    """Requests of few steps, so that they take seconds: guided or not, with and without top-k."""
    few = {} if defaults.fine_steps is None else {"fine_steps": 2}
    for number in range(NUM_REQUESTS):
        own = {"steps": 1 + number % 4, "top_k": (defaults.top_k, 0, 5)[number % 3], **few}
        own["guidance"] = (defaults.guidance, 1.0, max_guidance or 2.5)[number // 2 % 3]
        own["temperature"] = (defaults.temperature, 0.8, 1.37)[number // 5 % 3]
        yield msgspec.structs.replace(defaults, **own)

"""A bundle as one ONNX file of standard operators: features, or frames, in; tokens and sound out.

The decoding loop is inside, so that any program with an ONNX runtime makes the same sound of the
same seed. docs/BUNDLE.md says what goes in and comes out.
"""

import json
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.onnx_graphs import MAX_FILE_BYTES, OPSET
from export.sampling_graph import Nodes, add_step, declare, round_keys
from vab_rt.bundle import Bundle
from vab_rt.config import MOTION_FRAMES, ModelConfig
from vab_rt.contract import VabManifest
from vab_rt.errors import ExportError
from vab_rt.options import MAX_STEPS, TokenOptions
from vab_rt.systems.vab import FINE_SEED

VERSION = 1
IR_VERSION = 10
_SETTINGS = {
    "seed_low": np.uint32,
    "seed_high": np.uint32,
    "steps": np.int64,
    "top_k": np.int64,
    "guidance": np.float64,
    "temperature": np.float64,
    "mask_temperature": np.float64,
}
LEAST, MOST = 1e-6, 1e6  # of a temperature; of any number
_ONE = np.array([1])


def build_one_graph(bundle: Bundle, *, with_video: bool = False) -> onnx.ModelProto:
    """The model of a bundle of VAB, coarse-to-fine too. Raises ExportError for another system, and
    for weights that one file cannot hold."""
    manifest = bundle.manifest
    if not isinstance(manifest, VabManifest):
        raise ExportError(
            f"{bundle.folder} is of {manifest.kind}, expected vab, which decodes tokens"
        )
    coarse, fine = manifest.model, manifest.fine
    whole = fine or coarse
    main = Nodes()
    inputs = _seen_inputs(coarse, with_video=with_video)
    features = _see(main, bundle, coarse) if with_video else "features"
    shape = (1, whole.num_codebooks, whole.num_token_steps)
    inputs.append(declare("given", np.int32, shape))
    settings = _SETTINGS if fine is None else _SETTINGS | {"fine_steps": np.int64}
    inputs += [declare(name, kind, ()) for name, kind in settings.items()]
    given = _checked(main, "backbone", "given", 0, whole.codebook_size, shape)
    first = _some(main, given, 0, coarse.num_codebooks)
    tokens = _decode(main, bundle, "backbone", coarse, first, features)
    if fine is not None:
        rest = _some(main, given, coarse.num_codebooks, whole.num_codebooks)
        filled = _decode(main, bundle, "fine_backbone", fine, rest, features, tokens)
        tokens = main.Concat(tokens, filled, axis=1)
    main.list.append(helper.make_node("Identity", [tokens], ["tokens"]))
    audio = inline(main, main, bundle, "codec_decoder", {"tokens": "tokens"})
    main.list.append(helper.make_node("Identity", [audio], ["audio"]))
    outputs = [
        declare("tokens", np.int32, shape),
        declare("audio", np.float32, (1, whole.num_samples)),
    ]
    graph = helper.make_graph(
        main.list, coarse.name, inputs, outputs, initializer=list(main.initializers.values())
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, _facts(manifest))
    if model.ByteSize() > MAX_FILE_BYTES:
        raise ExportError(
            f"{bundle.folder} holds {model.ByteSize() / 1e9:.1f} GB of weights, expected at most "
            "2.1 GB in one ONNX file; export it again with --store fp16"
        )
    return model


def inline(main: Nodes, into: Nodes, bundle: Bundle, name: str, given: dict[str, str]) -> str:
    """The output of a graph of the bundle, its nodes in `into`, its weights in `main`.

    given: what its inputs are called there. Nodes that wait for no input made in `into` go to
    `main`, where they run once and not at each step.
    """
    graph = onnx.load_from_string(bundle.read_graph(name)).graph
    names = dict(given)
    changing = {value for value in given if into is not main and value == "tokens"}
    for weight, array in bundle.read_weights(name).items():
        graph.initializer.append(numpy_helper.from_array(np.array(array), weight))
    for tensor in graph.initializer:
        names[tensor.name] = f"{name}/{tensor.name}"
        tensor.name = names[tensor.name]
        main.initializers[tensor.name] = tensor
    for node in graph.node:
        changes = not changing.isdisjoint(node.input)
        changing |= {*node.output} if changes else set()
        names |= {value: f"{name}/{value}" for value in node.output if value}
        node.name = ""
        node.input[:] = [names.get(value, "") for value in node.input]
        node.output[:] = [names.get(value, "") for value in node.output]
        (into if changes else main).list.append(node)
    return names[graph.output[0].name]


def _decode(
    main: Nodes,
    bundle: Bundle,
    backbone: str,
    config: ModelConfig,
    tokens: str,
    features: str,
    coarse: str | None = None,
) -> str:
    """Tokens [1, K, T], filled in by one backbone in its own number of steps."""
    c, size = config, np.int64(config.codebook_size)
    num_masked = main.ReduceSum(main.cast(main.Equal(tokens, np.int32(size)), np.int64))
    flat = main.Reshape(tokens, np.array([-1]))
    steps = _checked(main, backbone, "fine_steps" if coarse is not None else "steps", 1, MAX_STEPS)
    count, conditional = _branches(main, backbone, config)
    given = {"features": _repeated(main, features, count), "conditional": conditional}
    if coarse is not None:
        given["coarse"] = _repeated(main, coarse, count)
    body = Nodes(f"{backbone}/step/", main)
    rows = body.Reshape("state", np.array([1, -1, c.num_token_steps]))
    given["tokens"] = _repeated(body, rows, count)
    logits = inline(main, body, bundle, backbone, given)  # [G, K, T, V]
    with_, without = (
        body.Reshape(body.Gather(logits, np.int64(i)), np.array([-1, int(size)])) for i in (0, -1)
    )
    ratio, num_remask = _schedule(body, num_masked, steps)
    mask_temperature = _checked(main, backbone, "mask_temperature", 0)
    settings = {
        "keys": round_keys(main, *_seed(main, is_fine=coarse is not None)),
        "step": body.cast("iteration", np.uint64),
        "guidance": main.cast("guidance", np.float32),
        "scale": main.cast(
            main.Div(np.float64(1), _checked(main, backbone, "temperature", LEAST)), np.float32
        ),
        "mask_temperature": body.cast(
            body.Mul(mask_temperature, body.Sub(np.float64(1), ratio)), np.float32
        ),
        "top_k": _checked(main, backbone, "top_k", 0, 2**31 - 1),
        "num_remask": num_remask,
    }
    sampled = add_step(body, "state", with_, without, settings, int(size))
    filled = _looped(main, body, f"{backbone}_step", sampled, flat, steps)
    shaped: str = main.Reshape(filled, np.array([1, -1, c.num_token_steps]))
    return shaped


def _looped(main: Nodes, body: Nodes, name: str, sampled: str, tokens: str, steps: str) -> str:
    """Flat tokens after so many steps of `body`, each of which leaves `sampled` of its `state`."""
    body.list.append(helper.make_node("Identity", ["go_on"], ["goes_on"]))
    state = [declare("go_on", np.bool_, ()), declare("state", np.int32, (None,))]
    loop = helper.make_graph(
        body.list,
        name,
        [declare("iteration", np.int64, ()), *state],
        [declare("goes_on", np.bool_, ()), declare(sampled, np.int32, (None,))],
    )
    looped: str = main.Loop(steps, np.bool_(True), tokens, body=loop)
    return looped


def _branches(main: Nodes, where: str, config: ModelConfig) -> tuple[str, str]:
    """[1] of G, and `ModelConfig.branches` [G]; one branch guided by itself stays as it is."""
    if config.max_guidance:
        scale = _checked(main, where, "guidance", 1, config.max_guidance)
        return main.named(_ONE), main.Reshape(main.cast(scale, np.float32), _ONE)
    scale = _checked(main, where, "guidance", -MOST)
    is_guided = main.cast(main.Not(main.Equal(scale, np.float64(1))), np.int64)
    count = main.Reshape(main.Add(is_guided, np.int64(1)), _ONE)
    return count, main.Slice(np.array([1, 0], np.float32), np.array([0]), count)


def _checked(
    main: Nodes, where: str, name: str, least: float, most: float = MOST, shape: Any = ()
) -> str:
    """The input of that name. Where it is out of range the run fails, in a node that says so."""
    numbers = main.Reshape(main.cast(name, np.float64), np.array([-1]))
    is_right = main.And(
        main.GreaterOrEqual(main.ReduceMin(numbers, keepdims=0), np.float64(least)),
        main.LessOrEqual(main.ReduceMax(numbers, keepdims=0), np.float64(most)),
    )  # not of NaN either
    index = main.cast(main.Not(is_right), np.int64)  # 0, or 1 of one
    checked: str = main.Gather(main.Reshape(name, np.array([1, *shape])), index)
    main.list[-1].name = f"{where}/expected_{name}_from_{least:g}_to_{most:g}"
    return checked


def _schedule(body: Nodes, num_masked: str, steps: str) -> tuple[str, str]:
    """The share of steps that are done after this one, float64, and `decoding.remask_count`."""
    done = body.Add("iteration", np.int64(1))
    ratio = body.Div(body.cast(done, np.float64), body.cast(steps, np.float64))
    cosine = body.Cos(body.Mul(np.float64(np.pi / 2), ratio))
    # At two thirds the cosine is 1/2, and must not fall below it by rounding.
    left = body.Floor(body.Add(body.Mul(cosine, body.cast(num_masked, np.float64)), 1e-9))
    fewer = body.Sub(num_masked, done)
    count = body.Max(np.int64(1), body.Min(body.cast(left, np.int64), fewer))
    is_over = body.Or(body.Equal(done, steps), body.Equal(num_masked, np.int64(0)))
    return ratio, body.Where(is_over, np.int64(0), count)


def _seed(main: Nodes, *, is_fine: bool) -> tuple[str, str]:
    """Both halves, uint64; those of the second stage."""
    low, high = (main.cast(name, np.uint64) for name in ("seed_low", "seed_high"))
    if not is_fine:
        return low, high
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    low = main.Add(low, np.uint64(FINE_SEED) & mask)
    carried = main.BitShift(low, shift, direction="RIGHT")
    high = main.Add(main.Add(high, np.uint64(FINE_SEED) >> shift), carried)
    return main.BitwiseAnd(low, mask), main.BitwiseAnd(high, mask)


def _repeated(n: Nodes, value: str, count: str) -> str:
    """A clip's [1, ...] as [G, ...]."""
    shape = n.Concat(count, n.Shape(value, start=1), axis=0)
    repeated: str = n.Expand(value, shape)
    return repeated


def _some(main: Nodes, given: str, begin: int, end: int) -> str:
    """The given tokens of some codebooks."""
    some: str = main.Slice(given, np.array([begin]), np.array([end]), _ONE)
    return some


def _see(main: Nodes, bundle: Bundle, config: ModelConfig) -> str:
    """Features [1, F, visual_dim] of all frames of a clip, as `seeing` has them."""
    c = config
    if not c.motion_dim:
        image = inline(main, main, bundle, "visual_encoder", {"frames": "frames"})
        return str(main.Unsqueeze(image, np.array([0])))
    seen = "images"
    if not c.large_stride:
        seen = main.Gather("frames", np.arange(0, c.num_frames, c.image_stride))
    images = inline(main, main, bundle, "visual_encoder", {"frames": seen})
    each = main.Gather(images, np.arange(c.num_frames) // c.image_stride)  # [F, image_dim]
    starts = np.arange(0, c.num_frames, MOTION_FRAMES)
    around = np.arange(-c.motion_reach, MOTION_FRAMES + c.motion_reach)
    runs = main.Gather("frames", (starts[:, None] + around).clip(0, c.num_frames - 1))
    motion = inline(main, main, bundle, "motion_encoder", {"frames": runs})
    flat = main.Reshape(motion, np.array([-1, c.motion_dim]))
    flat = main.Slice(flat, np.array([0]), np.array([c.num_frames]))
    return str(main.Unsqueeze(main.Concat(each, flat, axis=1), np.array([0])))


def _facts(manifest: VabManifest) -> dict[str, str]:
    """What a host should know, as the model's metadata."""
    whole, options = manifest.fine or manifest.model, msgspec.to_builtins(manifest.defaults)
    kept = {name: options[name] for name in (*_SETTINGS, "fine_steps") if name in options}
    return {
        "vab_rt.one_graph": str(VERSION),
        "model": manifest.model.name,
        "options": json.dumps(kept),
        "mask_id": str(whole.codebook_size),
        "sample_rate_hz": str(whole.sample_rate_hz),
        "clip_s": str(whole.clip_s),
        "license": manifest.license,
    }


def _seen_inputs(config: ModelConfig, *, with_video: bool) -> list[onnx.ValueInfoProto]:
    """Features of a clip; or its frames, and one in `large_stride` in the image encoder's size."""
    c = config
    if not with_video:
        return [declare("features", np.float32, (1, c.num_frames, c.visual_dim))]
    frames = declare("frames", np.uint8, (c.num_frames, c.frame_size, c.frame_size, 3))
    if not c.large_stride:
        return [frames]
    count = -(-c.num_frames // c.large_stride)
    return [frames, declare("images", np.uint8, (count, c.image_size, c.image_size, 3))]


def request(given: Any, seed: int, options: TokenOptions) -> dict[str, Any]:
    """What goes into the graph beside features or frames."""
    values = {"seed_low": seed & 0xFFFFFFFF, "seed_high": seed >> 32}
    values |= {name: getattr(options, name) for name in _SETTINGS if hasattr(options, name)}
    scalars = {name: np.array(value, _SETTINGS[name]) for name, value in values.items()}
    if options.fine_steps is not None:
        scalars["fine_steps"] = np.array(options.fine_steps, np.int64)
    return {"given": given, **scalars}

"""A bundle as one graph: the runtime's tokens and sound for the same seed, whatever is asked."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_bundle import fine_config, make_bundle, tiny_config
from tiny_v2a import make_v2a_bundle

import vab_rt
from export import build_engines, one_graph, sampling_graph, verified_graph
from export.one_graph import request
from vab_rt.bundle import open_bundle, shipped_models
from vab_rt.errors import ExportError
from vab_rt.options import TokenOptions
from vab_rt.sampling import sample_step
from vab_rt.sampling_arguments import StepSettings

ANY_SEED = 0xFEDCBA9876543210


@pytest.fixture(scope="module")
def bundles(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "coarse-to-fine"
    guided = make_bundle(folder.with_name("guided"), tiny_config(max_guidance=4.0))
    return {
        "one stage": tiny_bundle,
        "guided": guided,
        "two": make_bundle(folder, tiny_config(), fine=fine_config()),
    }


@pytest.fixture(scope="module")
def graphs(bundles):
    """By name, what runs the graph and the runtime's system."""
    found = {}
    for name, folder in bundles.items():
        bundle = open_bundle(folder)
        model = one_graph.build_one_graph(bundle)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found[name] = session, vab_rt.load(folder, threads=1).system
    return found


def both(session, system, options, *, seed=ANY_SEED, given_share=0.0):
    """Tokens and sound of the runtime, and of the graph."""
    c, random = system.codec_config, np.random.default_rng(1)
    features = random.normal(0, 1, (1, c.num_frames, c.visual_dim)).astype(np.float32)
    given = random.integers(0, c.codebook_size, (1, c.num_codebooks, c.num_token_steps), np.int32)
    given[random.random(given.shape) >= given_share] = c.mask_id
    *_, (_, tokens) = system.decode_tokens(features, given, np.array([seed], np.uint64), options)
    found = session.run(None, {"features": features, **request(given, seed, options)})
    return (tokens, system.render(tokens)), found


@pytest.mark.parametrize("name", ["one stage", "two"])
@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"guidance": 1.0, "steps": 1},
        {"top_k": 0, "steps": 7, "seed": 0},
        {"top_k": 1, "temperature": 3.7, "seed": 2**64 - 1},
        {"top_k": 5, "guidance": 0.0, "mask_temperature": 0.0, "steps": 3},
        {"temperature": 0.05, "steps": 33, "given_share": 0.5},
        {"steps": 1024, "given_share": 1.0},
    ],
    ids=str,
)
def test_it_gives_the_runtimes_tokens_and_sound(graphs, name, wish):
    session, system = graphs[name]
    wish, how = dict(wish), {}
    how |= {key: wish.pop(key) for key in ("seed", "given_share") if key in wish}
    if name == "two":
        wish["fine_steps"] = 3
    (tokens, audio), (found, sound) = both(session, system, TokenOptions(**wish), **how)
    assert np.array_equal(found, tokens)
    assert np.abs(sound - audio).max() <= 1e-5


@pytest.fixture(scope="module")
def step_graph():
    """A sampling step alone, V = 64."""
    n = sampling_graph.Nodes()
    seeds = [n.cast(name, np.uint64) for name in ("seed_low", "seed_high")]
    names = {"guidance": np.float32, "scale": np.float32, "mask_temperature": np.float32}
    names |= {"top_k": np.int64, "num_remask": np.int64}
    settings = {name: name for name in names} | {"step": n.cast("step", np.uint64)}
    settings["keys"] = sampling_graph.round_keys(n, *seeds)
    out = sampling_graph.add_step(n, "tokens", "with", "without", settings, 64)
    names |= dict.fromkeys(("seed_low", "seed_high"), np.uint32) | {"step": np.int64}
    inputs = [sampling_graph.declare(name, kind, ()) for name, kind in names.items()]
    inputs.append(sampling_graph.declare("tokens", np.int32, (None,)))
    for name in ("with", "without"):
        inputs.append(sampling_graph.declare(name, np.float32, (None, 64)))
    outputs = [sampling_graph.declare(out, np.int32, (None,))]
    initializers = [*n.initializers.values()]
    graph = onnx.helper.make_graph(n.list, "step", inputs, outputs, initializer=initializers)
    opset = [onnx.helper.make_opsetid("", one_graph.OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=one_graph.IR_VERSION)
    return onnxruntime.InferenceSession(model.SerializeToString())


@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 64, 1000])
@pytest.mark.parametrize("spread", [0.0, 0.5, 6.0, 40.0])
@pytest.mark.parametrize("grain", [0.0, 1.0], ids=["", "many are equal"])
def test_a_step_is_the_references(step_graph, top_k, spread, grain):
    """Rows in which nearly all may win, rows in which few may, and both in one step."""
    random = np.random.default_rng(top_k)
    tokens = random.choice([3, 64], 200, p=[0.2, 0.8]).astype(np.int32)
    with_, without = random.normal(0, spread, (2, 200, 64)).astype(np.float32)
    with_[::3] *= random.choice([0.01, 1.0])
    if grain:
        with_, without = np.round(with_), np.round(without)
    num_remask = int(tokens.sum() % 50)
    scalars = {"step": 3, "guidance": 1.5, "mask_temperature": 2.5, "top_k": top_k}
    reference = tokens[None].copy()
    settings = StepSettings(
        seeds=np.array([ANY_SEED], np.uint64),
        temperature=0.8,
        num_remask=np.array([num_remask], np.int32),
        **scalars,
    )
    sample_step(reference, with_[None], without[None], settings)
    scalars |= {"scale": 1 / 0.8, "num_remask": num_remask}
    scalars |= {"seed_low": ANY_SEED & 0xFFFFFFFF, "seed_high": ANY_SEED >> 32}
    kinds = {each.name: each.type for each in step_graph.get_inputs()}
    dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint32)": np.uint32}
    asked = {name: np.array(value, dtypes[kinds[name]]) for name, value in scalars.items()}
    (found,) = step_graph.run(None, asked | {"tokens": tokens, "with": with_, "without": without})
    assert np.array_equal(found, reference[0])


@pytest.mark.parametrize("guidance", [1.0, 2.5, 4.0])
def test_one_that_is_guided_in_one_pass_is_told_the_scale(graphs, guidance):
    options = TokenOptions(guidance=guidance, temperature=0.5)
    (tokens, _), (found, _) = both(*graphs["guided"], options)
    assert np.array_equal(found, tokens)
    (others, _), _ = both(
        *graphs["guided"], TokenOptions(guidance=guidance / 2 + 1, temperature=0.5)
    )
    assert np.array_equal(others, tokens) == (guidance == 2.0)


def test_it_says_what_it_is(graphs):
    session, system = graphs["two"]
    facts = session.get_modelmeta().custom_metadata_map
    options = json.loads(facts["options"])
    assert options["steps"] == system.defaults.steps and options["fine_steps"] == 36
    assert facts["vab_rt.one_graph"] == "1" and facts["model"] == system.config.name
    assert int(facts["mask_id"]) == system.config.codebook_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": np.array(0)}, "expected_steps_from_1_to_1024"),
        ({"steps": np.array(1025)}, "expected_steps_from_1_to_1024"),
        ({"temperature": np.array(0.0)}, "expected_temperature_from_1e-06_to_1e.06"),
        ({"temperature": np.array(np.nan)}, "expected_temperature_from_1e-06_to_1e.06"),
        ({"guidance": np.array(np.inf)}, "expected_guidance_from_-1e.06_to_1e.06"),
        ({"mask_temperature": np.array(-5.0)}, "expected_mask_temperature_from_0_to_1e.06"),
        ({"top_k": np.array(-1)}, "expected_top_k_from_0_to"),
        ({"given": np.full((1, 2, 100), -1, np.int32)}, "expected_given_from_0_to_"),
        ({"seed_low": np.array(1)}, "expected: .tensor.uint32"),
        ({"given": np.zeros((1, 1, 1), np.int32)}, "invalid dimensions"),
        ({"features": np.zeros((1, 1, 1), np.float32)}, "invalid dimensions"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_graph_itself(graphs, change, message):
    session, system = graphs["one stage"]
    c = system.config
    features = np.zeros((1, c.num_frames, c.visual_dim), np.float32)
    given = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    asked = {"features": features, **request(given, 7, TokenOptions()), **change}
    with pytest.raises(Exception, match=message):  # onnxruntime's own exceptions share no base
        session.run(None, asked)


def test_the_command_makes_it_of_a_bundle_with_frames_in_front(
    tiny_bundle, tmp_path, capsys, refused
):
    out = tmp_path / "one.onnx"
    words = [str(tiny_bundle), "--one-graph", str(out), "--with-video"]
    build_engines.main(words)
    assert "20 requests: the runtime's tokens" in capsys.readouterr().out
    inputs = onnxruntime.InferenceSession(out).get_inputs()
    assert inputs[0].name == "frames" and inputs[0].type == "tensor(uint8)"
    assert "exists already" in refused(build_engines.main, *words)


def test_another_system_is_refused(tmp_path):
    bundle = open_bundle(make_v2a_bundle(tmp_path / "v2a"))
    with pytest.raises(ExportError, match="expected vab, which decodes tokens"):
        one_graph.build_one_graph(bundle)


def test_a_graph_that_gives_other_tokens_is_not_written(
    tiny_bundle, tmp_path, monkeypatch, refused
):
    monkeypatch.setattr(sampling_graph, "NEAR", np.float32(0))  # as if noise never decided
    out = tmp_path / "one.onnx"
    said = refused(build_engines.main, tiny_bundle, "--one-graph", out)
    assert "other tokens than the runtime" in said
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("model", shipped_models())
def test_frames_of_the_shipped_models_give_the_runtimes_tokens(model):
    bundle = open_bundle(model)
    graph = one_graph.build_one_graph(bundle, with_video=True)
    assert verified_graph.verify_video(graph, bundle) <= 1e-3

"""Two stages: what each is given and draws, windows and seeds, and pairs that do not belong."""

import itertools
import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from manifests import write_manifest
from recording_driver import through_buffers
from tiny_bundle import fine_config, make_bundle, tiny_config

import vab_rt
from vab_rt import GenerateOptions
from vab_rt.bundle import open_bundle
from vab_rt.decoding import decode_masked, guided
from vab_rt.errors import BundleError, OptionError
from vab_rt.options import COARSE_TO_FINE, TokenOptions, Tuning, fill_in
from vab_rt.pipeline import Pipeline
from vab_rt.sampling import sample_step
from vab_rt.systems.vab import FINE_SEED, CoarseToFine, Vab
from vab_rt.windows import Window

FAST = GenerateOptions(steps=3, fine_steps=4)
RESOLVED = fill_in(FAST, COARSE_TO_FINE, "model tiny")
COARSE, FINE = tiny_config(), fine_config()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("pair") / "tiny", fine=FINE)


@pytest.fixture(scope="module")
def pair(bundle) -> Pipeline:
    return vab_rt.load(bundle, threads=1)


def a_window(index=0, seed=0) -> Window:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((COARSE.num_frames, COARSE.visual_dim)).astype(np.float32)
    keep = slice(0, COARSE.num_samples)
    return Window(index, features, COARSE.num_frames, keep, is_last=True)


def test_one_bundle_holds_both_models(bundle, pair):
    manifest = open_bundle(bundle).manifest
    assert (manifest.model, manifest.fine) == (COARSE, FINE)
    assert isinstance(pair.system, CoarseToFine)
    assert open_bundle(bundle).needed_graphs == [
        "visual_encoder", "backbone", "fine_backbone", "codec_decoder",
    ]  # fmt: skip
    codec = manifest.graphs["codec_decoder"].contract
    assert codec.inputs[0].shape == ("B", 5, 100), "of all codebooks"


def test_the_coarse_stage_is_what_it_is_alone_and_the_fine_one_goes_on(pair):
    window = a_window()
    states = list(pair.system.decode(window, None, RESOLVED))
    assert [step for step, _ in states] == list(range(7)) and pair.system.num_steps(RESOLVED) == 7
    alone = Vab(COARSE, pair.system.engines)
    steps = TokenOptions(steps=3)
    for (_, both), (_, coarse) in zip(states, alone.decode(window, None, steps), strict=False):
        assert both.shape == (1, 5, 100) and both.dtype == np.int32
        assert np.array_equal(both[:, :2], coarse)
        assert (both[:, 2:] == FINE.mask_id).all()
    finished = states[2][1][:, :2]
    for step, both in states[3:]:
        assert np.array_equal(both[:, :2], finished), "given tokens never change"
        assert (both[:, 2:] == FINE.mask_id).any() == (step < 6)


def test_the_fine_stage_is_masked_decoding_of_its_own_tokens(pair):
    """Against the loop spelled out, with the reference sampler and the seed that is documented."""
    window, options = a_window(), TokenOptions(steps=2, fine_steps=5, seed=2**64 - 3)
    *_, (_, found) = pair.system.decode(window, None, options)
    given = {"coarse": found[:, :2], "features": window.features[None]}
    stage = TokenOptions(steps=5)
    logits = guided(pair.system.engines["fine_backbone"], given, (1.0, 0.0))
    seeds = np.array([(2**64 - 3 + FINE_SEED) % 2**64], np.uint64)
    masked = np.full((1, 3, 100), FINE.mask_id, np.int32)
    *_, (_, expected) = decode_masked(logits, masked, seeds, stage, sample_step)
    assert np.array_equal(found[:, 2:], expected)


def test_the_stages_do_not_draw_the_same_numbers():
    """Nor does any window of a clip: its seed is i strides on."""
    stride, back = 0x9E3779B97F4A7C15, pow(0x9E3779B97F4A7C15, -1, 2**64)
    windows = [FINE_SEED * back % 2**64, -FINE_SEED * back % 2**64]
    assert stride * windows[0] % 2**64 == FINE_SEED and min(windows) > 2**60


def test_defaults_are_the_papers_steps(pair):
    for overrides, expected in ((GenerateOptions(), 36), (GenerateOptions(fine_steps=24), 24)):
        options = pair.system.options(overrides)
        assert options == TokenOptions(fine_steps=expected)
        assert pair.system.num_steps(options) == 16 + expected


def test_a_bundle_may_recommend_its_own(tmp_path):
    folder = make_bundle(tmp_path / "pair", fine=FINE)
    own = Tuning(fine_steps=7, guidance=2.0)
    write_manifest(folder, COARSE, fine=FINE, options=own)
    assert json.loads((folder / "vab.json").read_text())["options"] == {
        "fine_steps": 7, "guidance": 2.0,
    }  # fmt: skip
    system = vab_rt.load(folder, threads=1).system
    assert system.num_steps(system.options(GenerateOptions())) == 16 + 7
    options = system.options(GenerateOptions(guidance=3.0))
    assert (options.fine_steps, options.guidance, options.temperature) == (7, 3.0, 0.8)


def test_one_stage_has_no_use_for_fine_steps(pipeline, videos):
    with pytest.raises(OptionError, match="fine_steps is 3, which model tiny has no use for"):
        pipeline.generate(videos(25), GenerateOptions(fine_steps=3))


@pytest.mark.parametrize("stage", ["config", "fine_config"])
@pytest.mark.parametrize("guidance", [0.5, 3.0])
def test_guidance_that_either_stage_has_not_learned_is_refused(pair, stage, guidance):
    config = msgspec.structs.replace(getattr(pair.system, stage), max_guidance=2.5)
    system = replace(pair.system, **{stage: config})
    with pytest.raises(OptionError, match=f"guidance is {guidance:g}, expected 1 to 2.5"):
        system.options(GenerateOptions(guidance=guidance))
    assert system.options(GenerateOptions(guidance=2.0)).guidance == 2


def test_the_command_takes_steps_of_both_stages(run, bundle, videos, tmp_path):
    words = [videos(50), tmp_path / "a.wav", "--model", bundle, "--json", "--steps", 2]
    result = run("generate", *words, "--fine-steps", 3)
    assert result.code == 0 and json.loads(result.out)["model"] == "tiny"
    result = run("info", bundle)
    assert "5 x 100 of 16" in result.out, "of all codebooks"
    assert "predicts all codebooks but the first 2" in result.out
    assert "fine_backbone   coarse int32 [B, 2, 100], tokens int32 [B, 3, 100]" in result.out


def test_windows_carry_coarse_and_fine_tokens_over(pair, videos):
    shared = COARSE.num_overlap_hops
    steps = list(pair.generate_steps(videos(200), FAST))
    assert [(s.window, s.step) for s in steps] == list(itertools.product(range(6), range(7)))
    assert {s.num_steps for s in steps} == {7}
    last = [s.state for s in steps if s.audio is not None]
    assert len(last) == 6
    for before, after in itertools.pairwise(last):
        assert np.array_equal(before[:, -shared:], after[:, :shared])
        assert not np.array_equal(before, after)
    carried = steps[7].state  # the first step of the second window
    assert np.array_equal(carried[:, :shared], last[0][:, -shared:])


def test_a_long_video_is_as_long_as_it_is_and_the_same_every_time(pair, videos):
    first, again, other = (
        pair.generate(videos(200), GenerateOptions(steps=3, fine_steps=4, seed=seed)).samples
        for seed in (1, 1, 2)
    )
    assert first.shape == (200 * 640,)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_clip_does_not_depend_on_the_batch(pair):
    features = np.concatenate([a_window(seed=i).features[None] for i in range(3)])
    masked = np.full((3, 5, 100), FINE.mask_id, np.int32)
    masked[1, :, :30] = 3
    seeds = np.array([5, 6, 7], np.uint64)
    *_, (_, together) = pair.system.decode_tokens(features, masked, seeds, RESOLVED)
    assert (together[1, :, :30] == 3).all()
    for b in range(3):
        one = slice(b, b + 1)
        *_, (_, alone) = pair.system.decode_tokens(features[one], masked[one], seeds[one], RESOLVED)
        assert np.array_equal(together[b], alone[0])


@pytest.mark.parametrize("stage", ["backbone", "fine_backbone"])
def test_both_stages_follow_the_picture_and_guidance(pair, stage):
    seen = []

    def watched(**inputs):
        seen.append(inputs["conditional"].tolist())
        return pair.system.engines[stage](**inputs)

    system = replace(pair.system, engines=pair.system.engines.with_graphs(**{stage: watched}))
    *_, (_, one) = system.decode(a_window(seed=1), None, RESOLVED)
    assert set(map(tuple, seen)) == {(1.0, 0.0)}
    *_, (_, other) = pair.system.decode(a_window(seed=2), None, RESOLVED)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("coarse", "fine", "said"),
    [
        (fine_config(), None, "tiny-fine predicts only .* first 2, expected one that .* all"),
        (tiny_config(), fine_config(given_codebooks=1), "goes on from 1 codebooks, expected 2"),
        (tiny_config(), fine_config(codebook_size=32), "has codebook_size 32, expected 16 as tiny"),
        (tiny_config(), fine_config(visual_dim=7), "has visual_dim 7, expected 6 as tiny has"),
        (tiny_config(), fine_config(motion_dim=2), "has motion_dim 2, expected 0 as tiny has"),
        (tiny_config(), fine_config(codec="dac"), "has codec dac, expected spectral as tiny has"),
        (tiny_config(), tiny_config(), "goes on from 0 codebooks, expected 2"),
    ],
)
def test_models_that_do_not_make_a_system_are_refused(tmp_path, coarse, fine, said):
    more = {} if fine is None else {"fine": fine}
    with pytest.raises(BundleError, match=said):
        write_manifest(tmp_path, coarse, **more)


def edited(bundle, tmp_path, **changes):
    """A copy whose manifest says something else; None removes a key."""
    content = json.loads((bundle / "vab.json").read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vab.json").write_text(json.dumps(content))
    return tmp_path


def test_a_fine_model_alone_in_a_manifest_is_refused(bundle, tmp_path):
    content = json.loads((bundle / "vab.json").read_text())
    alone = edited(bundle, tmp_path, model=content["fine"], fine=None)
    with pytest.raises(BundleError, match=r"vab\.json: model tiny-fine predicts only"):
        vab_rt.load(alone)


def test_a_pair_without_its_graph_is_refused(bundle, tmp_path):
    content = json.loads((bundle / "vab.json").read_text())
    del content["graphs"]["fine_backbone"]
    with pytest.raises(BundleError, match="has no graph fine_backbone, expected visual_encoder"):
        open_bundle(edited(bundle, tmp_path, graphs=content["graphs"]))


def test_a_graph_for_a_model_that_is_not_there_is_refused(bundle, tmp_path):
    with pytest.raises(BundleError, match="has a graph 'fine_backbone', expected only"):
        open_bundle(edited(bundle, tmp_path, fine=None))


def test_an_unknown_key_of_the_fine_model_is_named(bundle, tmp_path):
    content = json.loads((bundle / "vab.json").read_text())
    folder = edited(bundle, tmp_path, fine=content["fine"] | {"stages": 2})
    with pytest.raises(BundleError, match=r"unknown field `stages` - at `\$.fine`; .*codebook"):
        open_bundle(folder)


def test_on_a_gpu_both_stages_stay_there(launch, bundle, videos):
    """The last step of each is seen, and the sound is the CPU's."""
    options = "vab_rt.GenerateOptions(steps=3, fine_steps=4, seed=5)"
    found = through_buffers(launch, bundle, videos(200), options)
    length, difference, device, steps, _ = found
    assert (length, device) == (200 * 640, "cuda")
    assert difference < 1e-6
    assert steps == "[(2, False), (6, True)]"

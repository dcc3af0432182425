"""A preview is the first step of the finished sound, which keeps what that step was sure of."""

import dataclasses

import numpy as np
import pytest

import vab_rt
from vab_rt.audio import Audio
from vab_rt.errors import OptionError
from vab_rt.pipeline import Pipeline


@pytest.mark.parametrize("num_frames", [3, 50, 130])  # 5.2 s in four windows
@pytest.mark.parametrize("stages", [1, 2])
def test_what_is_finished_is_as_it_would_be_alone(
    pipeline, coarse_to_fine, videos, stages, num_frames
):
    model, wishes = (pipeline, coarse_to_fine)[stages - 1], {"seed": 5, "steps": 4}
    steps = list(model.generate_steps(videos(num_frames), with_preview=True, **wishes))
    assert model.gather(steps) == model.generate(videos(num_frames), **wishes)
    previews = [i for i, step in enumerate(steps) if step.preview is not None]
    assert [steps[i].window for i in previews] == list(range(1 + steps[-1].window))
    for i in previews:
        assert steps[i].audio is None and steps[i].take is None
        assert (steps[i + 1].window, steps[i + 1].step) == (steps[i].window, 0)
    made = [step.position()[0] for step in steps]
    assert made == sorted(made) and (made[0], made[-1]) == (0, steps[-1].position()[1])
    whole = np.concatenate([steps[i].preview for i in previews])
    assert np.array_equal(whole, model.preview(videos(num_frames), **wishes).samples)


def test_what_the_first_step_is_sure_of_stays(pipeline, videos):
    steps = list(pipeline.generate_steps(videos(50), with_preview=True, seed=3, steps=6))
    preview, first, *_, last = (step.state for step in steps)
    mask_id = pipeline.system.config.mask_id
    sure = first != mask_id
    assert 0 < sure.sum() < sure.size and (preview != mask_id).all()
    assert np.array_equal(first[sure], preview[sure])
    assert np.array_equal(last[sure], preview[sure])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_preview_and_the_first_step_are_one_run(pipeline, videos, guidance):
    runs = []

    def backbone(**inputs):
        runs.append(inputs)
        return pipeline.system.engines["backbone"](**inputs)

    engines = pipeline.system.engines.with_graphs(backbone=backbone)
    other = Pipeline(dataclasses.replace(pipeline.system, engines=engines))
    list(other.generate_steps(videos(50), with_preview=True, steps=4, guidance=guidance))
    assert len(runs) == 4


def test_a_preview_does_not_wait_for_the_next_window(tiny_bundle, videos):
    model, runs = vab_rt.load(tiny_bundle, threads=2), []
    run = model.system.engines["backbone"]
    engines = model.system.engines.with_graphs(backbone=lambda **x: (runs.append(x), run(**x))[1])
    model.system = dataclasses.replace(model.system, engines=engines)
    steps = model.generate_steps(videos(130), with_preview=True, steps=3, guidance=1.0)
    begun = [len(runs) for step in steps if step.preview is not None]
    assert begun == [1, 4, 8, 12]  # the first window's preview is its first step, too


def test_the_command_writes_it(run, tiny_bundle, tmp_path, videos):
    words = ["generate", videos(25), tmp_path / "out.wav", "--model", tiny_bundle, "--preview"]
    assert run(*words, "--seed", 7).code == 0
    preview = vab_rt.load(tiny_bundle, threads=1).preview(videos(25), seed=7)
    assert Audio.load(tmp_path / "out.wav").take.tokens.tolist() == preview.take.tokens.tolist()
    for wrong, told in (("--candidates", "is of one sound"), ("--fine-steps", "has no use for")):
        said = run(*words, "--force", wrong, 2)
        assert said.code == 1 and told in said.err


def test_what_has_none_says_so(v2a_bundle, videos):
    model = vab_rt.load(v2a_bundle, threads=1)
    for ask in (model.preview, lambda video: model.generate_steps(video, with_preview=True)):
        with pytest.raises(OptionError, match="has no preview"):
            ask(videos(3))

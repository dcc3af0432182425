"""The loop of every training stage stops on time and goes on where it stopped."""

import itertools
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training import fitting
from training.fitting import EMA, averaged_weights, cosine_lr, fit, warm_up_share
from vab_rt.errors import DataError, OptionError, OutputError


def make_parts():
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 2)
    return {"module": module, "average": EMA(module, 0.5)}


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    minutes = itertools.count(step=60)  # one from each look at the clock to the next
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=lambda: next(minutes)))
    parts, seen = make_parts(), []

    def step(i, progress):
        seen.append(i)
        with torch.no_grad():
            parts["module"].weight += 1
        parts["average"].update(parts["module"])
        return {"loss": 1.0}

    list(fit(tmp_path / "run.pt", parts, step, minutes=5))
    weight, first = parts["module"].weight.clone(), len(seen)
    assert 1 < first < 6
    parts = make_parts()
    list(fit(tmp_path / "run.pt", parts, step, minutes=5))
    assert len(seen) == first, "the budget was spent already"
    torch.testing.assert_close(parts["module"].weight, weight)
    list(fit(tmp_path / "run.pt", parts, step, minutes=10))
    assert seen == list(range(len(seen))) and first < len(seen) < 11
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == len(seen)


def test_losses_are_means_over_the_reported_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "REPORT_EVERY", 2)
    losses = iter(range(10**9))
    step = lambda i, p: {"loss": float(next(losses))}
    reports = fit(tmp_path / "run.pt", make_parts(), step, None, steps=9)
    assert next(reports)[2] == {"loss": 0.5}
    assert next(reports)[2] == {"loss": 2.5}
    reports.close()


def test_learning_rate_warms_up_and_falls_to_zero():
    assert cosine_lr(0, 1.0, 0.1) == 0
    assert cosine_lr(0.05, 1.0, 0.1) == pytest.approx(0.5)
    assert cosine_lr(0.1, 1.0, 0.1) == pytest.approx(1)
    assert cosine_lr(0.55, 1.0, 0.1) == pytest.approx(0.5)
    assert cosine_lr(1, 1.0, 0.1) == pytest.approx(0)


def test_average_trails_the_weights_and_forgets_the_beginning_sooner():
    parts = make_parts()
    average, before = parts["average"], parts["module"].weight.detach().clone()
    with torch.no_grad():
        parts["module"].weight += 1
    average.update(parts["module"])
    torch.testing.assert_close(average.weights["weight"], before + 10 / 11)
    average.count = 10**6
    average.update(parts["module"])
    torch.testing.assert_close(average.weights["weight"], before + 1 - (1 / 11) * 0.5)


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_minutes_of_no_length_are_refused(minutes, tmp_path):
    with pytest.raises(OptionError, match="expected more than 0"):
        next(fit(tmp_path / "run.pt", make_parts(), lambda i, p: {}, minutes))


def test_a_place_that_cannot_be_written_is_told_before_any_step(tmp_path):
    (tmp_path / "file").write_text("in the way")
    seen = []
    with pytest.raises(OutputError, match=r"file/run could not be written .*choose another"):
        list(fit(tmp_path / "file" / "run" / "a.pt", make_parts(), lambda i, p: seen.append(i), 1))
    assert not seen


@pytest.mark.parametrize(
    ("content", "message"),
    [({"vab": {}, "step": 1}, "holds vab, step, expected the average"), ([1], "holds a list")],
)
def test_a_file_of_no_stage_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(DataError, match=rf"other\.pt {message}"):
        averaged_weights(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("warm_up", "steps", "expected"),
    [
        (0.0, None, 0.0),
        (0.3, None, 0.3),
        (0.3, 10, 0.3),
        (1, 10, 0.1),
        (100_000, 495_000, pytest.approx(0.202, abs=1e-3)),
        (10, 10, r"is 10 and the run has 10 steps, .* or at most 9 steps"),
        (1, 1, r"the run has 1 steps, expected a share of the run, such as 0\.03$"),
        (1, None, "minutes are its budget"),
        (-0.1, 10, r"is -0\.1"),
        (float("nan"), 10, "is nan"),
    ],
)
def test_a_warm_up_is_a_share_or_a_number_of_steps(warm_up, steps, expected):
    if isinstance(expected, str):
        with pytest.raises(OptionError, match=expected):
            warm_up_share(warm_up, steps, "x")
    else:
        assert warm_up_share(warm_up, steps, "x") == expected

"""The shipped model of real kinds: what it is told is what is heard, as often as ever."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training.evaluation.evaluator import EvalConfig
from training.evaluation.kind_ear import load_ear, told_share
from training.evaluation.models import open_any_model

SLACK = 0.25
"""Five of twenty: machines round differently, and a model draws other tokens then."""


def test_what_it_is_told_is_what_is_heard():
    ear, pipeline = load_ear(), open_any_model(EvalConfig(bundle="real")).pipeline
    assert set(ear.told) <= set(pipeline.config.kind_names)
    assert ear.right >= 0.5, "made with a model that does not know its kinds"
    assert told_share(pipeline, ear.probe, ear.told) >= ear.right - SLACK

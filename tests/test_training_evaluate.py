"""The evaluation of generation: what it reads, and what it reports beside its bounds."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training import data, foleyworld
from training.classifier import AudioClassifier, colour
from training.evaluate import Judged, evaluate_generation, film
from vab_rt.bundle import open_bundle
from vab_rt.config import GenerateOptions


@pytest.fixture(scope="module")
def scenes():
    return [foleyworld.make_scene(seed) for seed in foleyworld.clip_seeds("validation", 0, 3)]


def test_a_film_read_back_is_what_training_rendered(scenes):
    config = open_bundle().config
    size = config.image_size
    rendered = scenes[0].frames(data.frame_times(config), size, size)
    read = film(scenes[0], open_bundle())
    assert read.shape == rendered.shape
    assert np.abs(read.astype(int) - rendered).mean() < 8  # levels of 255: H.264 and resizing


def test_every_measure_stands_beside_every_bound(scenes):
    torch.manual_seed(0)
    judge = AudioClassifier().eval()
    result = evaluate_generation(open_bundle(), judge, scenes, GenerateOptions(steps=2))
    measures = {"class_agreement", "onset_f1_100ms", "onset_f1_50ms", "fad", "kld"}
    assert measures | {"embedding", "clips"} <= set(result)
    bounds = result["bounds"]
    assert set(bounds) == {"ground_truth", "reconstruction", "shuffled", "unconditional"}
    assert all(measures <= set(bound) for bound in bounds.values())
    assert bounds["ground_truth"]["kld"] == 0 and bounds["ground_truth"]["fad"] < 1e-3
    assert bounds["reconstruction"]["fad"] > 0 and result["clips"] == 3


def test_another_clips_sound_is_judged_against_its_own_scene(scenes):
    class Listener(AudioClassifier):
        """Right about every true sound: it knows them by their loudness."""

        def embed(self, audio):
            known = torch.tensor([scene.audio().std() for scene in scenes])
            return torch.nn.functional.one_hot((audio.std(1)[:, None] - known).abs().argmin(1), 3)

    labels = [foleyworld.CLASSES.index(scene.truth.classes[0]) for scene in scenes]

    class Name(torch.nn.Module):
        def forward(self, known):
            return torch.eye(8)[torch.tensor(labels)][known.argmax(1)] * 20

    judge = Listener()
    judge.head = Name()
    true = np.stack([scene.audio() for scene in scenes])
    judged = Judged(judge, scenes, true)
    assert judged.measure(true)["class_agreement"] == 1
    expected = np.mean([a == b for a, b in zip(labels, np.roll(labels, 1), strict=True)])
    assert judged.measure(np.roll(true, 1, 0))["class_agreement"] == pytest.approx(
        expected, abs=1e-3
    )


def test_colouring_keeps_length_and_finiteness():
    audio = torch.from_numpy(np.stack([foleyworld.make_scene(i).audio() for i in range(2)]))
    coloured = colour(audio, np.random.default_rng(0))
    assert coloured.shape == audio.shape and torch.isfinite(coloured).all()
    assert (coloured - audio).abs().max() > 0.01

"""Classification: from sound, picture or both, fine-tuned or by a probe, and its sampling."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
from checkpoints import coded_vab, short_config

from training.classification import (
    ClassificationSettings,
    Classifier,
    class_frequency,
    class_loss,
    classification_result,
    command_line,
    finetune_classifier,
    load_classifier,
    training_batch,
)
from training.command import settings_of
from training.datasets.clips import TokenisedClips
from vab_rt.errors import DataError, ExportError, OptionError

QUICK = ClassificationSettings(
    batch=16, epochs=25, peak_rate=2e-2, head_rate=3e-2, dropout=0, mixup=0.2
)


@pytest.fixture(scope="module")
def config():
    return short_config(layers=2, expert_layers=1)


@pytest.fixture(scope="module")
def vab(config):
    return coded_vab(config)


@pytest.fixture(scope="module")
def clips(config):
    """Four classes: sound tells the first from the last two, the picture the odd from the even."""
    random = np.random.default_rng(0)
    kinds = np.arange(64) % 4
    tokens = (
        random.integers(0, 8, (64, 2, config.num_token_steps)) + 8 * (kinds // 2)[:, None, None]
    )
    seen = np.eye(8)[kinds % 2][:, None].repeat(config.num_frames, 1)
    return TokenisedClips(
        tokens=tokens.astype(np.int16),
        features=(seen + 0.1 * random.standard_normal(seen.shape)).astype(np.float32),
        labels=np.eye(4, dtype=np.float32)[kinds],
    )


@pytest.fixture(scope="module")
def results(vab, clips, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    found = {}
    for modality in ("a", "v", "av"):
        list(finetune_classifier(folder, vab, clips, modality, QUICK, minutes=None))
        classifier = load_classifier(folder / f"classify-{modality}.pt", config, modality)
        found[modality] = classification_result(classifier, clips)
    return folder, found


def test_both_modalities_tell_what_neither_tells_alone(results):
    _, found = results
    assert found["av"]["accuracy"] > 0.95 and found["av"]["map"] > 0.95
    assert 0.3 < found["a"]["accuracy"] < 0.75 and 0.3 < found["v"]["accuracy"] < 0.75
    low, high = found["av"]["accuracy_95"]
    assert low < found["av"]["accuracy"] <= high + 1e-4


def test_a_probe_trains_the_head_alone(vab, clips, config, tmp_path):
    list(finetune_classifier(tmp_path, vab, clips, "av", QUICK, minutes=None, probe=True))
    probe = load_classifier(tmp_path / "probe-av.pt", config, "av")
    for name, weight in probe.encoder.vab.state_dict().items():
        torch.testing.assert_close(weight, vab.state_dict()[name])
    assert probe.head.weight.abs().max() > 0.1
    assert classification_result(probe, clips)["accuracy"] > 0.4


def test_one_modality_does_not_read_the_other(vab, clips):
    batch = clips.take(np.arange(4))
    tokens, features = torch.from_numpy(batch.tokens), torch.from_numpy(batch.features)
    for modality, unchanged in (("a", (tokens, -features)), ("v", (15 - tokens, features))):
        classifier = Classifier(vab, modality, 4).eval()
        torch.nn.init.normal_(classifier.head.weight)
        torch.testing.assert_close(classifier(tokens, features), classifier(*unchanged))
    classifier = Classifier(vab, "av", 4).eval()
    torch.nn.init.normal_(classifier.head.weight)
    for other in ((tokens, -features), (15 - tokens, features)):
        assert (classifier(tokens, features) - classifier(*other)).abs().max() > 1e-3


def test_rare_classes_are_drawn_as_often_as_common_ones(clips):
    labels = np.zeros((64, 2), np.float32)
    labels[:60, 0] = labels[60:, 1] = 1
    uneven = TokenisedClips(tokens=clips.tokens, features=clips.features, labels=labels)
    frequency = class_frequency(uneven, 0)
    assert frequency == pytest.approx([60 / 64, 4 / 64], abs=0.02)
    shares = {}
    for balanced in (True, False):
        settings = ClassificationSettings(batch=200, balanced=balanced)
        batch = training_batch(uneven, 0, settings, frequency, np.random.default_rng(0))
        shares[balanced] = batch.labels[:, 1].mean()
    assert 0.35 < shares[True] < 0.65 and shares[False] < 0.15


def test_losses_are_those_of_their_names():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    plain = ClassificationSettings(label_smoothing=0.0)
    loss, right = class_loss(logits, labels, plain)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert loss == expected and right == 0.5
    loss, _ = class_loss(logits, labels, msgspec.structs.replace(plain, loss="ce"))
    log_p = logits.log_softmax(1)
    torch.testing.assert_close(loss, -(log_p[0, 0] / 2 + log_p[0, 2] / 2 + log_p[1, 0]) / 2)
    smooth, _ = class_loss(logits, labels, ClassificationSettings())
    assert smooth != expected


def test_single_labels_train_with_cross_entropy(vab, clips, tmp_path):
    settings = msgspec.structs.replace(QUICK, loss="ce", epochs=8)
    *_, (_, _, last) = finetune_classifier(tmp_path, vab, clips, "av", settings, minutes=None)
    assert last["accuracy"] > 0.6


def test_clips_without_classes_are_refused(vab, clips, tmp_path):
    for labels in (np.zeros((64, 0), np.float32), np.zeros((64, 3), np.float32)):
        bare = TokenisedClips(tokens=clips.tokens, features=clips.features, labels=labels)
        with pytest.raises(DataError, match="no classes, expected labels"):
            list(finetune_classifier(tmp_path, vab, bare, "a", QUICK, minutes=None))


def test_other_classes_and_other_architectures_are_refused(results, clips, config):
    folder, _ = results
    classifier = load_classifier(folder / "classify-a.pt", config, "a")
    five = TokenisedClips(
        tokens=clips.tokens, features=clips.features, labels=np.zeros((64, 5), np.float32)
    )
    with pytest.raises(DataError, match="have 5 classes, expected 4"):
        classification_result(classifier, five)
    with pytest.raises(ExportError, match="does not belong to these weights"):
        load_classifier(
            folder / "classify-a.pt", msgspec.structs.replace(config, width=32, heads=2), "a"
        )


def test_a_file_that_is_no_classifier_is_refused(config, tmp_path):
    average = {"weights": {"scale": torch.zeros(1)}, "count": 1}
    torch.save({"average": average, "step": 1}, tmp_path / "other.pt")
    with pytest.raises(ExportError, match="no head.weight"):
        load_classifier(tmp_path / "other.pt", config, "a")


@pytest.mark.parametrize(("head_rate", "expected"), [(None, 1e-3), (5e-3, 5e-3)])
def test_the_head_has_the_rate_of_the_rest_unless_it_is_given_its_own(
    vab, clips, tmp_path, head_rate, expected
):
    settings = ClassificationSettings(
        batch=32, epochs=1, peak_rate=1e-3, head_rate=head_rate, warm_up=1
    )  # two steps, the second at the peak
    list(finetune_classifier(tmp_path, vab, clips, "av", settings, minutes=None))
    saved = torch.load(tmp_path / "classify-av.pt", weights_only=True)
    rates = [group["lr"] for group in saved["optimizer"]["param_groups"]]
    assert rates == pytest.approx([expected, 1e-3])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"epochs": 2, "batch": 60, "balanced": True}),
        (["--preset", "as-20k"], {"epochs": 10, "batch": 60, "balanced": False}),
        (["--preset", "vggsound"], {"epochs": 5, "batch": 48, "balanced": True}),
        (["--preset", "vggsound", "--epochs", "3"], {"epochs": 3, "batch": 48, "balanced": True}),
    ],
)
def test_the_paper_has_other_settings_for_other_data(words, expected):
    words = ["ckpt.pt", "--out", "run", "--shards", "clips", *words]
    settings = settings_of(command_line(words).parse_args(words), ClassificationSettings)
    found = msgspec.structs.asdict(settings)
    assert {key: found[key] for key in expected} == expected
    assert (found["peak_rate"], found["head_rate"], found["warm_up"]) == (1e-4, None, 0)


def test_an_empty_batch_is_refused():
    with pytest.raises(OptionError, match="batch is 0"):
        ClassificationSettings(batch=0)

"""Embeddings of sound: what each returns, and what is said when it cannot be opened."""

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training.evaluation.classifier import AudioClassifier
from training.evaluation.embeddings import (
    ClassifierEmbedding,
    VGGish,
    open_embedding,
    vggish_log_mel,
    vggish_network,
)
from vab_rt.errors import BackendError, DataError, ExportError, OptionError


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return AudioClassifier().eval()


def test_the_classifier_gives_a_vector_and_probabilities(classifier):
    embedding = open_embedding("classifier", classifier)
    assert isinstance(embedding, ClassifierEmbedding) and "FoleyWorld" in embedding.name
    vectors, probabilities = embedding(np.zeros(16_000, np.float32))
    assert vectors.shape == (1, 256) and probabilities.shape == (16,)
    assert probabilities.sum() == pytest.approx(1)


def test_vggish_hears_a_tone_in_its_band():
    """Bands are equally wide in mel: 1 kHz lies at (1000 - 185) / (2840 - 185) of the way."""
    times = np.arange(16_000) / 16_000
    tone = torch.from_numpy(np.sin(2 * np.pi * 1000 * times).astype(np.float32))
    log_mel = vggish_log_mel(tone)
    assert log_mel.shape == (98, 64)
    assert log_mel.mean(0).argmax() == round(65 * (1000.0 - 185.2) / (2840.0 - 185.2)) - 1
    assert vggish_log_mel(torch.zeros(16_000)).allclose(torch.tensor(0.01).log())


def test_vggish_has_the_names_of_its_published_weights():
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in vggish_network().state_dict().items()}
    assert shapes["features.0.weight"] == (64, 1, 3, 3)
    assert shapes["features.13.weight"] == (512, 512, 3, 3)
    assert shapes["embeddings.0.weight"] == (4096, 12288)
    assert shapes["embeddings.4.bias"] == (128,)
    assert len(shapes) == 18


def test_vggish_gives_a_vector_for_each_patch():
    class Shortened(VGGish):
        """Its front end and reshaping, around a network of one layer."""

        def __init__(self):
            self.network = {
                "features": torch.nn.MaxPool2d(16),
                "embeddings": torch.nn.Linear(6 * 4, 128),
            }

    sound = np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    vectors, probabilities = Shortened()(sound)
    assert vectors.shape == (10, 128) and probabilities is None
    with pytest.raises(DataError, match="too short for VGGish"):
        Shortened()(sound[:10_000])


@pytest.mark.parametrize("text", ["vgg", "vggish", "classifier:file", "panns:file.pt", ""])
def test_unknown_embeddings_are_refused(text, classifier):
    with pytest.raises(OptionError, match="expected classifier, vggish:FILE, passt:FILE"):
        open_embedding(text, classifier)


def test_weights_that_do_not_fit_are_refused(classifier, tmp_path):
    with pytest.raises(DataError, match=r"none\.pth cannot be read"):
        open_embedding(f"vggish:{tmp_path / 'none.pth'}", classifier)
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(DataError, match="holds a Tensor, expected a state_dict"):
        open_embedding(f"vggish:{tmp_path / 'tensor.pth'}", classifier)
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ExportError, match=r"embeddings\.0\.bias is missing"):
        open_embedding(f"vggish:{tmp_path / 'other.pth'}", classifier)


@pytest.mark.parametrize(
    ("text", "library"), [("passt:x.pt", "hear21passt"), ("clap:x", "transformers")]
)
def test_a_missing_library_is_named_with_its_pip_line(text, library, classifier, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendError, match=f"pip install {library}"):
        open_embedding(text, classifier)


def test_a_folder_without_a_clap_is_refused(classifier, tmp_path):
    pytest.importorskip("transformers", reason="CLAP needs transformers")
    with pytest.raises(DataError, match=r"has no config\.json"):
        open_embedding(f"clap:{tmp_path}", classifier)


def test_a_damaged_clap_is_refused_in_one_line(classifier, tmp_path):
    pytest.importorskip("transformers", reason="CLAP needs transformers")
    (tmp_path / "config.json").write_bytes(b"{")
    with pytest.raises(DataError, match="expected a whole CLAP") as error:
        open_embedding(f"clap:{tmp_path}", classifier)
    assert "\n" not in str(error.value)


def test_a_clap_without_ears_is_refused(classifier, tmp_path):
    transformers = pytest.importorskip("transformers", reason="CLAP needs transformers")
    text = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sound = {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1]}
    config = transformers.ClapConfig(
        text_config={**text, "intermediate_size": 8, "max_position_embeddings": 40},
        audio_config={**sound, "num_attention_heads": [1, 2]},
        projection_dim=24,
    )
    model = transformers.ClapModel(config)
    transformers.ClapFeatureExtractor().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert open_embedding(f"clap:{tmp_path}", classifier).name == f"CLAP ({tmp_path.name})"
    weights = model.state_dict()
    lacking = sorted(name for name in weights if name.startswith("audio_projection"))
    model.save_pretrained(tmp_path, state_dict={k: weights[k] for k in weights if k not in lacking})
    with pytest.raises(DataError, match=rf"lacks {lacking[0]} \({len(lacking)} in all\)"):
        open_embedding(f"clap:{tmp_path}", classifier)

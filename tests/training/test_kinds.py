"""The kinds head: what a few pictures teach it, what it leaves alone, and what it keeps."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
import numpy as np
from checkpoints import tiny_config

from training.image_encoder import image_encoder
from training.kinds import KindsEncoder, imagined_features, read_table, train_kinds
from vab_rt.errors import DataError, OptionError

KINDS = ("checks", "dog", "stripes", "ambience")
SHOWN = ("stripes", "checks", "noise") * 3
CONFIG = tiny_config(
    image_encoder="efficientnet-lite0", image_size=224, kinds=KINDS, visual_dim=len(KINDS) + 8
)


def picture(kind: str, seed: int) -> np.ndarray:
    """Stripes, checks, or noise, of some colours and widths."""
    random = np.random.default_rng(seed)
    dark, light = random.integers(0, 90, 3), random.integers(160, 256, 3)
    bars = np.arange(224) // random.integers(8, 20) % 2
    pattern = {
        "stripes": np.broadcast_to(bars, (224, 224)),
        "checks": bars[:, None] ^ bars,
        "noise": random.integers(0, 2, (224, 224)),
    }[kind]
    return np.where(pattern[..., None] > 0, light, dark).astype(np.uint8)


@pytest.fixture(scope="module")
def encoder() -> KindsEncoder:
    pictures = ((picture(kind, seed), kind) for seed, kind in enumerate(SHOWN))
    return train_kinds(CONFIG, pictures, {207: "dog", 208: "dog", 1: "horse"})


@torch.no_grad()
def test_pictures_that_it_has_not_seen_get_their_kind(encoder):
    frames = torch.from_numpy(
        np.stack([picture(k, 90) for k in ("checks", "checks", "stripes", "noise")])
    )
    features = encoder(frames)
    assert features.shape == (4, CONFIG.image_dim)
    probabilities = features[:, : len(KINDS)]
    assert torch.allclose(probabilities.sum(1), torch.ones(4), atol=1e-5)
    assert [KINDS[i] for i in probabilities.argmax(1)] == [
        "checks",
        "checks",
        "stripes",
        "ambience",
    ]
    assert 0.3 < features[:, len(KINDS) :].norm(dim=1).mean() < 3


@torch.no_grad()
def test_a_kind_without_pictures_is_what_its_classes_of_imagenet_are(encoder):
    frames = torch.from_numpy(np.stack([picture("noise", 5)]))
    logits, feature = encoder.recogniser(frames)
    shares = torch.cat([logits, encoder.rows(feature)], 1).softmax(1)
    assert torch.isclose(encoder(frames)[0, 1], shares[0, [207, 208]].sum(), rtol=1e-4)
    assert encoder.kind_of_class[1] == len(KINDS) - 1  # a kind that the model does not have


@torch.no_grad()
def test_what_imagenets_classes_know_stays(encoder):
    """Rows that have learned nine pictures take no pictures of the recogniser's own classes."""
    shown = np.stack([picture(kind, seed) for seed, kind in enumerate(SHOWN)])
    _, features = encoder.recogniser(torch.from_numpy(shown))
    torch.manual_seed(1)
    imagined = next(imagined_features(encoder, features, torch.tensor([2, 0, 3] * 3)))
    logits = encoder.recogniser.network._fc(imagined)
    alone = logits.softmax(1)
    assert alone.max(1).values.mean() > 0.5  # the recogniser is sure of what is imagined
    of_rows = torch.cat([logits, encoder.rows(imagined)], 1).softmax(1)[:, 1000:].sum(1)
    assert of_rows.mean() < 0.15


def test_the_frozen_weights_are_not_stored_and_come_back(encoder):
    weights = encoder.state_dict()
    assert {name.partition(".")[0] for name in weights} == {"rows", "reduce", "kind_of_class"}
    again = image_encoder(CONFIG).train()
    again.load_state_dict(weights)
    frames = torch.from_numpy(picture("checks", 7)[None])
    with torch.no_grad():
        assert torch.equal(again(frames), encoder(frames))  # also while a stage trains
    with pytest.raises(RuntimeError, match="rows.bias"):
        again.load_state_dict({n: x for n, x in weights.items() if n != "rows.bias"})


def test_a_model_without_kinds_or_room_for_them_is_refused():
    for changes in ({"kinds": ()}, {"visual_dim": len(KINDS)}):
        with pytest.raises(OptionError, match="correct kinds or visual_dim"):
            KindsEncoder(msgspec.structs.replace(CONFIG, **changes))


def test_pictures_that_all_look_alike_are_enough():
    encoder = train_kinds(CONFIG, [(picture("stripes", 0), "stripes")], {207: "dog"})
    with torch.no_grad():
        seen = encoder(torch.from_numpy(picture("stripes", 0)[None]))
    assert KINDS[seen[0, : len(KINDS)].argmax()] == "stripes" and seen.isfinite().all()


def test_no_picture_is_an_error():
    with pytest.raises(DataError, match="no pictures"):
        train_kinds(CONFIG, [], {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagenet_index,kind\n1000,dog\n", "line 2: imagenet_index is '1000'"),
        ("index,kind\n1,dog\n", "imagenet_index is ''"),
        ("imagenet_index,kind\n5,\n", "kind ''"),
        ("imagenet_index,kind\n5,dog\n5,cat\n", "line 3: 5 is 'cat' and 'dog' before"),
        ("imagenet_index,kind\n", "has no rows"),
        ("", "has no rows"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, text, message):
    path = tmp_path / "kinds.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_a_table_is_read(tmp_path):
    path = tmp_path / "kinds.csv"
    text = "imagenet_index,imagenet_name,kind,certainty\n7,cock,rooster,sure\n"
    path.write_text(text, "utf-8-sig")  # as spreadsheets do
    assert read_table(path) == {7: "rooster"}

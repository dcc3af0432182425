"""The card that an export writes, from the manifest and from what was measured."""

import json

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

import yaml
from tiny_bundle import make_bundle

from export.bundle_folder import folder_beside
from export.card import card_of, main, read_evaluations
from export.manifest import write_manifest
from vab_rt.bundle import open_bundle
from vab_rt.card import CARD, read_card

GENERATION = {
    "class_agreement": 0.907,
    "class_agreement_95": [0.867, 0.936],
    "fad": 2.83,
    "by_class": {"drum": 1.0, "bell": 0.5},
    "clips": 280,
    "bounds": {
        "ground_truth": {"class_agreement": 1.0, "class_agreement_95": [0.98, 1.0], "fad": 0.0}
    },
    "embedding": "classifier",
}
RETRIEVAL = {"clips": 500, "video_to_audio": {"r1": 0.5}, "audio_to_video": {"r1": 0.25}}


@pytest.fixture
def bundle(tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    manifest = open_bundle(folder).manifest
    provenance = {
        "data": "FoleyWorld,\n5000 clips",
        "codec_steps": "1707",
        "checkpoint_sha256": "b07e",
        "verified_backbone": "4.7e-06 off torch",
        "fp8_backbone": "3.1e-02",
    }
    write_manifest(folder, manifest.model, "fp32", "Apache-2.0", provenance)
    return folder


def test_the_card_says_what_the_manifest_says(bundle):
    before = open_bundle(bundle).manifest
    main([str(bundle)])
    after = open_bundle(bundle)
    after.verify()
    assert after.manifest.graphs == before.graphs and CARD in after.manifest.files
    text = (bundle / CARD).read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0" and "video-to-audio" in front["tags"]
    card = read_card(after)
    assert card.startswith("# tiny\n")
    trained, exported = card.split("## Licence")[0], card.split("## Its export")[1]
    assert "- data: FoleyWorld, 5000 clips\n- codec steps: 1707\n" in trained
    listed = "- checkpoint sha256: b07e\n- verified backbone: 4.7e-06 off torch\n"
    assert f"{listed}- fp8 backbone: 3.1e-02" in exported
    assert "## Licence\nApache-2.0\n" in card and "None are given here" in card


def test_measures_stand_in_tables(bundle, tmp_path):
    paths = []
    for task, result in (("generation", GENERATION), ("retrieval", RETRIEVAL)):
        paths.append(tmp_path / f"evaluation-{task}.json")
        paths[-1].write_text(json.dumps(result))
    main([str(bundle), *map(str, paths)])
    lines = read_card(open_bundle(bundle)).splitlines()
    begin = lines.index("`python -m training.evaluate generation`, 280 clips")
    assert lines[begin + 2 : begin + 8] == [
        "| of | the model | true sound |",
        "|---|---|---|",
        "| class agreement | 0.907 (0.867 to 0.936) | 1 (0.98 to 1) |",
        "| FAD | 2.83 | 0 |",
        "",
        "By class: drum 1, bell 0.5.",
    ]
    assert "`python -m training.evaluate retrieval`, 500 clips" in lines
    assert "| of | video to audio | audio to video |" in lines and "| R@1 | 0.5 | 0.25 |" in lines


def test_measures_of_another_form_are_left_out(bundle, tmp_path):
    odd = {"clips": 2, "fad": 1.5, "fad_95": [1], "bounds": [1], "by_class": 3, "kld": "low"}
    (tmp_path / "evaluation-generation.json").write_text(json.dumps(odd))
    main([str(bundle), str(tmp_path / "evaluation-generation.json")])
    lines = read_card(open_bundle(bundle)).splitlines()
    assert "| of | the model |" in lines and "| FAD | 1.5 |" in lines


def test_another_license_is_named_as_it_is(bundle):
    manifest = open_bundle(bundle).manifest
    license = 'codec: "CC-BY-NC-4.0"; transformer: Apache-2.0'
    manifest = write_manifest(bundle, manifest.model, "fp32", license, {})
    front = yaml.safe_load(card_of(manifest, {}).split("---")[1])
    assert front["license"] == "other" and front["license_name"] == license
    assert "## What it was trained on\nnot stated\n" in card_of(manifest, {})


def test_a_text_of_ones_own(bundle, tmp_path):
    (tmp_path / "mine.md").write_text("# Mine\n")
    main([str(bundle), "--card", str(tmp_path / "mine.md")])
    assert read_card(open_bundle(bundle)) == "# Mine"


def test_every_exported_bundle_has_one(tmp_path):
    with folder_beside(tmp_path / "out", force=False) as folder:
        make_bundle(folder)
    assert read_card(open_bundle(tmp_path / "out")).startswith("# tiny\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[1]", "holds list, expected the object"),
        ('{"format_version": 1}', "holds no clips, expected the object with measures"),
    ],
)
def test_measures_that_are_none(bundle, tmp_path, refused, content, message):
    path = tmp_path / "evaluation-x.json"
    if content is not None:
        path.write_text(content)
    before = (bundle / "vab.json").read_bytes()
    assert message in refused(main, bundle, path)
    assert (bundle / "vab.json").read_bytes() == before and not (bundle / CARD).exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 200_001])
def test_a_text_that_is_no_card(bundle, tmp_path, refused, content):
    (tmp_path / "mine.md").write_bytes(content)
    assert "expected" in refused(main, bundle, "--card", tmp_path / "mine.md")
    assert not (bundle / CARD).exists()


def test_tasks_are_named_by_their_files(tmp_path):
    (tmp_path / "evaluation-retrieval.json").write_text('{"clips": 2}')
    (tmp_path / "other.json").write_text('{"clips": 2}')
    paths = [tmp_path / "evaluation-retrieval.json", tmp_path / "other.json"]
    assert list(read_evaluations(paths)) == ["retrieval", "other"]

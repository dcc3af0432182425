"""The manifest of an export: written whole and sound, or not at all."""

import json
import shutil

import manifests
import pytest
from tiny_bundle import fine_config, make_bundle, tiny_config
from tiny_v2a import make_v2a_bundle, tiny_v2a_config

from export.manifest import add_file, write_manifest
from vab_rt.bundle import open_bundle
from vab_rt.errors import BundleError


@pytest.mark.parametrize(
    ("make", "config", "fine"),
    [
        (make_bundle, tiny_config(), {}),
        (make_bundle, tiny_config(), {"fine": fine_config()}),
        (make_v2a_bundle, tiny_v2a_config(), {}),
    ],
)
def test_it_is_the_one_that_the_tests_of_the_runtime_write(tmp_path, make, config, fine):
    folder = make(tmp_path / "tiny", config, **fine)
    for name in ("visual_encoder.fp32.onnx", "visual_encoder.fp16.onnx"):
        shutil.copy(folder / "visual_encoder.onnx", folder / name)
    manifests.write_manifest(folder, config, license="MIT", **fine)
    expected = json.loads((folder / "vab.json").read_text())
    assert list(expected["variants"]) == ["fp32", "fp16"]
    written = write_manifest(folder, config, "fp32", "MIT", {}, **fine)
    assert json.loads((folder / "vab.json").read_text()) == expected
    assert open_bundle(folder).manifest == written
    (folder / "NOTICE").write_text("thanks")
    assert add_file(folder, "NOTICE").files["NOTICE"].size_bytes == 6
    open_bundle(folder).verify()


@pytest.mark.parametrize(
    ("precision", "missing", "message"),
    [("fp32", "backbone.onnx", "no graph backbone"), ("fp5", "none", "fp32, int8")],
)
def test_it_is_not_written_for_what_cannot_be_opened(bundle_copy, precision, missing, message):
    (bundle_copy / missing).unlink(missing_ok=True)
    before = (bundle_copy / "vab.json").read_bytes()
    with pytest.raises(BundleError, match=message):
        write_manifest(bundle_copy, tiny_config(), precision, "MIT", {})
    assert (bundle_copy / "vab.json").read_bytes() == before

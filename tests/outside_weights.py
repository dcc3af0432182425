"""A tiny bundle whose image encoder names a file of weights instead of holding them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from manifests import entry_of, save
from onnx import numpy_helper
from tiny_bundle import make_bundle

TENSOR = "colours"
FILE = "mine.safetensors"


def make_outside_bundle(folder: Path, **entry: object) -> dict[str, np.ndarray]:
    """Write the bundle, and return the tensors of the file that it names. entry: of the manifest's
    `weights`, beside what follows from the tensors."""
    make_bundle(folder)
    path = folder / "visual_encoder.onnx"
    model = onnx.load(path)
    (weight,) = [each for each in model.graph.initializer if each.name == TENSOR]
    weights = {"other": np.arange(5), TENSOR: numpy_helper.to_array(weight)}
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="theirs")
    path.write_bytes(model.SerializeToString())
    content = json.loads((folder / "vab.json").read_text())
    content["files"][path.name] = entry_of(path)
    content["graphs"]["visual_encoder"]["weights"] = {"theirs": [TENSOR]}
    encoded = safetensors(weights)
    facts = {"size_bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}
    content["weights"] = {"theirs": {"file": FILE, "format": "safetensors", **facts, **entry}}
    save(folder, content)
    return weights


def safetensors(weights: dict[str, np.ndarray]) -> bytes:
    kinds = {"float32": "F32", "int64": "I64"}
    header, data = {"__metadata__": {"by": "hand"}}, b""
    for name, array in weights.items():
        place = [len(data), len(data) + array.nbytes]
        kind = kinds[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def install(folder: Path, package: str, version: str, file: str, content: bytes) -> None:
    """As pip leaves a package of one file in a folder of packages."""
    facts = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)

"""Sound for a clip's frames from one graph, with onnxruntime and NumPy alone.

    python host.py one.onnx frames.rgb out.wav [seed=7] [steps=4] [guidance=3] ...

frames.rgb: raw RGB, or a .npy of uint8 [N, size, size, 3]; fewer than a clip's stand still at its
end. images=FILE: of a model that also takes larger ones. tokens=FILE writes the tokens, int32.
"""

import json
import math
import sys
import wave

import numpy as np
import onnxruntime

LIMITS = {
    "seed": (0, 2**64 - 1),
    "steps": (1, 1024),
    "fine_steps": (1, 1024),
    "top_k": (0, 2**31 - 1),
    "guidance": (-1e6, 1e6),
    "temperature": (1e-6, 1e6),
    "mask_temperature": (0, 1e6),
}
WHOLE = ("seed", "steps", "fine_steps", "top_k")
FILES = ("images", "tokens")


def main(model, frames, out, *words):
    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait double the time where others use the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001, as onnxruntime's own share no base
        sys.exit(f"{model} cannot be opened ({error}), expected an ONNX file")
    facts = session.get_modelmeta().custom_metadata_map
    if facts.get("vab_rt.one_graph") != "1":
        found = facts.get("vab_rt.one_graph", "none")
        sys.exit(f"{model}: one graph of version {found}, expected 1; export it again")
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    if "frames" not in inputs:
        sys.exit(f"{model} takes features, expected frames; export it with --with-video")
    asked = read_words(words, json.loads(facts["options"]), inputs)
    asked["given"] = np.full(inputs["given"].shape, int(facts["mask_id"]), np.int32)
    asked["frames"], seen = read_frames(frames, inputs["frames"].shape)
    files = {name: asked.pop(name) for name in FILES if name in asked}
    if "images" in files and "images" not in inputs:
        sys.exit(f"{model} takes no images, expected frames alone")
    if "images" in inputs:
        if "images" not in files:
            sys.exit(f"{model} also takes images, expected images=FILE")
        asked["images"], _ = read_frames(files["images"], inputs["images"].shape)
    tokens, audio = session.run(["tokens", "audio"], asked)
    if "tokens" in files:
        tokens.tofile(files["tokens"])
    heard = audio[0, : math.ceil(audio.shape[1] * seen)]
    try:
        write_wav(out, heard, int(facts["sample_rate_hz"]))
    except OSError as error:
        sys.exit(f"{out} cannot be written ({error}), expected a folder with room")
    print(f"{out}: {len(heard) / int(facts['sample_rate_hz']):g} s")


def read_words(words, defaults, inputs):
    """What the graph is asked, from NAME=VALUE and from what the model recommends."""
    values = {"seed": 0} | {name: value for name, value in defaults.items() if name in inputs}
    known = [*values, *FILES]
    files = {}
    for word in words:
        name, is_given, value = word.partition("=")
        if name not in known or not is_given:
            sys.exit(f"{word!r}, expected NAME=VALUE with one of: {', '.join(known)}")
        if name in FILES:
            files[name] = value
        else:
            values[name] = read_number(name, value)
    seed = values.pop("seed")
    asked = {
        "seed_low": np.array(seed % 2**32, np.uint32),
        "seed_high": np.array(seed >> 32, np.uint32),
    }
    for name, value in values.items():
        asked[name] = np.array(value, np.int64 if name in WHOLE else np.float64)
    return asked | files


def read_number(name, text):
    low, high = LIMITS[name]
    try:
        value = int(text) if name in WHOLE else float(text)
        if low <= value <= high:
            return value
    except ValueError:
        pass
    kind = "a whole number" if name in WHOLE else "a number"
    sys.exit(f"{name} is {text}, expected {kind} from {low} to {high}")


def read_frames(path, shape):
    """Frames uint8 [F, size, size, 3], and the share of them that the file has."""
    size = math.prod(shape[1:])
    try:
        held = np.load(path) if path.endswith(".npy") else np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        sys.exit(f"{path} cannot be read ({error}), expected raw RGB or a .npy of uint8")
    is_right = held.ndim == 1 or list(held.shape[1:]) == shape[1:]
    if (
        held.dtype != np.uint8
        or not is_right
        or held.size % size
        or not 0 < held.size <= size * shape[0]
    ):
        sys.exit(
            f"{path} holds {held.dtype} {list(held.shape)}, expected uint8 of 1 to {shape[0]} "
            f"frames of {shape[1]} x {shape[2]} RGB, {size} bytes each"
        )
    frames = held.reshape(-1, *shape[1:])
    missing = shape[0] - len(frames)
    return np.concatenate([frames, *[frames[-1:]] * missing]), len(frames) / shape[0]


def write_wav(path, samples, rate_hz):
    """16 bits, one channel; made quieter where it would not fit."""
    loudest = max(1.0, float(np.abs(samples).max()))
    with open(path, "wb") as held, wave.open(held, "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.rint(samples / loudest * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

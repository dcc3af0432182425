"""The reader of torch's files against torch: the same arrays or one known error, whatever is in the
file, and nothing of it is ever run."""

import io
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import pytest

torch = pytest.importorskip("torch", reason="its files are read here")

import numpy as np
from torch import nn

from vab_rt.torch_file import MAX_WORDS, Unreadable, read_torch

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16),
    *(torch.int8, torch.uint8, torch.bool),
)
NUM_MUTATED, NUM_MEASURED = 10_000, 500


def saved(content: object, is_zip: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def random_weights(seed: int, count: int = 12) -> OrderedDict:
    """Of every type, of 0 to 4 dimensions; some are views, transposed or of one storage."""
    random = np.random.default_rng(seed)
    weights = OrderedDict()
    for number in range(count):
        shape = [int(n) for n in random.integers(1, 6, random.integers(0, 5))]
        tensor = torch.tensor(random.standard_normal(shape) * 9).to(DTYPES[number % 9])
        change = number % 4
        if change == 1 and tensor.ndim > 1:
            tensor = tensor.transpose(0, -1)
        if change == 2 and tensor.ndim:
            tensor = tensor[tensor.shape[0] // 2 :]
        weights[f"layers.{number}.weight"] = tensor
    weights["tied"] = weights["layers.0.weight"]
    return weights


def check_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.numpy().dtype, name
        assert found[name].flags.c_contiguous and not found[name].flags.writeable, name
        assert np.array_equal(found[name], tensor.numpy(), equal_nan=tensor.is_floating_point())


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_random_weights_are_those_of_torch(seed, is_zip):
    weights = random_weights(seed)
    check_equal(read_torch(saved(weights, is_zip)), weights)


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_module_and_what_lies_beside_weights(is_zip):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))  # its state_dict bears notes
    content = {
        "state_dict": module.state_dict(), "epoch": 3, "rates": [0.1, None, True], "by": "us",
        "large": 2**40, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "empty": {},
        "none": torch.zeros(0, 3),
    }  # fmt: skip
    found = read_torch(saved(content, is_zip))
    expected = {f"state_dict.{name}": tensor for name, tensor in module.state_dict().items()}
    check_equal(found, expected | {"optimizer.state.0.step": torch.tensor(3.0)})


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """One to three bytes changed, or a piece cut out, doubled or cut off; most of it in what says
    what the numbers mean."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 4)):
        limit = len(changed) if random.random() < 0.3 else max(1, len(changed) * 2 // 3)
        at = int(random.integers(limit))
        kind = random.integers(6)
        if kind < 3:
            changed[at] = random.integers(256)
        elif kind == 3:
            del changed[at : at + int(random.integers(1, 9))]
        elif kind == 4:
            changed[at:at] = changed[at : at + int(random.integers(1, 9))]
        else:
            del changed[at:]
        if not changed:
            return b""
    return bytes(changed)


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_mutated_file_gives_the_same_as_torch_or_one_known_error(is_zip):
    """Where torch reads what was changed, it must be the same; it never may be more."""
    random = np.random.default_rng(0)
    whole = [saved(random_weights(seed, count=3), is_zip) for seed in range(8)]
    num_read = 0
    tracemalloc.start()
    for number in range(NUM_MUTATED // 2):
        if number == NUM_MEASURED:
            peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        content = mutated(whole[number % len(whole)], random)
        try:
            found = read_torch(content)
        except Unreadable:
            continue
        num_read += 1
        try:
            expected = torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # noqa: BLE001, S112  its own errors are of every kind
            continue
        tensors = {n: x for n, x in expected.items() if x.numel()}
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].tobytes() == tensor.contiguous().numpy().tobytes(), name
    assert num_read > NUM_MUTATED // 100  # most changes of a number are none of the layout
    assert peak_bytes < 20e6


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [False, True])
def test_code_in_a_file_is_named_and_not_run(is_zip, tmp_path):
    content = saved({"weight": torch.zeros(3), "more": Runs(tmp_path / "was-run")}, is_zip)
    with pytest.raises(Unreadable, match=r"holds '(posix|nt).mkdir'"):
        read_torch(content)
    with pytest.raises(Unreadable, match="nothing of it was run"):
        read_torch(saved(nn.Linear(2, 2), is_zip))  # a whole module is code too
    assert not (tmp_path / "was-run").exists()
    torch.load(io.BytesIO(content), weights_only=False)  # what would have been
    assert (tmp_path / "was-run").exists()


def test_every_cut_is_told():
    for is_zip in (False, True):
        content = saved(random_weights(0, count=3), is_zip)
        for end in range(0, len(content) - 1, 7):
            with pytest.raises(Unreadable):
                read_torch(content[:end])


def stream(tree: bytes, keys: bytes = b"]", storages: bytes = b"") -> bytes:
    """A file of the old layout whose object is given in pickle's own words."""
    head = b"".join(
        pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    return head + tree + b"." + keys + b"." + storages


def tensor_words(size: int, shape: bytes, strides: bytes, offset: bytes = b"K\x00") -> bytes:
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    storage += b"J" + size.to_bytes(4, "little", signed=True) + b"NtQ"
    build = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides
    return b"}X\x01\x00\x00\x00w" + build + b"\x89)tRs"


BODY = (4).to_bytes(8, "little") + np.arange(4, dtype="<f4").tobytes()
KEYS = b"]X\x01\x00\x00\x000a"


def test_words_by_hand_are_read():
    found = read_torch(stream(tensor_words(4, b"K\x02K\x02\x86", b"K\x01K\x02\x86"), KEYS, BODY))
    assert found["w"].tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged|cut short"),
        (b"no pickle", "pickle word|damaged|cut short"),
        (pickle.dumps({"weight": 1}), "begin as a file of torch"),
        (stream(b"}").replace(b"\x88", b"\x89"), "little-endian"),
        (stream(b"}" * (MAX_WORDS + 1)), "words"),
        (stream(tensor_words(4, b"K\x05\x85", b"K\x01\x85"), KEYS, BODY), "beyond its storage"),
        (stream(tensor_words(4, b"K\x03\x85", b"K\x02\x85"), KEYS, BODY), "beyond its storage"),
        (stream(tensor_words(4, b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"), KEYS, BODY), "beyond"),
        (stream(tensor_words(4, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"), KEYS, BODY), "sizes"),
        (stream(tensor_words(4, b"K\x04\x85", b"J\xff\xff\xff\xff\x85"), KEYS, BODY), "sizes"),
        (stream(tensor_words(4, b"K\x04\x85", b"K\x01\x85", b"K\x01"), KEYS, BODY), "beyond"),
        (stream(tensor_words(-4, b"K\x04\x85", b"K\x01\x85"), KEYS, BODY), "size of a storage"),
        (stream(tensor_words(2**31 - 1, b"K\x04\x85", b"K\x01\x85"), KEYS, BODY), "ends before"),
        (stream(tensor_words(4, b"K\x04\x85", b"K\x01\x85"), b"]", b""), "damaged"),
        (stream(b"}q\x00X\x01\x00\x00\x00ah\x00s"), "nested deeper"),
        (stream(b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R"), "holds 'builtins.eval'"),
        (stream(b"X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00eval\x93"), "holds 'builtins.eval'"),
        (stream(b"ibuiltins\neval\n"), "pickle word b'i'"),
        (stream(b"r\xff\xff\xff\xff"), "damaged"),
        (stream(b"X\xff\xff\xff\xffabc"), "cut short"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(content, message):
    with pytest.raises(Unreadable, match=message):
        read_torch(content)


def test_dicts_that_share_each_other_end():
    """Each level holds the one below many times: to walk all of it would take for ever."""
    words = b"}("
    for level in range(7):
        below = b"h" + bytes([level - 1]) if level else b"N"
        items = b"".join(b"X\x02\x00\x00\x00%02d" % number + below for number in range(99))
        words += b"X\x01\x00\x00\x00%d}(" % level + items + b"uq" + bytes([level])
    with pytest.raises(Unreadable, match="nested deeper"):
        read_torch(stream(words + b"u"))


def test_a_compressed_part_of_a_zip_is_refused():
    """So nothing can unfold to more than the file."""
    packed = io.BytesIO()
    plain = zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(9)}, is_zip=True)))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for name in plain.namelist():
            other.writestr(name, plain.read(name))
    with pytest.raises(Unreadable, match="compressed"):
        read_torch(packed.getvalue())

"""What TensorBoard reads: checked with protocol buffers' own parser, and its own where it is."""

import struct

import pytest

pytest.importorskip("torch", reason="training needs torch")
pb = pytest.importorskip("google.protobuf.descriptor_pb2", reason="protobuf parses the events")

from google.protobuf import descriptor_pool, message_factory

from training import fitting
from training.curves import add_point, crc32c, curve_file
from training.fitting import Average, fit
from vab_rt.errors import OutputError

FIELD = pb.FieldDescriptorProto
MESSAGES = {  # of event.proto and summary.proto, the fields that scalars need
    "Value": [("tag", 1, FIELD.TYPE_STRING), ("simple_value", 2, FIELD.TYPE_FLOAT)],
    "Summary": [("value", 1, ".Value")],
    "Event": [
        ("wall_time", 1, FIELD.TYPE_DOUBLE),
        ("step", 2, FIELD.TYPE_INT64),
        ("file_version", 3, FIELD.TYPE_STRING),
        ("summary", 5, ".Summary"),
    ],
}


def event_type():
    file = pb.FileDescriptorProto(name="event.proto", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=FIELD.LABEL_OPTIONAL)
            if isinstance(kind, str):
                added.type, added.type_name = FIELD.TYPE_MESSAGE, kind
                added.label = FIELD.LABEL_REPEATED if field == "value" else FIELD.LABEL_OPTIONAL
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Event"))


def events(path):
    """Every event of a file, its checksums verified."""
    data, found, parse = path.read_bytes(), [], event_type().FromString

    def check(content, stored):
        crc = crc32c(content)
        assert struct.unpack("<I", stored)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        check(data[:8], data[8:12])
        check(data[12 : 12 + length], data[12 + length : 16 + length])
        found.append(parse(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_the_checksum_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4, has more
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_points_are_read_back(tmp_path):
    file = curve_file(tmp_path / "vab.pt")
    add_point(file, 50, {"loss": 1.5, "accuracy": 0.25})
    add_point(file, 2**40, {"loss": float("nan")})
    assert file.parent == tmp_path / "curves" / "vab" and "tfevents" in file.name
    first, second, third = events(file)
    assert first.file_version == "brain.Event:2" and first.wall_time > 1e9
    assert second.step == 50
    values = {value.tag: value.simple_value for value in second.summary.value}
    assert values == {"loss": 1.5, "accuracy": 0.25}
    assert third.step == 2**40 and third.summary.value[0].simple_value != 0


def test_tensorboard_reads_them(tmp_path):
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader", reason="tensorboard is absent"
    )
    file = curve_file(tmp_path / "vab.pt")
    add_point(file, 50, {"loss": 1.5})
    *_, last = loader.RawEventFileLoader(str(file)).Load()
    assert event_type().FromString(last).step == 50


def test_a_stage_leaves_its_curves(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(fitting, "REPORT_EVERY", 2)
    module = torch.nn.Linear(1, 1)
    parts = {"module": module, "average": Average(module)}

    def run(steps):
        return list(fit(tmp_path / "a.pt", parts, lambda i, p: {"loss": float(i)}, None, steps))

    run(3)
    [file] = tmp_path.glob("curves/a/*")
    points = [(event.step, event.summary.value[0].simple_value) for event in events(file)[1:]]
    assert points == [(2, 0.5), (3, 2.0)]
    run(3)
    assert list(tmp_path.glob("curves/a/*")) == [file], "a stage that is done adds nothing"
    run(5)
    assert len(list(tmp_path.glob("curves/a/*"))) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "curves").write_text("in the way")
    with pytest.raises(OutputError, match="tfevents.* could not be written"):
        add_point(curve_file(tmp_path / "a.pt"), 1, {"loss": 1.0})

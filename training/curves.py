"""Losses as TensorBoard reads them: `tensorboard --logdir RUN` shows a curve for each.

The files are written here, as TensorBoard's own writer would bring a web server and gRPC into every
training: records of a length and a content with a checksum each, the content an `Event`
(github.com/tensorflow/tensorflow, core/util/event.proto and lib/io/record_writer.h).
"""

import functools
import struct
import time
from pathlib import Path

from vab_rt.output import writing

CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, reversed
MASK = 0xA282EAD8


def curve_file(checkpoint: Path) -> Path:
    """A new file for what this process trains into `checkpoint`, in a folder of that name."""
    return checkpoint.parent / "curves" / checkpoint.stem / f"events.out.tfevents.{time.time_ns()}"


def add_point(file: Path, step: int, losses: dict[str, float]) -> None:
    """Append the losses after `step` steps; the first ones make the file. Raises OutputError."""
    values = b"".join(_field(1, _scalar(name, value)) for name, value in losses.items())
    header = _record(_time() + _field(3, b"brain.Event:2"))
    point = _record(_time() + b"\x10" + _varint(step) + _field(5, values))
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as events:
            events.write(point if events.tell() else header + point)


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def _time() -> bytes:
    return b"\x09" + struct.pack("<d", time.time())


def _scalar(name: str, value: float) -> bytes:
    return _field(1, name.encode()) + b"\x15" + struct.pack("<f", value)


def _field(number: int, content: bytes) -> bytes:
    """Text or a message inside a message of protocol buffers."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    more = []
    while value > 0x7F:
        more.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*more, value])


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _crc_table()[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@functools.cache
def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ CASTAGNOLI * (crc & 1) for crc in table]
    return table

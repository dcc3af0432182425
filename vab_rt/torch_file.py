"""Tensors out of a file of torch.save, without torch and without running anything that is in it.

Such a file says what it holds in pickle, a language whose programs may call any function. Here only
those words are understood that name tensors and plain values; nothing is imported or called for
them. Both layouts are read: the old one, which is pickles and then the storages, and the zip of
torch 1.6 and later.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_WORDS, MAX_DEPTH, MAX_NAME = 500_000, 8, 1000
"""The most words of a pickle, dicts in dicts, and letters of a name: no file of weights has
more."""

_DTYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1",
    "BoolStorage": "?",
}  # fmt: skip
_DICT, _TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
_PLAIN = {b"N": None, b"\x88": True, b"\x89": False}
_EMPTY: dict[bytes, type] = {b"}": dict, b"]": list, b")": tuple}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_TEXTS = {b"X": "<I", b"\x8c": "<B"}
_PUT = {b"q": "<B", b"r": "<I"}
_GET = {b"h": "<B", b"j": "<I"}
_SKIPPED = {b"\x80": "<B", b"\x95": "<Q"}  # the protocol, and how long a frame is
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_DAMAGE = (
    *(AttributeError, LookupError, TypeError, ValueError, OverflowError, struct.error),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError),
)

Arrays = dict[str, npt.NDArray[Any]]


class Unreadable(Exception):
    """Why a file cannot be read, for a message of one line."""


class _Global(NamedTuple):
    """What the file asks for by name; it is never looked up."""

    name: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int

    @property
    def size_bytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(content: bytes) -> Arrays:
    """The tensors that a file's dicts hold, by name, with a dot between the names of nested ones;
    read-only, and without a copy where they lie in order. Empty ones are left out.

    content: the whole file. Raises Unreadable.
    """
    try:
        is_zip = content.startswith(b"PK\x03\x04")
        tree, storages = _read_zip(content) if is_zip else _read_stream(content)
        return _arrays(_tensors_in(tree), storages, len(content))
    except _DAMAGE as error:
        raise Unreadable(f"it is damaged ({type(error).__name__})") from error


def _read_stream(content: bytes) -> tuple[Any, dict[str, memoryview]]:
    """The old layout: magic number, protocol, facts of the machine, the object, keys, storages."""
    words = _Words(content)
    if words.value() != MAGIC or words.value() != PROTOCOL:
        raise Unreadable("it does not begin as a file of torch does")
    if words.value().get("little_endian") is not True:
        raise Unreadable("its numbers are not little-endian")
    tree, keys = words.value(), words.value()
    storages, view, at = {}, memoryview(content), words.at
    for key in keys:
        storage = words.storages[key]
        (size,) = struct.unpack_from("<q", content, at)
        if size != storage.size or at + 8 + storage.size_bytes > len(content):
            raise Unreadable(f"it ends before its storage {key}, or says another size of it")
        storages[key] = view[at + 8 : at + 8 + storage.size_bytes]
        at += 8 + storage.size_bytes
    return tree, storages


def _read_zip(content: bytes) -> tuple[Any, dict[str, memoryview]]:
    """The new layout: FOLDER/data.pkl and FOLDER/data/KEY, none of them compressed."""
    names = {info.filename: info for info in zipfile.ZipFile(io.BytesIO(content)).infolist()}
    folder = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
    view = memoryview(content)

    def part(name: str) -> memoryview:
        info = names[folder + name]
        lengths = struct.unpack_from("<2H", content, info.header_offset + 26)
        begin = info.header_offset + 30 + sum(lengths)
        if info.compress_type != zipfile.ZIP_STORED or begin + info.file_size > len(content):
            raise Unreadable(f"its part {name} is compressed or cut short")
        return view[begin : begin + info.file_size]

    if folder + "byteorder" in names and bytes(part("byteorder")) != b"little":
        raise Unreadable("its numbers are not little-endian")
    words = _Words(bytes(part("data.pkl")))
    tree = words.value()
    return tree, {key: part(f"data/{key}") for key in words.storages}


def _tensors_in(tree: Any) -> dict[str, _Tensor]:
    found: dict[str, _Tensor] = {}
    waiting: list[tuple[str, int, Any]] = [("", 0, tree)]
    num_left = MAX_WORDS  # dicts that share each other would take for ever
    while waiting:
        prefix, depth, values = waiting.pop()
        num_left -= len(values)
        if num_left < 0 or depth > MAX_DEPTH or len(prefix) > MAX_NAME:
            raise Unreadable("it is nested deeper, or has more or longer names, than weights do")
        for key, value in values.items():
            if isinstance(value, _Tensor):
                found[f"{prefix}{key}"] = value
            elif isinstance(value, dict) and value:
                waiting.append((f"{prefix}{key}.", depth + 1, value))
    return found


def _arrays(
    tensors: dict[str, _Tensor], storages: dict[str, memoryview], file_bytes: int
) -> Arrays:
    arrays, copied_bytes = {}, 0
    for name, tensor in tensors.items():
        if 0 in tensor.shape:
            continue
        array = _array(name, tensor, storages[tensor.storage.key])
        if not array.flags.c_contiguous:
            copied_bytes += array.nbytes
            if copied_bytes > file_bytes:
                raise Unreadable("its tensors are larger than the file")
            array = np.ascontiguousarray(array)
            array.flags.writeable = False
        arrays[name] = array
    return arrays


def _array(name: str, tensor: _Tensor, data: memoryview) -> npt.NDArray[Any]:
    storage, offset, shape, strides = tensor
    if len(data) != storage.size_bytes:
        raise Unreadable(f"the storage of {name} has another size than it says")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # With more numbers than there are, some would be repeated: no layer has such weights.
    if last >= storage.size or math.prod(shape) > storage.size:
        raise Unreadable(f"{name} reaches beyond its storage")
    flat = np.frombuffer(data, np.dtype(storage.dtype))[offset:]
    steps = [step * flat.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)


class _Words:
    """The words of pickles that follow each other in `content`, understood one after the other.

    at: where the next begins. storages: those that were named, by key.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0
        self.storages: dict[str, _Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._num_left = MAX_WORDS
        self._acts: dict[bytes, Callable[[], None]] = {
            b"(": lambda: self._marks.append(len(self._stack)),
            b"t": lambda: self._stack.append(tuple(self._since_mark())),
            b"c": self._name,
            b"\x93": lambda: self._ask_for(*self._last(2)),
            b"s": lambda: self._set(self._last(2)),
            b"u": lambda: self._set(self._since_mark()),
            b"a": lambda: self._add(self._last(1)),
            b"e": lambda: self._add(self._since_mark()),
            b"b": lambda: self._last(1).clear(),  # notes that a state_dict bears; of no use here
            b"R": self._build,
            b"Q": self._name_storage,
            b"\x8a": self._long,
            b"\x94": lambda: self._memo.__setitem__(len(self._memo), self._stack[-1]),
        }

    def value(self) -> Any:
        """What the next pickle says."""
        self._stack, self._marks, self._memo = [], [], {}
        while (word := self._take(1)) != b".":
            self._num_left -= 1
            if self._num_left < 0:
                raise Unreadable(f"it says more than {MAX_WORDS} words")
            self._understand(word)
        (value,) = self._stack
        return value

    def _understand(self, word: bytes) -> None:
        if word in _PLAIN:
            self._stack.append(_PLAIN[word])
        elif word in _EMPTY:
            self._stack.append(_EMPTY[word]())
        elif word in _NUMBERS:
            self._stack.append(self._number(_NUMBERS[word]))
        elif word in _TEXTS:
            self._stack.append(self._take(self._number(_TEXTS[word])).decode())
        elif word in _PUT:
            self._memo[self._number(_PUT[word])] = self._stack[-1]
        elif word in _GET:
            self._stack.append(self._memo[self._number(_GET[word])])
        elif word in _TUPLES:
            self._stack.append(tuple(self._last(_TUPLES[word])))
        elif word in _SKIPPED:
            self._number(_SKIPPED[word])
        elif word in self._acts:
            self._acts[word]()
        else:
            raise Unreadable(f"it has the pickle word {word!r}, which no file of weights needs")

    def _take(self, count: int) -> bytes:
        if count > len(self._content) - self.at:
            raise Unreadable("it is cut short")
        self.at += count
        return self._content[self.at - count : self.at]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _last(self, count: int) -> list[Any]:
        """The last values, which leave the stack; not those before a mark."""
        begin = len(self._stack) - count
        if begin < (self._marks[-1] if self._marks else 0):
            raise Unreadable("it is damaged (a value is missing)")
        taken = self._stack[begin:]
        del self._stack[begin:]
        return taken

    def _since_mark(self) -> list[Any]:
        return self._last(len(self._stack) - self._marks.pop())

    def _long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def _name(self) -> None:
        lines = []
        for _ in range(2):
            end = self._content.index(b"\n", self.at)
            lines.append(self._take(end - self.at).decode())
            self._take(1)
        self._ask_for(*lines)

    def _ask_for(self, module: str, name: str) -> None:
        asked = f"{module}.{name}"[:80]
        storage = module == "torch" and name in _DTYPES
        if asked not in (_DICT, _TENSOR) and not storage:
            raise Unreadable(f"it holds {asked!r}, expected tensors alone; nothing of it was run")
        self._stack.append(_Global(asked))

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                raise Unreadable("it has names that are no text")
            if type(target) is not dict:
                raise Unreadable("it is damaged (an item of no dict)")
            target[key] = value

    def _add(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise Unreadable("it is damaged (an item of no list)")
        target.extend(values)

    def _build(self) -> None:
        asked, given = self._last(2)
        if asked == _Global(_DICT) and given == ():
            self._stack.append({})
        elif asked == _Global(_TENSOR):
            self._stack.append(_tensor(*given[:4]))
        else:
            raise Unreadable("it is damaged (a call of no kind that is known)")

    def _name_storage(self) -> None:
        (facts,) = self._last(1)
        what, kind, key, _, size, *view = facts
        if what != "storage" or not isinstance(kind, _Global) or not isinstance(key, str):
            raise Unreadable("it is damaged (no storage)")
        if type(size) is not int or size < 0 or any(view):
            raise Unreadable("it is damaged (the size of a storage)")
        storage = _Storage(key, _DTYPES[kind.name.removeprefix("torch.")], size)
        if self.storages.setdefault(key, storage) != storage:
            raise Unreadable(f"it names two storages {key}")
        self._stack.append(storage)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple):
        raise Unreadable("it is damaged (a tensor without a storage)")
    numbers = (offset, *shape, *strides)
    if len(shape) > 16 or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise Unreadable("it is damaged (a tensor without sizes)")
    return _Tensor(storage, offset, shape, tuple(strides))

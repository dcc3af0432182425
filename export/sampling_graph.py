"""The sampling step of `vab_rt/sampling.py` in ONNX operators, number for number.

Floats are added and multiplied one at a time in float32, as there. What its order of work cannot
change is skipped: noise is drawn only where it can decide, for logits near the largest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from vab_rt import philox, sampling

NEAR = np.float32(20)
"""Gumbel noise is in [-2.82, 16.64] and weights are counted in 2**-24, so that what lies further
below the largest logit neither wins nor counts."""
_ZERO, _ONE = np.array([0]), np.array([1])
_ONE_FOR_ALL = {(0, 1), (0, 3), (1, 1), (2, 3)}
"""Words of Philox's state, by the rounds before, that are one number for all counters of a step."""
_LEAST_EXPONENT, _MOST_EXPONENT = -64, 64


class Nodes:
    """The nodes of a graph: a method named like an operator adds one and returns its output.

    Inputs are names, None where one is left out, or numbers, which become initializers of `main`.
    """

    def __init__(self, prefix: str = "", main: "Nodes | None" = None) -> None:
        self.list: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._prefix, self._main = prefix, main or self
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __getattr__(self, op: str) -> Any:
        if not op[0].isupper():
            raise AttributeError(op)

        def add(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            names = [f"{self._prefix}{op}_{len(self.list)}_{i}" for i in range(outputs)]
            given = [self._main.named(value) for value in inputs]
            self.list.append(helper.make_node(op, given, names, **attributes))
            return names[0] if outputs == 1 else names

        return add

    def named(self, value: Any) -> str:
        """The name of a value; of a number that of its initializer."""
        if value is None or isinstance(value, str):
            return value or ""
        array = np.asarray(value)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def either(
        self,
        condition: str,
        then: "Callable[[Nodes], Sequence[str]]",
        otherwise: "Callable[[Nodes], Sequence[str]]",
        kinds: Sequence[tuple[npt.DTypeLike, int]],
    ) -> list[str]:
        """The outputs, of those types and ranks, of one of two groups of nodes."""
        name = f"{self._prefix}either_{len(self.list)}"
        graphs = []
        for branch, add in (("then", then), ("else", otherwise)):
            nodes = Nodes(f"{name}/{branch}/", self._main)
            found = add(nodes)
            outputs = [
                declare(each, kind, [None] * rank)
                for each, (kind, rank) in zip(found, kinds, strict=True)
            ]
            graphs.append(helper.make_graph(nodes.list, f"{name}_{branch}", [], outputs))
        names = [f"{name}_{i}" for i in range(len(kinds))]
        branches = {"then_branch": graphs[0], "else_branch": graphs[1]}
        self.list.append(helper.make_node("If", [condition], names, **branches))
        return names

    def cast(self, value: Any, dtype: npt.DTypeLike) -> str:
        name: str = self.Cast(value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return name


def declare(name: str, kind: npt.DTypeLike, shape: Iterable[int | None]) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return helper.make_tensor_value_info(name, dtype, list(shape))


def add_step(
    n: Nodes,
    tokens: str,
    conditional: str,
    unconditional: str,
    settings: Mapping[str, Any],
    size: int,
) -> str:
    """Tokens [N] after one step, of tokens [N] int32 and logits [N, V] of both branches.

    settings: keys (`round_keys`); the names of step (uint64), guidance, scale (1 over the
    temperature) and mask_temperature (float32), top_k and num_remask (int64), all scalars.
    """
    s = settings
    rows = n.Squeeze(n.NonZero(n.Equal(tokens, np.int32(size))), _ZERO)  # [R]
    with_, without = (n.Gather(x, rows) for x in (conditional, unconditional))  # [R, V]
    guided = n.Add(without, n.Mul(s["guidance"], n.Sub(with_, without)))
    scaled = n.Mul(guided, s["scale"])
    top = n.ReduceMax(scaled, _ONE)  # [R, 1]
    row, code, logits, u, total = _candidates(n, scaled, top, rows, s, size)
    scores = n.Add(logits, _gumbel_of(n, u))  # [M]
    nothing = n.Expand(np.float32(-np.inf), n.Shape(rows))
    best = n.ScatterElements(nothing, row, scores, reduction="max", axis=0)  # [R]
    wins = n.Squeeze(n.NonZero(n.Equal(scores, n.Gather(best, row))), _ZERO)
    above = n.Expand(np.int64(size), n.Shape(rows))
    won = (n.Gather(each, wins) for each in (row, code))
    drawn = n.ScatterElements(above, *won, reduction="min", axis=0)  # [R], the lowest of equals
    own = n.GatherElements(scaled, n.Unsqueeze(drawn, _ONE), axis=1)
    own = n.Squeeze(n.Sub(own, top), _ONE)
    log_p = n.Sub(own, log_poly(n, n.Mul(n.cast(total, np.float32), np.float32(2**-24))))
    noise = _gumbel_of(n, _uniform(n, rows, s, philox.CONFIDENCE_STREAM))
    confidence = n.Add(log_p, n.Mul(s["mask_temperature"], noise))
    count = n.Reshape(s["num_remask"], _ONE)
    _, again = n.TopK(confidence, count, outputs=2, largest=0, sorted=1, axis=0)
    filled = n.cast(drawn, np.int32)
    masked = n.Expand(np.int32(size), n.Shape(again))
    filled = n.ScatterElements(filled, again, masked, axis=0)
    result: str = n.ScatterElements(tokens, rows, filled, axis=0)
    return result


def _candidates(
    n: Nodes, scaled: str, top: str, rows: str, settings: Mapping[str, Any], size: int
) -> list[str]:
    """Of the logits [R, V] those that may win: rows, codes, logits and numbers in (0, 1), [M] each.
    And the weights of all that may be drawn, added up [R] float64."""
    s = settings
    is_near = n.GreaterOrEqual(scaled, n.Sub(top, NEAR))
    counts = n.cast(n.ReduceSum(n.cast(is_near, np.float32), _ONE, keepdims=0), np.int64)
    limit = n.Where(n.Greater(s["top_k"], np.int64(0)), s["top_k"], np.int64(size))
    fewer = n.Min(counts, limit)
    width = n.ReduceMax(n.Concat(fewer, _ONE, axis=0))  # [1]
    places = n.Mul(n.Mul(width, n.Shape(rows)), np.int64(3))
    is_dense = n.Greater(n.Mul(n.ReduceSum(fewer), np.int64(4)), places)
    shared = scaled, top, rows, s, size
    return n.either(
        n.Squeeze(is_dense),
        lambda n: _of_rectangle(n, *shared, width),
        lambda n: _of_list(n, *shared, is_near, counts),
        [(np.int64, 1), (np.int64, 1), (np.float32, 1), (np.float32, 1), (np.float64, 1)],
    )


def _of_list(
    n: Nodes,
    scaled: str,
    top: str,
    rows: str,
    settings: Mapping[str, Any],
    size: int,
    is_near: str,
    counts: str,
) -> Sequence[str]:
    """Candidates one by one, where rows have few."""
    least = _kth_largest(n, scaled, counts, settings["top_k"], size)
    near = n.NonZero(n.And(is_near, n.GreaterOrEqual(scaled, least)))  # [2, M]
    row, code = (n.Gather(near, np.int64(i)) for i in (0, 1))  # [M]
    logits = n.GatherND(scaled, n.Transpose(near))
    counter = n.Add(n.Mul(n.Gather(rows, row), np.int64(size)), code)
    weights = _weights(n, n.Sub(logits, n.Squeeze(n.Gather(top, row), _ONE)))
    none = n.Expand(np.float64(0), n.Shape(rows))
    total = n.ScatterElements(none, row, weights, reduction="add", axis=0)
    return row, code, logits, _uniform(n, counter, settings, philox.TOKEN_STREAM), total


def _of_rectangle(
    n: Nodes, scaled: str, top: str, rows: str, settings: Mapping[str, Any], size: int, width: str
) -> Sequence[str]:
    """The `width` largest of each row side by side, where that leaves few places unused: what works
    on whole tensors takes a tenth of the time of looking up places. By the operators' own
    logarithm, which is off by less than 1e-4, nearly all have lost."""
    logits, codes = _largest(n, scaled, width)  # [R, W]
    start = n.Unsqueeze(n.Mul(rows, np.int64(size)), _ONE)
    u = _uniform(n, n.Add(start, codes), settings, philox.TOKEN_STREAM)
    scores = n.Sub(logits, n.Log(n.Neg(n.Log(u))))
    best = n.ReduceMax(scores, _ONE)
    least = n.Sub(best, n.Add(n.Mul(n.Abs(best), np.float32(1e-5)), np.float32(1e-3)))
    kept = n.Transpose(n.NonZero(n.GreaterOrEqual(scores, least)))  # [M, 2]
    logit, code, own = (n.GatherND(each, kept) for each in (logits, codes, u))  # [M]
    row = n.Gather(kept, np.int64(0), axis=1)
    total = n.ReduceSum(_weights(n, n.Sub(logits, top)), _ONE, keepdims=0)
    return row, code, logit, own, total


def _largest(n: Nodes, scaled: str, width: str) -> Sequence[str]:
    """The `width` largest logits of each row, in any order, and their codes; more where several
    equal the least, in other rows -inf for these."""
    count = n.Reshape(width, _ONE)
    found, codes = n.TopK(scaled, count, outputs=2, axis=1, sorted=0)
    least = n.ReduceMin(found, _ONE)
    is_kept = n.cast(n.GreaterOrEqual(scaled, least), np.float32)
    most = n.ReduceMax(n.cast(n.ReduceSum(is_kept, _ONE, keepdims=0), np.int64))

    def with_equals(n: Nodes) -> Sequence[str]:
        more, codes = n.TopK(scaled, n.Reshape(most, _ONE), outputs=2, axis=1, sorted=0)
        return n.Where(n.GreaterOrEqual(more, least), more, np.float32(-np.inf)), codes

    return n.either(
        n.Greater(n.Squeeze(most), n.Squeeze(count)),
        with_equals,
        lambda n: (n.Identity(found), n.Identity(codes)),
        [(np.float32, 2), (np.int64, 2)],
    )


def _weights(n: Nodes, below: str) -> str:
    """Whole 2**-24 of e to the power of logits less the largest, float64."""
    y, exponent = _exp_poly(n, n.Max(below, -NEAR))
    whole = n.cast(n.Mul(y, np.float32(2**24)), np.uint32)
    shift = n.cast(n.Neg(exponent), np.uint32)
    return n.cast(n.BitShift(whole, shift, direction="RIGHT"), np.float64)


def _kth_largest(n: Nodes, scaled: str, counts: str, top_k: str, size: int) -> str:
    """The k-th largest of each row [R, 1]; -inf where top_k is 0 or leaves out nothing near."""
    is_cut = n.And(n.Greater(top_k, np.int64(0)), n.Greater(counts, top_k))
    rows = n.Squeeze(n.NonZero(is_cut), _ZERO)
    count = n.Reshape(n.Min(n.Max(top_k, np.int64(1)), np.int64(size)), _ONE)
    # One row more, of zeros: onnxruntime 1.30 divides by the number of rows.
    cut = n.Concat(n.Gather(scaled, rows), np.zeros((1, size), np.float32), axis=0)
    highest, _ = n.TopK(cut, count, outputs=2, axis=1, sorted=0)
    least = n.Slice(n.ReduceMin(highest, _ONE, keepdims=0), _ZERO, np.array([-1]))
    unbounded = n.Expand(np.float32(-np.inf), n.Shape(counts))
    kth: str = n.Unsqueeze(n.ScatterElements(unbounded, rows, least, axis=0), _ONE)
    return kth


def _uniform(n: Nodes, counter: str, settings: Mapping[str, Any], stream: int) -> str:
    """`philox.uniform` for counters int64."""
    word = _philox(n, n.cast(counter, np.uint64), settings, stream)
    mantissa = n.cast(n.BitShift(word, np.uint64(9), direction="RIGHT"), np.float32)
    u: str = n.Mul(n.Add(mantissa, np.float32(0.5)), np.float32(2**-23))
    return u


def _gumbel_of(n: Nodes, u: str) -> str:
    noise: str = n.Neg(log_poly(n, n.Neg(log_poly(n, u))))
    return noise


def _philox(n: Nodes, c0: str, settings: Mapping[str, Any], stream: int) -> str:
    """The first word of `philox.philox4x32` for counters [M] uint64 below 2**32."""
    start = [c0, settings["step"], np.uint64(stream), np.uint64(0)]

    @cache
    def product(after: int, i: int) -> str:
        """Of the first or third word; only what the result needs is added to the graph."""
        return str(n.Mul(word(after, 2 * i), philox._MULTIPLIERS[i]))

    @cache
    def word(after: int, i: int) -> Any:
        """A word of the state after so many rounds."""
        if after == 0:
            return start[i]
        whole = product(after - 1, int(i < 2))
        if i % 2:
            return n.BitwiseAnd(whole, philox._LOW_32)
        high = n.BitShift(whole, philox._SHIFT_32, direction="RIGHT")
        other, key = word(after - 1, i + 1), settings["keys"][i // 2][after - 1]
        if (after - 1, i + 1) in _ONE_FOR_ALL:
            return n.BitwiseXor(high, n.BitwiseXor(other, key))
        return n.BitwiseXor(n.BitwiseXor(high, key), other)

    return str(word(10, 0))


def round_keys(n: Nodes, seed_low: str, seed_high: str) -> tuple[list[str], list[str]]:
    """Both words of the key of each round of Philox, from the seed's halves, uint64."""
    low, high = [seed_low], [seed_high]
    for keys, more in zip((low, high), philox._KEY_INCREMENTS, strict=True):
        for _ in range(9):
            keys.append(n.BitwiseAnd(n.Add(keys[-1], np.uint64(more)), philox._LOW_32))
    return low, high


def log_poly(n: Nodes, x: str) -> str:
    """`philox.log_poly`. The exponent comes from a logarithm that may be one off, and is mended."""
    one, half = np.float32(1), np.float32(0.5)
    least, most = philox._SQRT_HALF, philox._SQRT_HALF + philox._SQRT_HALF
    guess = n.Round(n.Mul(n.Log(x), np.float32(1 / np.log(2))))
    m = n.Mul(x, _power_of_two(n, n.Neg(guess)))  # about 0.7 to 1.4
    is_low, is_high = n.Less(m, least), n.GreaterOrEqual(m, most)
    m = n.Where(is_low, n.Add(m, m), n.Where(is_high, n.Mul(m, half), m))
    e = n.Add(n.Sub(guess, n.cast(is_low, np.float32)), n.cast(is_high, np.float32))
    f = n.Sub(m, one)
    z = n.Mul(f, f)
    y = _horner(n, philox._LOG_COEFFICIENTS, f)
    y = n.Add(n.Mul(n.Mul(f, z), y), n.Mul(e, philox._LN2_LOW))
    y = n.Add(y, n.Mul(z, np.float32(-0.5)))
    log: str = n.Add(n.Add(f, y), n.Mul(e, philox._LN2_HIGH))
    return log


def _exp_poly(n: Nodes, x: str) -> tuple[str, str]:
    """Of `sampling.exp_poly` for x from -NEAR to 0 what it multiplies: a number from 0.7 to 1.42,
    and the exponent of the power of two."""
    f = n.cast(n.cast(n.Sub(n.Mul(x, sampling._LOG2_E), np.float32(0.5)), np.int32), np.float32)
    x = n.Sub(n.Sub(x, n.Mul(f, sampling._LN2_HIGH)), n.Mul(f, sampling._LN2_LOW))
    y = _horner(n, sampling._EXP_COEFFICIENTS, x)
    return n.Add(n.Add(n.Mul(y, n.Mul(x, x)), x), np.float32(1)), f


def _power_of_two(n: Nodes, exponent: str) -> str:
    """The power of two of whole floats in the range of the table."""
    table = np.exp2(np.arange(_LEAST_EXPONENT, _MOST_EXPONENT + 1)).astype(np.float32)
    index = n.cast(n.Sub(exponent, np.float32(_LEAST_EXPONENT)), np.int64)
    power: str = n.Gather(table, index)
    return power


def _horner(n: Nodes, coefficients: tuple[np.float32, ...], x: str) -> str:
    y: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        y = n.Add(n.Mul(y, x), coefficient)
    name: str = y
    return name

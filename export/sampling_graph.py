"""The sampling step of `vab_rt/sampling.py` in ONNX operators, number for number.

Floats are added and multiplied one at a time in float32, as there. What its order of work cannot
change is skipped: noise is drawn only where it can decide, for logits near the largest.
"""

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

    def cast(self, value: Any, dtype: npt.DTypeLike) -> str:
        name: str = self.Cast(value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        return name


def add_step(
    n: Nodes,
    tokens: str,
    conditional: str,
    unconditional: str,
    settings: dict[str, str],
    size: int,
) -> str:
    """Tokens [N] after one step, of tokens [N] int32 and logits [N, V] of both branches.

    settings: the names of seed_low and seed_high (uint64), step (uint64), guidance, scale (1 over
    the temperature) and mask_temperature (float32), top_k and num_remask (int64), all scalars.
    """
    s = settings
    rows = n.Squeeze(n.NonZero(n.Equal(tokens, np.int32(size))), _ZERO)  # [R]
    with_, without = (n.Gather(x, rows) for x in (conditional, unconditional))  # [R, V]
    guided = n.Add(without, n.Mul(s["guidance"], n.Sub(with_, without)))
    scaled = n.Mul(guided, s["scale"])
    top = n.ReduceMax(scaled, _ONE)  # [R, 1]
    is_near = n.GreaterOrEqual(scaled, n.Sub(top, NEAR))
    least = _kth_largest(n, scaled, is_near, s["top_k"], size)
    near = n.NonZero(n.And(is_near, n.GreaterOrEqual(scaled, least)))  # [2, M]
    row, code = (n.Gather(near, np.int64(i)) for i in (0, 1))  # [M]
    places, logits = n.Transpose(near), n.GatherND(scaled, n.Transpose(near))
    counter = n.Add(n.Mul(n.Gather(rows, row), np.int64(size)), code)
    scores = n.Add(logits, gumbel(n, counter, s, philox.TOKEN_STREAM))
    nothing = n.Expand(np.float32(-np.inf), n.Shape(scaled))
    drawn = n.ArgMax(n.ScatterND(nothing, places, scores), axis=1, keepdims=1)  # [R, 1]
    below = n.Sub(logits, n.Squeeze(n.Gather(top, row), _ONE))
    weights = n.cast(n.Mul(exp_poly(n, below), np.float32(2**24)), np.int64)  # [M]
    none = n.Expand(np.int64(0), n.Shape(rows))
    total = n.ScatterElements(none, row, weights, reduction="add", axis=0)  # [R]
    own = n.Squeeze(n.Sub(n.GatherElements(scaled, drawn, axis=1), top), _ONE)
    log_p = n.Sub(own, log_poly(n, n.Mul(n.cast(total, np.float32), np.float32(2**-24))))
    noise = gumbel(n, rows, s, philox.CONFIDENCE_STREAM)
    confidence = n.Add(log_p, n.Mul(s["mask_temperature"], noise))
    count = n.Reshape(s["num_remask"], _ONE)
    _, again = n.TopK(confidence, count, outputs=2, largest=0, sorted=1, axis=0)
    filled = n.Squeeze(n.cast(drawn, np.int32), _ONE)
    masked = n.Expand(np.int32(size), n.Shape(again))
    filled = n.ScatterElements(filled, again, masked, axis=0)
    result: str = n.ScatterElements(tokens, rows, filled, axis=0)
    return result


def _kth_largest(n: Nodes, scaled: str, is_near: str, top_k: str, size: int) -> str:
    """The k-th largest of each row [R, 1]; -inf where top_k is 0 or leaves out nothing near."""
    counts = n.cast(n.ReduceSum(n.cast(is_near, np.int32), _ONE, keepdims=0), np.int64)
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


def gumbel(n: Nodes, counter: str, settings: dict[str, str], stream: int) -> str:
    """Noise [M] of `philox.gumbel` for counters [M] int64."""
    word = _philox(n, n.cast(counter, np.uint64), settings, stream)
    mantissa = n.cast(n.BitShift(word, np.uint64(9), direction="RIGHT"), np.float32)
    u = n.Mul(n.Add(mantissa, np.float32(0.5)), np.float32(2**-23))
    noise: str = n.Neg(log_poly(n, n.Neg(log_poly(n, u))))
    return noise


def _philox(n: Nodes, c0: str, settings: dict[str, str], stream: int) -> str:
    """The first word of `philox.philox4x32` for counters [M] uint64 below 2**32."""
    low, shift = philox._LOW_32, philox._SHIFT_32
    c: list[Any] = [c0, settings["step"], np.uint64(stream), np.uint64(0)]
    keys: list[Any] = [settings["seed_low"], settings["seed_high"]]
    for _ in range(10):
        p0, p1 = n.Mul(c[0], philox._MULTIPLIERS[0]), n.Mul(c[2], philox._MULTIPLIERS[1])
        high0, high1 = (n.BitShift(p, shift, direction="RIGHT") for p in (p0, p1))
        c = [
            n.BitwiseXor(n.BitwiseXor(high1, c[1]), keys[0]),
            n.BitwiseAnd(p1, low),
            n.BitwiseXor(n.BitwiseXor(high0, c[3]), keys[1]),
            n.BitwiseAnd(p0, low),
        ]
        keys = [
            n.BitwiseAnd(n.Add(key, np.uint64(more)), low)
            for key, more in zip(keys, philox._KEY_INCREMENTS, strict=True)
        ]
    return c[0]


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


def exp_poly(n: Nodes, x: str) -> str:
    """`sampling.exp_poly` for x from -NEAR to 0."""
    k = n.cast(n.Sub(n.Mul(x, sampling._LOG2_E), np.float32(0.5)), np.int32)
    f = n.cast(k, np.float32)
    x = n.Sub(n.Sub(x, n.Mul(f, sampling._LN2_HIGH)), n.Mul(f, sampling._LN2_LOW))
    y = _horner(n, sampling._EXP_COEFFICIENTS, x)
    y = n.Add(n.Add(n.Mul(y, n.Mul(x, x)), x), np.float32(1))
    power: str = n.Mul(y, _power_of_two(n, f))
    return power


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

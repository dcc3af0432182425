"""The sampling step on a GPU: two kernels that give the tokens of `vab_rt.sampling.sample_step`.

`sample` draws a token and a confidence for every masked position; `remask` then commits the tokens
of a clip and masks its least confident again. Nothing returns to the host between steps: what
belongs to a request lies in a parameter block on the device, and the step number in a counter that
`remask` advances, so that a captured graph of one step can be replayed.

Letters: B clips, N positions, V codebook size and id of [MASK], S steps of the schedule.

Parameter block, 32-bit words:
    0  guidance, float32      3  S                      8 + 2 * b      seed of clip b, low half
    1  1 / temperature        4  number of the first    8 + 2 * b + 1  its high half
    2  top_k, 0 keeps all        step, for the noise    8 + 2 * B + s * (1 + B)
    5  to 7 are zero                                                   mask temperature of step s
                                                        ... + 1 + b    num_remask of clip b

Error word: 1 a logit is not finite, 2 num_remask does not fit, 4 the schedule is over. Bits stay
until the host clears them. With bit 1 set no clip changes and none advances; with 2 or 4 the clip.
"""

import triton
import triton.language as tl

NOT_FINITE = tl.constexpr(1)
BAD_COUNT = tl.constexpr(2)
SCHEDULE_OVER = tl.constexpr(4)
HEADER_WORDS = tl.constexpr(8)

TOKEN_STREAM = tl.constexpr(0)
CONFIDENCE_STREAM = tl.constexpr(1)

BELOW_FINITE = tl.constexpr(0x007FFFFF)  # the key of -inf; NaN of either sign lies outside too
ABOVE_FINITE = tl.constexpr(0xFF800000)  # the key of +inf


@triton.jit
def float_key(x):
    """uint32 in the order of the floats; zeros of either sign have the same key."""
    bits = x.to(tl.uint32, bitcast=True)
    bits = tl.where(bits == 0x80000000, 0, bits)
    return tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000).to(tl.uint32)


@triton.jit
def key_float(key):
    """The float32 whose key this is."""
    bits = tl.where(key >= 0x80000000, key ^ 0x80000000, key ^ 0xFFFFFFFF).to(tl.uint32)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def exp_poly(x):
    """`vab_rt.sampling.exp_poly`: e to the power of x <= 0, additions and multiplications."""
    x = tl.maximum(x, -80.0)
    n = (x * 1.44269504088896341 - 0.5).to(tl.int32)
    f = n.to(tl.float32)
    x = x - f * 0.693359375 - f * -2.12194440e-4
    y = x * 1.9875691500e-4 + 1.3981999507e-3
    y = y * x + 8.3334519073e-3
    y = y * x + 4.1665795894e-2
    y = y * x + 1.6666665459e-1
    y = y * x + 5.0000001201e-1
    y = y * (x * x) + x + 1.0
    return y * ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def log_poly(x):
    """`vab_rt.philox.log_poly`: natural logarithm of a positive normal float32."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) - 126
    mantissa = ((bits & 0x7FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)  # [0.5, 1)
    small = mantissa < 0.707106781186547524
    e = (exponent - small.to(tl.int32)).to(tl.float32)
    f = tl.where(small, mantissa + mantissa, mantissa) - 1.0
    z = f * f
    y = f * 7.0376836292e-2 + -1.1514610310e-1
    y = y * f + 1.1676998740e-1
    y = y * f + -1.2420140846e-1
    y = y * f + 1.4249322787e-1
    y = y * f + -1.6668057665e-1
    y = y * f + 2.0000714765e-1
    y = y * f + -2.4999993993e-1
    y = y * f + 3.3333331174e-1
    y = f * z * y + e * -2.12194440e-4 + z * -0.5
    return (f + y) + e * 0.693359375


@triton.jit
def gumbel(seed, c0, step, stream: tl.constexpr):
    """Gumbel noise of the counters (c0, step, stream, 0) under the 64-bit key."""
    word, _, _, _ = tl.philox(seed, c0, step, stream, 0)
    u = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2**-23
    return -log_poly(-log_poly(u))


@triton.jit
def kth_largest_key(key, k, low, high):
    """A threshold that the k largest of key [BLOCK] and their ties reach, and nothing else does.

    low and high: the smallest and the largest key of the row, which has at least k.
    """
    while low < high:
        middle = high - (high - low) // 2
        count = tl.sum((key >= middle).to(tl.int32))
        if count >= k:
            low = middle
        if count == k:  # no ties across it: as good as the k-th key itself
            high = middle
        if count < k:
            high = middle - 1
    return low


@triton.jit
def log_share(scaled, keep, top, v, token):
    """log p of a token among those that are kept; top: the largest logit."""
    weight = tl.where(keep, (exp_poly(scaled - top) * 16777216.0).to(tl.int32), 0)
    total = tl.sum(weight.to(tl.int64)).to(tl.float32) * 5.9604644775390625e-08  # 2**-24
    chosen = tl.max(tl.where(v == token, scaled, float("-inf")))
    return (chosen - top) - log_poly(total)


@triton.jit
def schedule_entry(parameters, step, num_clips):
    """Where the mask temperature of a step lies, followed by the num_remask of each clip."""
    return parameters + HEADER_WORDS + 2 * num_clips + step * (1 + num_clips)


@triton.jit
def seed_of(parameters, b):
    """uint64, of clip b."""
    words = parameters + HEADER_WORDS + 2 * b
    low = tl.load(words).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(words + 1).to(tl.uint32, bitcast=True).to(tl.uint64)
    return low | (high << 32)


@triton.jit(do_not_specialize=["N", "V"])
def sample(
    tokens,  # [B, N] int32; only positions that hold V are scored
    conditional,  # [B, N, V] float32
    unconditional,  # [B, N, V] float32; the address of conditional where guidance is 1
    parameters,  # parameter block, int32
    steps,  # [B] int32: schedule entry of each clip
    errors,  # [1] int32
    sampled,  # [B, N] int32, written where masked
    confidence,  # [B, N] float32, written where masked
    N,
    V,
    BLOCK: tl.constexpr,  # a power of two, at least V
):
    """One program a position, on a grid of (N, B)."""
    n = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    position = b * N + n
    if tl.load(tokens + position) != V:
        return
    schedule_step = tl.load(steps + b)
    if schedule_step >= tl.load(parameters + 3):
        tl.atomic_or(errors, SCHEDULE_OVER)
        return

    v = tl.arange(0, BLOCK)
    lane = v < V
    c = tl.load(conditional + position * V + v, mask=lane, other=0.0)
    u = tl.load(unconditional + position * V + v, mask=lane, other=0.0)
    guidance = tl.load(parameters).to(tl.float32, bitcast=True)
    inverse_temperature = tl.load(parameters + 1).to(tl.float32, bitcast=True)
    scaled = (u + guidance * (c - u)) * inverse_temperature  # [BLOCK]

    key = float_key(scaled)
    low = tl.min(tl.where(lane, key, 0xFFFFFFFF).to(tl.uint32))
    key = tl.where(lane, key, 0).to(tl.uint32)
    high = tl.max(key)
    if (low <= BELOW_FINITE) | (high >= ABOVE_FINITE):
        tl.atomic_or(errors, NOT_FINITE)
        return

    top_k = tl.load(parameters + 2)
    if (top_k > 0) & (top_k < V):
        low = kth_largest_key(key, top_k, low, high)
    keep = key >= low

    seed = seed_of(parameters, b)
    step = (tl.load(parameters + 4) + schedule_step).to(tl.uint32, bitcast=True)

    c0 = (n.to(tl.int64) * V + v).to(tl.uint32)
    score = tl.where(keep, scaled + gumbel(seed, c0, step, TOKEN_STREAM), float("-inf"))
    token = tl.argmax(score, axis=0, tie_break_left=True)

    log_p = log_share(scaled, keep, key_float(high), v, token)
    entry = schedule_entry(parameters, schedule_step, tl.num_programs(1))
    mask_temperature = tl.load(entry).to(tl.float32, bitcast=True)
    noise = gumbel(seed, n.to(tl.uint32), step, CONFIDENCE_STREAM)
    tl.store(sampled + position, token)
    tl.store(confidence + position, log_p + mask_temperature * noise)


@triton.jit
def threshold_of(tokens, confidence, k, N, V, BLOCK: tl.constexpr):
    """The smallest key that at least k masked positions of a clip do not exceed, and how many lie
    below it; 0 for k 0, where nothing is masked again."""
    low = tl.full((), 0, tl.uint32)
    high = tl.where(k == 0, 0, 0xFFFFFFFF).to(tl.uint32)
    num_below = 0
    while low < high:
        middle = low + (high - low) // 2
        count = 0
        for start in range(0, N, BLOCK):
            n = start + tl.arange(0, BLOCK)
            masked = tl.load(tokens + n, mask=n < N, other=-1) == V
            key = float_key(tl.load(confidence + n, mask=masked, other=0.0))
            count += tl.sum((masked & (key <= middle)).to(tl.int32))
        if count >= k:
            high = middle
        if count < k:
            low = middle + 1
            num_below = count
    return low, num_below


@triton.jit(do_not_specialize=["N", "V"])
def remask(
    tokens,  # [B, N] int32, changed in place where they hold V
    parameters,  # parameter block, int32
    steps,  # [B] int32, advanced by one
    errors,  # [1] int32
    sampled,  # [B, N] int32, read where masked
    confidence,  # [B, N] float32, read where masked
    N,
    V,
    BLOCK: tl.constexpr,  # positions held at a time; N may be any number
):
    """One program a clip, on a grid of (B)."""
    b = tl.program_id(0).to(tl.int64)
    step = tl.load(steps + b)
    if (tl.load(errors) & NOT_FINITE) != 0:
        return
    if step >= tl.load(parameters + 3):
        tl.atomic_or(errors, SCHEDULE_OVER)
        return
    k = tl.load(schedule_entry(parameters, step, tl.num_programs(0)) + 1 + b)
    tokens += b * N
    sampled += b * N
    confidence += b * N

    num_masked = 0
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)
        masked = tl.load(tokens + n, mask=n < N, other=-1) == V
        num_masked += tl.sum(masked.to(tl.int32))
    if (k < 0) | (k > num_masked):
        tl.atomic_or(errors, BAD_COUNT)
        return

    low, num_below = threshold_of(tokens, confidence, k, N, V, BLOCK)
    num_equal = 0  # seen at the threshold so far; the first k - num_below go by position
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)
        masked = tl.load(tokens + n, mask=n < N, other=-1) == V
        key = float_key(tl.load(confidence + n, mask=masked, other=0.0))
        equal = (masked & (key == low)).to(tl.int32)
        place = num_equal + tl.cumsum(equal, axis=0)  # from 1
        again = (key < low) | ((equal == 1) & (place <= k - num_below))
        token = tl.load(sampled + n, mask=masked, other=0)
        tl.store(tokens + n, tl.where(again, V, token), mask=masked)
        num_equal += tl.sum(equal)
    tl.debug_barrier()  # every thread has read its step
    tl.store(steps + b, step + 1)

"""What pre-training does to a batch before the model sees it (paper section 3.2, appendix B.3)."""

import numpy as np
from numpy.typing import NDArray

from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

MASK_MEAN, MASK_STD, MASK_RANGE = 0.55, 0.25, (0.5, 1.0)


def mask_ratios(
    random: np.random.Generator, count: int, mean: float = MASK_MEAN
) -> NDArray[np.float64]:
    """Truncated normal, one ratio a clip [count]; drawn by rejection."""
    low, high = MASK_RANGE
    ratios = np.empty(0)
    while len(ratios) < count:
        drawn = random.normal(mean, MASK_STD, 4 * count)
        ratios = np.concatenate([ratios, drawn[(drawn >= low) & (drawn <= high)]])
    return ratios[:count]


def mask_tokens(
    tokens: NDArray[np.int32],
    mask_id: int,
    random: np.random.Generator,
    mean: float = MASK_MEAN,
    given: int = 0,
    in_order: float = 0.0,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Each token is masked independently with its clip's ratio -> (masked tokens, which).

    The first `given` codebooks stay as they are. in_order: this share of the clips has its last
    codebooks masked and its first known instead, as decoding leaves them, which fills the first
    codebooks first (as SoundStorm does, arXiv:2305.09636).
    """
    ratios = mask_ratios(random, len(tokens), mean)[:, None]  # [B, 1]
    if in_order:
        num_left, codebook = tokens.shape[1] - given, np.arange(tokens.shape[1]) - given
        known = random.random((len(tokens), 1)) * num_left  # [B, 1]
        share = (codebook + 1 - known).clip(0, 1)  # [B, K]
        ratios = np.where(random.random((len(tokens), 1)) < in_order, share, ratios)
    hidden = random.random(tokens.shape) < ratios[:, :, None]  # [B, K, T]
    hidden[:, :given] = False
    return np.where(hidden, np.int32(mask_id), tokens), hidden


def temporal_mixup(
    tokens: NDArray[np.int32],
    features: NDArray[np.float32],
    random: np.random.Generator,
    probability: float = 0.5,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Cut a clip and its partner, the next in the batch, at one random frame; join the pieces."""
    tokens, features = tokens.copy(), features.copy()
    partner_tokens, partner_features = np.roll(tokens, 1, 0), np.roll(features, 1, 0)
    num_frames, num_steps = features.shape[1], tokens.shape[2]
    for b in np.flatnonzero(random.random(len(tokens)) < probability):
        frame = random.integers(1, num_frames) if num_frames > 1 else 0
        step = round(frame * num_steps / num_frames)
        tokens[b, :, step:] = partner_tokens[b, :, step:]
        features[b, frame:] = partner_features[b, frame:]
    return tokens, features


def temporal_freeze(
    features: NDArray[np.float32], random: np.random.Generator, probability: float = 0.0
) -> NDArray[np.float32]:
    """The last feature repeats from one random frame on, as the runtime fills up a video that ends
    before its window does; the tokens go on."""
    features = features.copy()
    for b in np.flatnonzero(random.random(len(features)) < probability):
        frame = random.integers(1, features.shape[1]) if features.shape[1] > 1 else 1
        features[b, frame:] = features[b, frame - 1]
    return features


def temporal_roll(
    tokens: NDArray[np.int32],
    features: NDArray[np.float32],
    random: np.random.Generator,
    probability: float = 0.1,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Turn both streams of a clip around in time by one random number of frames."""
    tokens, features = tokens.copy(), features.copy()
    num_frames, num_steps = features.shape[1], tokens.shape[2]
    for b in np.flatnonzero(random.random(len(tokens)) < probability):
        frame = random.integers(num_frames)
        tokens[b] = np.roll(tokens[b], round(frame * num_steps / num_frames), 1)
        features[b] = np.roll(features[b], frame, 0)
    return tokens, features


def part_of_clip(
    crop_s: float | None, crop_share: float, config: ModelConfig, progress: float
) -> float:
    """The share of a clip that batches hold at `progress`. Raises OptionError for no such part."""
    if crop_s is None or progress >= crop_share:
        return 1.0
    if not 0 < crop_s < config.clip_s:
        raise OptionError(
            f"crop_s is {crop_s:g}, expected more than 0 s and less than a clip, {config.clip_s:g} "
            "s; leave it out to train on whole clips"
        )
    return crop_s / config.clip_s


def random_part(
    tokens: np.ndarray,
    features: np.ndarray,
    config: ModelConfig,
    share: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The same part of every clip, on whole visual positions -> tokens, features, first frame."""
    stride, per_frame = config.image_stride, config.num_token_steps / config.num_frames
    kept = max(1, round(share * config.num_visual))
    first = int(random.integers(config.num_visual - kept + 1)) * stride
    kept *= stride
    steps = slice(round(first * per_frame), round((first + kept) * per_frame))
    return tokens[:, :, steps], features[:, first : first + kept], first

"""A folder of shards whose clips tell their numbers."""

import numpy as np
from checkpoints import tiny_config

from training.datasets.shard_format import (
    ClipNotes,
    Sample,
    ShardIndex,
    clip_facts,
    write_index,
    write_shard,
)

CONFIG = tiny_config()
K, T = CONFIG.num_codebooks, CONFIG.num_token_steps
F, C = CONFIG.num_frames, CONFIG.visual_dim
LABELS = ("rain", "wind", "bell")
DIGEST = "ab" * 32
COUNTS = (5, 3, 7, 0, 4, 6)  # clips in each shard, 25 in all


def make_sample(number):
    """A clip whose every array tells its number."""
    return Sample(
        key=f"{number:09d}",
        tokens=np.full((K, T), number, np.int16),
        features=np.full((F, C), number, np.float16),
        notes=ClipNotes(f"{number}.mp4", 0.0, 2.0, (LABELS[number % 3],)),
    )


def make_shards(folder, counts=COUNTS, complete=True):
    folder.mkdir(exist_ok=True)
    shards, number = {}, 0
    for i, count in enumerate(counts):
        samples = [make_sample(n) for n in range(number, number + count)]
        name, number = f"shard-{i:06d}.tar", number + count
        shards[name] = write_shard(folder / name, samples)
    index = ShardIndex(
        model=clip_facts(CONFIG),
        encoders_sha256=DIGEST,
        labels=LABELS,
        shards=shards,
        complete=complete,
    )
    write_index(folder, index)
    return folder

"""Shards: batches that any step can be found in, wherever the shards are, and damage by name."""

import hashlib
import tarfile

import fsspec
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import tiny_config
from shard_files import CONFIG, DIGEST, make_sample, make_shards

from training.datasets.shard_format import (
    INDEX,
    encoders_sha256,
    read_index,
    write_index,
    write_shard,
)
from training.datasets.shards import ShardedClips
from vab_rt.errors import DataError, OutputError

K, T = CONFIG.num_codebooks, CONFIG.num_token_steps
F, C = CONFIG.num_frames, CONFIG.visual_dim


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path / "shards")


def numbers(batch):
    return batch.tokens[:, 0, 0].tolist()


def test_a_batch_is_what_clips_in_memory_would_give(folder):
    batch = ShardedClips(folder, CONFIG).batch(step=0, count=6, seed=0)
    assert (batch.tokens.dtype, batch.tokens.shape) == (np.int32, (6, K, T))
    assert (batch.features.dtype, batch.features.shape) == (np.float32, (6, F, C))
    assert (batch.labels.dtype, batch.labels.shape) == (np.float32, (6, 3))
    assert numbers(batch) == batch.features[:, -1, -1].tolist()
    assert batch.labels.argmax(1).tolist() == [n % 3 for n in numbers(batch)]
    assert batch.labels.sum() == 6


@pytest.mark.parametrize("shards_at_once", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [5, 4, 40])
def test_every_epoch_has_every_clip_once_in_another_order(folder, shards_at_once, count):
    clips = ShardedClips(folder, CONFIG, shards_at_once=shards_at_once)
    assert len(clips) == 25
    run = [n for step in range(100 // count) for n in numbers(clips.batch(step, count, seed=3))]
    first, second = run[:25], run[25:50]
    assert sorted(first) == sorted(second) == list(range(25))
    assert first != second
    if shards_at_once == 8:
        assert first != sorted(first)


@pytest.mark.parametrize("shards_at_once", [1, 2, 8])
def test_a_run_that_resumes_sees_what_it_would_have_seen(folder, shards_at_once):
    clips = ShardedClips(folder, CONFIG, shards_at_once=shards_at_once)
    whole = [numbers(clips.batch(step, 4, seed=1)) for step in range(20)]
    for step in (19, 7, 13):
        fresh = ShardedClips(folder, CONFIG, shards_at_once=shards_at_once)
        assert numbers(fresh.batch(step, 4, seed=1)) == whole[step]
    assert numbers(clips.batch(0, 4, seed=2)) != whole[0]


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_see_what_one_process_would(folder, world):
    clips = ShardedClips(folder, CONFIG, shards_at_once=2)
    for step in range(5):
        whole = [0] * 6
        for rank in range(world):
            whole[rank::world] = numbers(clips.batch(step, 6 // world, 7, rank, world))
        assert whole == numbers(clips.batch(step, 6, 7))


def test_two_groups_at_most_are_in_memory(folder):
    clips = ShardedClips(folder, CONFIG, shards_at_once=1)
    for step in range(40):
        clips.batch(step, 3, seed=0)
        assert len(clips._loading) <= 2


def test_shards_are_read_from_any_file_system(folder):
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/clips/{path.name}", path.read_bytes())
    remote = ShardedClips("memory://clips/", CONFIG)
    local = ShardedClips(str(folder), CONFIG)
    assert numbers(remote.batch(2, 8, seed=0)) == numbers(local.batch(2, 8, seed=0))
    memory.rm("/clips", recursive=True)


def test_all_clips_fit_in_memory_in_their_order(folder):
    clips = ShardedClips(folder, CONFIG).in_memory()
    assert clips.tokens[:, 0, 0].tolist() == list(range(25))
    assert clips.labels.argmax(1).tolist() == [n % 3 for n in range(25)]
    assert (clips.tokens.dtype, clips.features.dtype) == (np.int16, np.float16)


def test_the_webdataset_library_reads_the_shards(folder):
    webdataset = pytest.importorskip("webdataset", reason="only this test needs it")
    url = str(folder / "shard-{000000..000005}.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(25)]
    np.testing.assert_array_equal(samples[7]["tokens.npy"], make_sample(7).tokens)
    np.testing.assert_array_equal(samples[7]["features.npy"], make_sample(7).features)
    assert samples[7]["json"]["labels"] == ["wind"]
    assert samples[7]["json"]["source"] == "7.mp4"


def test_the_same_samples_give_the_same_bytes(tmp_path):
    shards = [write_shard(tmp_path / name, [make_sample(1)]) for name in ("a.tar", "b.tar")]
    assert shards[0] == shards[1]
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:1000], r"is cut short: 1000 bytes, expected \d+; copy it again, or"),
        (lambda data: b"", "is cut short: 0 bytes"),
        (lambda data: data + b"more", "has grown"),
        (lambda data: data[:900] + b"x" + data[901:], "is damaged, expected content with the sha"),
    ],
)
def test_a_damaged_shard_is_named(folder, change, message):
    damage(folder / "shard-000004.tar", change)
    clips = ShardedClips(folder, CONFIG)
    with pytest.raises(DataError, match=rf"shard-000004\.tar {message}"):
        for step in range(25):
            clips.batch(step, 1, seed=0)
    with pytest.raises(DataError, match=r"shard-000004\.tar"):
        ShardedClips(folder, CONFIG).in_memory()


def test_a_missing_shard_is_named(folder):
    (folder / "shard-000002.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000002\.tar cannot be read \(No such file"):
        ShardedClips(folder, CONFIG).in_memory()


def rewrite_index(folder, **changes):
    index = read_index("index", (folder / INDEX).read_bytes())
    write_index(folder, msgspec.structs.replace(index, **changes))
    return index


def swap_shard(folder, members):
    """Replaces the first shard by a tar with these members, which the index vouches for."""
    path = folder / "shard-000000.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            (folder / "member").write_bytes(data)
            tar.add(folder / "member", name)
    index = read_index("index", (folder / INDEX).read_bytes())
    data = path.read_bytes()
    entry = msgspec.structs.replace(
        index.shards[path.name],
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    write_index(folder, msgspec.structs.replace(index, shards={**index.shards, path.name: entry}))


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"000000000.json": b"{}"},
        {"000000000.json": b'{"source":"a","start_s":0,"end_s":1,"labels":[]}'},
        {"000000000.tokens.npy": b"nonsense"},
    ],
)
def test_a_tar_of_something_else_is_refused(folder, members):
    swap_shard(folder, members)
    with pytest.raises(DataError, match=r"shard-000000\.tar is no shard of clips"):
        ShardedClips(folder, CONFIG).in_memory()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.full((F, C), np.nan, np.float16)}, "features hold NaN or infinity"),
        ({"features": np.zeros((F, C), np.float32)}, "features is float32 .*expected float16"),
        ({"features": np.zeros((F + 1, C), np.float16)}, rf"features is float16 \[{F + 1}, {C}\]"),
        ({"tokens": np.zeros((K, T - 1), np.int16)}, rf"tokens is int16 \[{K}, {T - 1}\]"),
        ({"tokens": np.full((K, T), 37, np.int16)}, "tokens are 37 to 37, expected 0 to 36"),
        ({"tokens": np.full((K, T), -1, np.int16)}, "tokens are -1 to -1, expected 0 to 36"),
    ],
)
def test_arrays_that_no_clip_has_are_refused(folder, arrays, message):
    path = folder / "shard-000000.tar"
    write_shard(path, [msgspec.structs.replace(make_sample(0), **arrays)])
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    swap_shard(folder, members)
    with pytest.raises(DataError, match=rf"shard-000000\.tar is no shard of clips .*{message}"):
        ShardedClips(folder, CONFIG).in_memory()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "truncated"),
        (b'{"format_version":2}', "format_version"),
        (b'{"kind":"vab"}', "kind"),
        (b"\xff\xfe", "expected the index of shards in format 1"),
    ],
)
def test_an_index_of_something_else_is_refused(folder, text, message):
    (folder / INDEX).write_bytes(text)
    with pytest.raises(DataError, match=rf"shards\.json: .*{message}"):
        ShardedClips(folder, CONFIG)


def test_an_index_that_leaves_its_folder_is_refused(folder):
    text = (folder / INDEX).read_text().replace("shard-000001.tar", "../../secret")
    (folder / INDEX).write_text(text)
    with pytest.raises(DataError, match=r"shards\.json: .*matching regex"):
        ShardedClips(folder, CONFIG)


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(DataError, match=r"shards\.json cannot be read \(No such file"):
        ShardedClips(tmp_path, CONFIG)
    with pytest.raises(DataError, match="elsewhere://clips cannot be opened: Protocol not known"):
        ShardedClips("elsewhere://clips", CONFIG)


@pytest.mark.parametrize(
    ("fact", "value"), [("codebook_size", 64), ("visual_rate_hz", 5.0), ("codec", "encodec")]
)
def test_clips_of_another_model_are_refused(folder, fact, value):
    with pytest.raises(DataError, match=f"has {fact} .*, expected {value!r} as in the model tiny"):
        ShardedClips(folder, tiny_config(**{fact: value}))


def test_a_transformer_of_another_size_may_read_the_same_clips(folder):
    assert len(ShardedClips(folder, tiny_config(width=64, layers=4, alibi="index"))) == 25


def test_clips_of_other_weights_are_refused_where_it_matters(folder):
    assert len(ShardedClips(folder, CONFIG, encoders_sha256=DIGEST)) == 25
    with pytest.raises(DataError, match="extracted with other weights .*abababababab"):
        ShardedClips(folder, CONFIG, encoders_sha256="cd" * 32)


def test_an_unfinished_extraction_is_refused(folder):
    rewrite_index(folder, complete=False)
    with pytest.raises(DataError, match="is not finished: 6 shards are there; run the same"):
        ShardedClips(folder, CONFIG)


def test_shards_without_clips_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no clips"):
        ShardedClips(make_shards(tmp_path / "empty", counts=(0,)), CONFIG)


def test_weights_have_a_digest_that_tells_them_apart():
    torch.manual_seed(0)
    one, two = torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)
    before = encoders_sha256(one, two)
    assert before == encoders_sha256(one, two)
    with torch.no_grad():
        one.weight[0, 0] += 1e-6
    assert encoders_sha256(one, two) != before


def test_a_full_disk_leaves_no_part_of_a_shard(tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", no_room)
    with pytest.raises(OutputError, match=r"shard-000000\.tar could not be written \(No space"):
        write_shard(tmp_path / "shard-000000.tar", [make_sample(0)])
    assert list(tmp_path.iterdir()) == []

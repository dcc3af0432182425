"""Arrays that grow row by row: cut anywhere, they go on with whole rows."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from training.datasets.resumable_arrays import NOTES, Field, Row, grow, read_grown

FIELDS = {"a": Field("<i2", (3,)), "b": Field("<f4", (2, 2))}
COUNT = 5


def rows_from(first, stop=COUNT):
    for i in range(first, stop):
        yield Row({"a": np.full(3, i, "<i2"), "b": np.full((2, 2), i / 2, "<f4")}, {"i": i})


def interrupted(first):
    yield from rows_from(first, 3)
    raise KeyboardInterrupt


def begun(folder):
    with pytest.raises(KeyboardInterrupt):
        grow(folder, FIELDS, COUNT, interrupted)
    return folder.with_name(folder.name + ".partial")


@pytest.mark.parametrize(
    ("name", "kept_bytes", "first"),
    [
        ("a.npy", 128 + 2 * 6 + 1, 2),  # in the third row, behind 128 bytes of header
        ("b.npy", 128 + 16, 1),
        ("b.npy", 60, 0),
        (NOTES, 9 + 9 + 4, 2),  # {"i": 0} and an end of line are 9 bytes
        (NOTES, 0, 0),
    ],
)
def test_what_is_cut_goes_on_with_whole_rows(name, kept_bytes, first, tmp_path):
    partial = begun(tmp_path / "rows")
    with (partial / name).open("r+b") as file:
        file.truncate(kept_bytes)
    asked = []
    grow(tmp_path / "rows", FIELDS, COUNT, lambda row: asked.append(row) or rows_from(row))
    assert asked == [first] and not partial.exists()
    arrays, notes = read_grown(tmp_path / "rows", ("a", "b"))
    assert [note["i"] for note in notes] == list(range(COUNT))
    np.testing.assert_array_equal(arrays["a"][:, 0], range(COUNT))
    np.testing.assert_array_equal(arrays["b"][:, 1, 1] * 2, range(COUNT))


def test_rows_of_another_shape_are_not_gone_on_with(tmp_path):
    begun(tmp_path / "rows")
    fields = {"a": Field("<i2", (4,)), "b": FIELDS["b"]}

    def wider(first):
        assert first == 0
        for i in range(COUNT):
            yield Row({"a": np.full(4, i, "<i2"), "b": np.zeros((2, 2), "<f4")})

    arrays, _ = read_grown(grow(tmp_path / "rows", fields, COUNT, wider), ("a", "b"))
    assert arrays["a"].shape == (COUNT, 4)


def test_notes_that_are_fewer_than_rows_are_damage(tmp_path):
    grow(tmp_path / "rows", FIELDS, COUNT, rows_from)
    notes = tmp_path / "rows" / NOTES
    notes.write_text("".join(notes.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(ValueError, match=r"notes\.jsonl has 2 lines"):
        read_grown(tmp_path / "rows", ("a", "b"))

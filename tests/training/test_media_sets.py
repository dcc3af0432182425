"""Layouts of media: which clips a folder or a CSV holds, and which lines are wrong."""

import os

import pytest
from media import make_video

from training.datasets.label_files import read_rows
from training.datasets.media_sets import Segment, list_csv, list_folder, media_files
from vab_rt.errors import DataError

AUDIOSET = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
--ZhevVpy1s, 50.000, 60.000, "/m/012xff"
-0RWZT-miFs, 0.000, 9.500, "/m/09x0r"
"""
CLASSES = """\
index,mid,display_name
0,/m/09x0r,"Speech"
1,/m/012xff,"Toothbrush"
2,/t/dd00088,"Gush"
3,/m/0fqfqc,"Wail, moan"
"""
VGGSOUND = """\
---g-f_I2yQ,1,"people marching",test
--0PQM4-hqg,30,"waterfall burbling",train
--56QUhyDQM,185,"playing tennis, doubles",train
"""


MSRVTT = """\
key,vid_key,video_id,sentence
ret0,msr9770,video9770,"a person is connecting something, to system"
ret1,msr9771,video9771,a little girl does gymnastics
ret2,msr9770,video9770,somebody works at a table
ret3,msr7020,video7020,a woman creates a fondant baby
"""
MSRVTT_JSON = """
{"info": {"year": "2016"}, "sentences": [{"caption": "a man", "video_id": "video7010"}], "videos": [
{"video_id": "video0", "split": "train", "start time": 137.7, "end time": 149.4, "category": 9},
{"video_id": "video7010", "split": "test", "start time": 8.1, "end time": 25.2, "category": 3}]}
"""


@pytest.fixture
def layout(tmp_path):
    """Writes a CSV, and empty files with these names beside it: matching reads names alone."""

    def write(text, *names, classes=None):
        media = tmp_path / "media"
        for name in names:
            (media / name).parent.mkdir(parents=True, exist_ok=True)
            (media / name).touch()
        (tmp_path / "set.csv").write_text(text)
        if classes is not None:
            (tmp_path / "class_labels_indices.csv").write_text(classes)
        return media, tmp_path / "set.csv"

    return write


def listed(media, csv, classes=None, split=None):
    return list_csv(media, csv, classes, split)


def test_audioset_rows_with_the_names_of_their_classes(layout):
    listing = listed(*layout(AUDIOSET, "--PJHxphWEs.mp4", "-0RWZT-miFs.mkv", classes=CLASSES))
    assert listing.labels == ("Speech", "Toothbrush", "Gush", "Wail, moan")
    assert listing.segments == [
        Segment("--PJHxphWEs.mp4", 30, 40, ("Speech", "Gush"), "either"),
        Segment("-0RWZT-miFs.mkv", 0, 9.5, ("Speech",), "either"),
    ]
    (missing,) = listing.skipped
    assert (missing.source, missing.start_s) == ("--ZhevVpy1s", 50)
    assert "no file in" in missing.reason


def test_audioset_rows_without_a_class_file_keep_their_ids(layout):
    listing = listed(*layout(AUDIOSET, "--PJHxphWEs.mp4"))
    assert listing.labels == ("/m/012xff", "/m/09x0r", "/t/dd00088")


def test_vggsound_rows_of_one_split_keep_the_labels_of_all(layout):
    media, csv = layout(VGGSOUND, "--0PQM4-hqg_000030.mp4", "--56QUhyDQM_000185.mp4")
    listing = listed(media, csv, split="train")
    assert listing.labels == ("people marching", "playing tennis, doubles", "waterfall burbling")
    assert listing.segments == [
        Segment("--0PQM4-hqg_000030.mp4", 30, 40, ("waterfall burbling",), "segment"),
        Segment("--56QUhyDQM_000185.mp4", 185, 195, ("playing tennis, doubles",), "segment"),
    ]
    assert listing.skipped == []
    assert [line.source for line in listed(media, csv).skipped] == ["---g-f_I2yQ"]


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("--PJHxphWEs.mp4", "either"),
        ("Y--PJHxphWEs.MP4", "either"),
        ("train/a/--PJHxphWEs.webm", "either"),
        ("--PJHxphWEs_000030.mp4", "segment"),
        ("--PJHxphWEs_000030_000040.mp4", "segment"),
        ("--PJHxphWEs_30.mp4", "segment"),
        ("--PJHxphWEs_30_40.mp4", "segment"),
        ("--PJHxphWEs_30-40.mp4", "segment"),
        ("--PJHxphWEs_30.0_40.0.mp4", "segment"),
        ("--PJHxphWEs_30.000_40.000.mp4", "segment"),
        ("--PJHxphWEs_30000_40000.mp4", "segment"),
        ("Y--PJHxphWEs_30.000_40.000.mp4", "segment"),
    ],
)
def test_the_usual_names_are_found(layout, name, holds):
    (segment,) = listed(*layout(AUDIOSET, name)).segments
    assert (segment.path, segment.holds) == (name, holds)


@pytest.mark.parametrize("name", ["--PJHxphWEs_000040.mp4", "PJHxphWEs.mp4", "--PJHxphWEs.json"])
def test_other_names_are_not(layout, name):
    with pytest.raises(DataError, match="none of the 3 videos"):
        listed(*layout(AUDIOSET, name, "other.mp4"))


def test_a_cut_file_is_preferred_to_the_whole_video(layout):
    names = ("--PJHxphWEs.mp4", "--PJHxphWEs_000030.mp4")
    (segment,) = listed(*layout(AUDIOSET, *names)).segments
    assert segment.path == "--PJHxphWEs_000030.mp4"


def test_msrvtt_has_each_video_once_without_labels(layout):
    """The clip is the file's first ten seconds, wherever in its video the file was cut."""
    listing = listed(*layout(MSRVTT, "video9770.mp4", "sub/video7020.mp4"), split="test")
    assert listing.labels == ()
    assert [(s.path, s.start_s, s.end_s, s.labels) for s in listing.segments] == [
        ("video9770.mp4", 0, 10, ()),
        ("sub/video7020.mp4", 0, 10, ()),
    ]
    assert [skipped.source for skipped in listing.skipped] == ["video9771"]


def test_msrvtts_json_has_splits(layout):
    media, path = layout(MSRVTT_JSON, "video0.mp4", "video7010.mp4")
    path = path.rename(path.with_suffix(".json"))
    assert [s.path for s in listed(media, path, split="test").segments] == ["video7010.mp4"]
    assert len(listed(media, path).segments) == 2
    with pytest.raises(DataError, match="no rows of the split 'validate', expected test or train"):
        listed(media, path, split="validate")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("set.json", "{", "cannot be read as a list of videos"),
        ("set.json", '{"videos": [{"id": 3}]}', "video_id"),
        ("set.json", '{"videos": []}', "has no videos"),
        ("set.csv", MSRVTT + "ret4,msr1\n", "line 6: found 2 fields, expected key, vid_key"),
    ],
)
def test_a_list_of_msrvtt_that_is_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_a_csv_may_name_files_themselves(layout):
    text = 'rain/one.mp4, 0.0, 10.0, "rain"\ntwo.mov, 0.0, 10.0, "rain,wind"\n'
    listing = listed(*layout(text, "rain/one.mp4", "x/two.mov"))
    assert [segment.path for segment in listing.segments] == ["rain/one.mp4", "x/two.mov"]
    assert listing.segments[1].labels == ("rain", "wind")


def test_labels_without_a_single_file_are_an_error_that_says_what_was_looked_for(layout):
    with pytest.raises(DataError, match=r"none of the 3 videos.*--PJHxphWEs_000030\.mp4"):
        listed(*layout(AUDIOSET, "holiday.mp4"))


OWN = '# a comment\nok, 0.0, 10.0, "x"\n'


@pytest.mark.parametrize(
    ("before", "line", "message"),
    [
        (OWN, "abc, 1.0, 2.0", "found 3 fields, expected ID, start_seconds, end_seconds"),
        (OWN, "abc, one, 2.0, x", "found 'one', expected a time in seconds"),
        (OWN, "abc, -1, 2.0, x", "found '-1', expected a time"),
        (OWN, "abc, nan, 2.0, x", "found 'nan', expected a time"),
        (OWN, "abc, 3.0, 2.0, x", "the clip ends at 2.0 s, expected later than its start"),
        (OWN, "abc, 1.0, 2.0, ", "expected at least one, none of them empty"),
        (OWN, ", 1.0, 2.0, x", "the first field is empty"),
        (OWN, 'abc, 1.0, 2.0, "x', "unexpected end of data"),
        (VGGSOUND, "abc,1,x", "found 3 fields, expected ID, start_seconds, .label., train or test"),
        (VGGSOUND, "abc,1,x,dev", "the split is 'dev', expected train or test"),
        (VGGSOUND, "abc,soon,x,test", "found 'soon', expected a time"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, before, line, message):
    path = tmp_path / "set.csv"
    path.write_text(f"{before}{line}\n")
    number = "4" if before is VGGSOUND else "[34]"
    with pytest.raises(DataError, match=rf"set\.csv, line {number}: .*{message}"):
        read_rows(path)


def test_the_mark_that_spreadsheets_begin_with_is_no_part_of_a_name(tmp_path):
    (tmp_path / "set.csv").write_text('dog,0,"bark",train\n', encoding="utf-8-sig")
    assert read_rows(tmp_path / "set.csv")[0].name == "dog"


def test_a_csv_that_is_none(tmp_path):
    (tmp_path / "set.csv").write_bytes(b"\xff\xfe\x00 binary")
    with pytest.raises(DataError, match=r"set\.csv, line 1: .*expected UTF-8"):
        read_rows(tmp_path / "set.csv")
    (tmp_path / "set.csv").write_text("# YTID, start_seconds, end_seconds, positive_labels\n")
    with pytest.raises(DataError, match=r"set\.csv has no rows"):
        read_rows(tmp_path / "set.csv")
    with pytest.raises(DataError, match=r"none\.csv is not a file"):
        read_rows(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (CLASSES.replace("dd00088", "other"), "set.csv, line 4: label '/t/dd00088' is not among"),
        (CLASSES.replace("\n2,", "\n5,"), "indices.csv, line 4: .*expected index 2"),
        ("index,mid,display_name\n", "indices.csv has no classes"),
    ],
)
def test_a_file_of_other_classes_is_refused(layout, classes, message):
    media, csv = layout(AUDIOSET, "--PJHxphWEs.mp4", classes=classes)
    with pytest.raises(DataError, match=message):
        listed(media, csv)


def test_audioset_has_no_splits(layout):
    with pytest.raises(DataError, match="no rows of the split 'test', expected none, as in Audio"):
        listed(*layout(AUDIOSET, "--PJHxphWEs.mp4"), split="test")


def test_a_folder_without_media(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "._hidden.mp4").touch()
    with pytest.raises(DataError, match="holds no media, expected files of the types avi"):
        media_files(tmp_path)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        media_files(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [b"a\xff.mp4", b"b\xff/a.mp4"])
def test_a_name_that_is_no_text_is_told_before_any_work(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    for folder in {tmp_path, path.parent}:
        with pytest.raises(DataError, match="has a name that is no UTF-8"):
            media_files(folder)


def test_long_files_are_cut_into_clips_one_after_the_other(tmp_path):
    make_video(tmp_path / "b.mp4", num_frames=62)  # 2.48 s
    (tmp_path / "sub").mkdir()
    make_video(tmp_path / "sub" / "a.mp4", num_frames=64)  # 2.56 s
    make_video(tmp_path / "short.mp4", num_frames=10)
    make_video(tmp_path / "third.mp4", num_frames=30)
    (tmp_path / "broken.mp4").write_text("no video")
    listing = list_folder(tmp_path, clip_s=1.0)
    assert listing.labels == ()
    assert listing.segments == [
        Segment("b.mp4", 0, 1),
        Segment("b.mp4", 1, 2),
        Segment("sub/a.mp4", 0, 1),
        Segment("sub/a.mp4", 1, 2),
        Segment("sub/a.mp4", 2, 2.56),
        Segment("third.mp4", 0, 1),
    ]
    assert [line.source for line in listing.skipped] == ["broken.mp4", "short.mp4"]
    assert "cannot be read as video" in listing.skipped[0].reason
    assert "is 0.4 s long, expected at least 1 s" in listing.skipped[1].reason


def test_a_video_shorter_than_a_clip_is_one(tmp_path):
    make_video(tmp_path / "a.mp4", num_frames=30)
    assert list_folder(tmp_path, clip_s=10.0).segments == [Segment("a.mp4", 0, 1.2)]


def test_a_folder_of_nothing_readable(tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"none of the 1 files in .* for instance: .*broken\.mp4"):
        list_folder(tmp_path, clip_s=1.0)

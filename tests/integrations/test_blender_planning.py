"""What the Blender add-on works out without Blender: frames and seconds, refusals, channels, files;
and the zip that it comes in."""

import importlib.util
import sys
import tomllib
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDON = ROOT / "integrations/blender/addon"


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


planning = load("blender_planning", ADDON / "planning.py")
build = load("blender_build", ROOT / "integrations/blender/build.py")

NTSC = Fraction(30_000, 1001)


@pytest.fixture
def strip(tmp_path):
    path = tmp_path / "ball.mp4"
    path.write_bytes(b"a movie")
    return planning.Strip("ball", "MOVIE", path, 101, 176, 101.0, 75)


@pytest.mark.parametrize(
    ("fps", "base", "expected"),
    [(24, 1, 24), (24, 1.001, Fraction(24_000, 1001)), (30, 1.0010000467300415, NTSC), (60, 1, 60)],
)
def test_the_rate_of_a_scene_is_exact(fps, base, expected):
    assert planning.frame_rate(fps, base) == expected


@pytest.mark.parametrize("rate_hz", [Fraction(24), Fraction(25), NTSC, Fraction(60)])
@pytest.mark.parametrize(
    ("changes", "frames", "first"),
    [
        ({}, (101, 176), 0),
        ({"begin": 111, "end": 170}, (111, 170), 10),  # trimmed
        ({"begin": 90, "end": 200}, (101, 176), 0),  # held before and after
        ({"content_begin": 81.0, "content_frames": 200}, (101, 176), 20),  # moved beneath
        ({"content_begin": 100.5}, (101, 175), 0.5),
    ],
)
def test_a_piece_is_the_part_of_the_movie_that_is_seen(strip, rate_hz, changes, frames, first):
    piece = planning.plan_piece(replace(strip, **changes), rate_hz)
    assert (piece.begin, piece.end) == frames
    assert piece.start_s == pytest.approx(first / rate_hz, abs=1e-6)
    assert piece.duration_s == pytest.approx((frames[1] - frames[0]) / rate_hz, abs=1e-6)


def test_what_blender_forgot_is_counted_in_the_movie_s_own_frames(strip):
    piece = planning.plan_piece(replace(strip, cut_frames=(30, 15), movie_hz=30.0), Fraction(25))
    assert (piece.start_s, piece.cut_s) == (1.0, 1.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "IMAGE"}, "ball is a strip of kind image, expected a movie"),
        ({"kind": "META"}, "open it with Tab"),
        ({"path": Path("/nowhere/ball.mp4")}, "/nowhere/ball.mp4, which is not there"),
        ({"num_retiming_keys": 3}, "has its speed changed"),
        ({"has_speed_effect": True}, "has its speed changed"),
        ({"is_reversed": True}, "runs backwards"),
        ({"end": 101}, "shows no frame"),
        ({"begin": 200, "end": 220}, "shows no frame"),
    ],
)
def test_what_cannot_have_sound_is_refused_by_name(strip, changes, expected):
    with pytest.raises(planning.Refused, match=expected):
        planning.plan_piece(replace(strip, **changes), Fraction(25))


@pytest.mark.parametrize(
    ("scene_hz", "movie_s", "expected"),
    [
        (Fraction(25), 3.0, None),
        (Fraction(25), 3.04, None),  # a container that rounds
        (Fraction(25), None, None),  # one that says nothing
        (Fraction(24), 3.0, "25 frames a second and plays frame for frame at 24,"),
        (NTSC, 3.0, "frame for frame at 29.97,"),
        (Fraction(25), 6.0, "has its speed changed"),
    ],
)
def test_a_movie_that_plays_in_another_time_is_refused(strip, scene_hz, movie_s, expected):
    piece = planning.plan_piece(replace(strip, movie_hz=25.0), scene_hz)
    if expected is None:
        return planning.check_speed(piece, movie_s)
    with pytest.raises(planning.Refused, match=expected):
        planning.check_speed(piece, movie_s)


def test_a_long_movie_may_not_drift_either(strip):
    long = replace(strip, end=101 + 24 * 600, content_frames=24 * 600, movie_hz=24 / 1.001)
    piece = planning.plan_piece(long, Fraction(24))  # ten minutes
    with pytest.raises(planning.Refused, match="has 23.976 frames a second"):
        planning.check_speed(piece, 600.6)


def test_a_preview_range_is_a_part_of_the_sound(strip):
    sound = replace(strip, kind="SOUND", begin=111)
    assert planning.part_of_sound(sound, (126, 151), Fraction(25)) == (1.0, 2.0)
    assert planning.part_of_sound(sound, (1, 136), Fraction(25)) == (0.4, 1.4)
    with pytest.raises(planning.Refused, match="set the range anew"):
        planning.part_of_sound(sound, (500, 600), Fraction(25))


def test_the_first_channel_with_room_above_is_taken():
    taken = [(1, 0, 100), (2, 90, 120), (3, 0, 50), (4, 10, 20)]
    assert planning.free_channel(taken, 0, 80, 1) == 2
    assert planning.free_channel(taken, 0, 95, 1) == 5
    assert planning.free_channel(taken, 100, 110, 128) == 1, "there is none above"
    with pytest.raises(planning.Refused, match="all 128 channels"):
        planning.free_channel([(channel, 0, 9) for channel in range(1, 129)], 0, 5, 1)


def test_sounds_lie_beside_the_project_and_write_over_nothing(tmp_path, monkeypatch):
    blend = tmp_path / "film.v2.blend"
    assert planning.sound_folder(str(blend), "") == (tmp_path / "film.v2.sound", False)
    assert planning.sound_folder(str(blend), "/sounds") == (Path("/sounds"), False)
    folder, is_unsaved = planning.sound_folder("", "")
    assert is_unsaved and folder.is_absolute()
    first = planning.sound_path(tmp_path, 'Вода: "a/b" ', 7)
    assert first.name == "Вода_ _a_b_.seed7.wav"
    first.write_bytes(b"a sound")
    assert planning.sound_path(tmp_path, 'Вода: "a/b" ', 7).name == "Вода_ _a_b_.seed7.2.wav"


def test_the_zip_has_what_blender_reads(tmp_path, monkeypatch):
    wheel = tmp_path / "vab_rt-1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    monkeypatch.setattr(build, "collect_wheels", lambda *args: [wheel])
    monkeypatch.setattr(build, "_interpreter", lambda python: sys.executable)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    one, two = build.build("3.11", tmp_path / "out"), build.build("3.13", tmp_path / "out")
    with zipfile.ZipFile(one) as file:
        names = set(file.namelist())
        found = tomllib.loads(file.read("blender_manifest.toml").decode())
    assert {"__init__.py", "planning.py", "LICENSE", f"wheels/{wheel.name}"} <= names
    assert max(len(text) for text in [found["tagline"], *found["permissions"].values()]) <= 64
    assert found["wheels"] == [f"./wheels/{wheel.name}"] and found["platforms"] == ["linux-x64"]
    assert (found["blender_version_min"], found["blender_version_max"]) == ("4.2.0", "5.1.0")
    with zipfile.ZipFile(two) as file:
        assert "version_max" not in file.read("blender_manifest.toml").decode()
    for path in ADDON.glob("*.py"):
        assert path.read_text().startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n")

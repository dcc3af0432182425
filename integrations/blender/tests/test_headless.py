"""The add-on in a Blender without a window: what it places, refuses, and leaves alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bpy
import pytest
from strip_facts import content, path_of, raw_length, sounds, span

GENERATE = bpy.ops.sequencer.vab_rt_generate


def test_blender_finds_nothing_wrong_with_the_zip():
    scripts = Path(bpy.utils.system_resource("SCRIPTS"))
    tool = scripts / "addons_core/bl_pkg/cli/blender_ext.py"
    command = [sys.executable, str(tool), "validate", os.environ["BLENDER_ZIP"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("fps", ["24", "25", "30000/1001", "60"])
def test_sounds_are_as_long_as_their_strips_to_the_frame(project, movie, fps):
    strip = movie(fps=fps, num_frames=150)
    strip.frame_offset_start, strip.frame_offset_end = 31, 42
    strip.frame_start += 17
    found = span(strip)
    assert found[1] - found[0] == 150 - 31 - 42
    assert GENERATE() == {"FINISHED"}
    [sound] = sounds(project)
    assert span(sound) == found
    assert sound.frame_duration == found[1] - found[0], "the file itself has that length"
    rate_hz = project.scene.render.fps / project.scene.render.fps_base
    assert raw_length(path_of(sound)) == round(16_000 * (found[1] - found[0]) / rate_hz)
    take = json.loads(path_of(sound).with_name(path_of(sound).name + ".vab.json").read_text())
    assert take["start_s"] == pytest.approx(31 / rate_hz, abs=1e-5)
    assert not sound.mute and sound.channel == 2


def test_trims_that_blender_forgot_and_held_frames(project, movie):
    strip = movie()
    strip.animation_offset_start = 10  # 65 frames are left
    strip.frame_offset_start, strip.frame_offset_end = -5, -7
    first, _ = span(strip)
    assert GENERATE() == {"FINISHED"}
    [sound] = sounds(project)
    assert span(sound) == (first + 5, first + 5 + 65)
    take = json.loads(path_of(sound).with_name(path_of(sound).name + ".vab.json").read_text())
    assert take["start_s"] == 0.4


def test_one_frame_is_enough(project, movie):
    strip = movie()
    strip.frame_final_end = strip.frame_final_start + 1
    assert GENERATE() == {"FINISHED"}
    assert span(sounds(project)[0]) == span(strip)


def test_takes_are_muted_but_for_the_best_and_go_where_there_is_room(project, movie):
    strip = movie()
    project.strips.new_effect("a wall", "COLOR", 3, 110, length=20)
    strip.select = True
    project.scene.vab_rt.takes, project.scene.vab_rt.seed = 3, 7
    assert GENERATE() == {"FINISHED"}
    found = sounds(project)
    assert [s.channel for s in found] == [2, 4, 5]
    assert [s.mute for s in found] == [False, True, True]
    assert {json.loads(s["vab_rt"])["seed"] for s in found} == {7, 8, 9}


def test_the_same_seed_gives_the_same_file(project, movie):
    movie()
    GENERATE()
    project.strips["ball"].select = True
    sounds(project)[0].select = False
    GENERATE()
    one, two = [path_of(s) for s in sounds(project)]
    assert one != two and one.read_bytes() == two.read_bytes()


def test_undo_takes_all_of_it_back(project, movie):
    movie()
    before = content(project)
    bpy.ops.ed.undo_push(message="before")
    project.scene.vab_rt.takes = 2
    bpy.ops.ed.undo_push(message="takes")
    assert GENERATE("EXEC_DEFAULT", True) == {"FINISHED"}
    assert len(bpy.context.scene.sequence_editor.strips) == 3
    assert bpy.ops.ed.undo() == {"FINISHED"}
    project.strips = bpy.context.scene.sequence_editor.strips
    assert content(project) == before


def retimed(project, movie) -> None:
    strip = movie()
    window = bpy.context.window_manager.windows[0]
    area = window.screen.areas[0]
    with bpy.context.temp_override(window=window, area=area):
        area.ui_type = "SEQUENCE_EDITOR"
        project.scene.sequence_editor.active_strip = strip
        bpy.ops.sequencer.retiming_key_add(timeline_frame=120)
        bpy.ops.sequencer.retiming_segment_speed_set(speed=200)


def gone(project, movie) -> None:
    Path(movie(name="gone").filepath).unlink()


def broken(project, movie) -> None:
    Path(movie(name="broken").filepath).write_bytes(b"no movie at all" * 100)


def slowed(project, movie) -> None:
    effect = project.strips.new_effect("slow", "SPEED", 2, 101, length=75, input1=movie())
    effect.select = False


def image(project, movie) -> None:
    movie().select = False
    picture = project.folder / "still.png"
    bpy.data.images.new("still", 8, 8).save_render(str(picture))
    project.strips.new_image("still", str(picture), 2, 1)


def frame_for_frame(project, movie) -> None:
    movie()
    project.scene.render.fps = 24  # a movie of 25


def folder_is_a_file(project, movie) -> None:
    movie()
    (project.folder / "taken").write_text("a file")
    project.scene.vab_rt.folder = str(project.folder / "taken/sounds")


def beyond(project, movie) -> None:
    strip = movie()
    strip.frame_offset_start = -50
    strip.frame_final_end = strip.frame_final_start + 20


BAD = {
    "speed changed": (retimed, "has its speed changed"),
    "speed effect": (slowed, "has its speed changed"),
    "backwards": (lambda p, m: setattr(m(), "use_reverse_frames", True), "runs backwards"),
    "other rate": (frame_for_frame, "25 frames a second and plays frame for frame at 24"),
    "offline": (gone, "gone.mp4, which is not there"),
    "no movie": (broken, "broken.mp4"),
    "image": (image, "a strip of kind image, expected a movie"),
    "not selected": (lambda p, m: setattr(m(), "select", False), "no strip is selected"),
    "empty": (lambda p, m: None, "no strip is selected"),
    "no folder": (folder_is_a_file, "taken"),
    "held frames only": (beyond, "shows no frame of its movie"),
    "unknown kind": (lambda p, m: (m(), setattr(p.scene.vab_rt, "kind", "dog")), "kind is dog"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_told_in_one_line_and_nothing_changes(project, movie, case):
    prepare, expected = BAD[case]
    prepare(project, movie)
    before = content(project)
    with pytest.raises(RuntimeError) as error:
        GENERATE()
    message = str(error.value).removeprefix("Error: ").strip()
    assert expected in message and message.startswith("vab-rt: ") and "\n" not in message
    assert content(project) == before
    assert not list(project.folder.glob("*.sound/*"))


def test_a_scene_without_a_sequence_editor(installed):
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.context.scene.sequence_editor_clear()
    with pytest.raises(RuntimeError, match="has no strips"):
        GENERATE()


def test_what_is_good_is_made_beside_what_is_not(project, movie, capfd):
    movie()
    broken(project, movie)
    assert len(project.strips) == 2
    assert GENERATE() == {"FINISHED"}
    assert len(sounds(project)) == 1
    assert "broken.mp4" in capfd.readouterr().out


def test_an_unsaved_project_is_told_where_its_sounds_are(project, movie, capfd, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(project.folder))
    bpy.ops.wm.read_homefile(use_empty=True)
    project.scene = bpy.context.scene
    if hasattr(bpy.context.workspace, "sequencer_scene"):
        bpy.context.workspace.sequencer_scene = project.scene
    project.strips = project.scene.sequence_editor_create().strips
    movie()
    assert GENERATE() == {"FINISHED"}
    [sound] = sounds(project)
    assert path_of(sound).parent.name == "vab-rt-unsaved.sound" and path_of(sound).is_file()
    assert f"the .blend is not saved, so its sounds are in {path_of(sound).parent}" in (
        capfd.readouterr().out
    )


def test_a_saved_project_names_its_sounds_from_itself_whatever_letters_they_have(project, movie):
    movie(name="Вода и 火 ü")
    assert GENERATE() == {"FINISHED"}
    [sound] = sounds(project)
    assert sound.sound.filepath == "//film.sound/Вода и 火 ü.seed0.wav"
    assert path_of(sound).is_file()


def test_the_kinds_of_the_model_are_offered(project, movie):
    from importlib import import_module

    settings = import_module("bl_ext.user_default.vab_rt.settings")
    group = project.scene.vab_rt
    assert group.model == "default" and settings._kinds(group, None, "dog") == []
    group.model = "real"
    assert "dog" in settings._kinds(group, None, "do")
    movie()
    group.kind = "dog"
    assert GENERATE() == {"FINISHED"}
    assert len(sounds(project)) == 1

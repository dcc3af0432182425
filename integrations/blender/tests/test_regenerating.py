"""The part of a sound within the preview range made anew, without a window."""

import json

import bpy
import pytest
from strip_facts import content, samples_of, sounds, span

GENERATE = bpy.ops.sequencer.vab_rt_generate
REGENERATE = bpy.ops.sequencer.vab_rt_regenerate


def test_only_the_preview_range_is_made_anew(project, movie):
    movie()
    GENERATE()
    [old] = sounds(project)
    project.strips["ball"].select = False
    old.select = True
    scene = project.scene
    scene.use_preview_range = True
    scene.frame_preview_start, scene.frame_preview_end = 126, 150  # seconds 1 to 2
    assert REGENERATE() == {"FINISHED"}
    _, new = sounds(project)
    assert span(new) == span(old)
    assert (old.mute, new.mute) == (True, False)
    before, after = samples_of(old), samples_of(new)
    assert (before[:15_000] == after[:15_000]).all() and (before[33_000:] == after[33_000:]).all()
    assert (before[17_000:31_000] != after[17_000:31_000]).any()
    assert json.loads(new["vab_rt"])["seed"] == 1


def test_a_trimmed_sound_is_made_anew_where_it_is(project, movie):
    movie()
    GENERATE()
    [old] = sounds(project)
    old.frame_final_start += 10
    project.strips["ball"].select, old.select = False, True
    scene = project.scene
    scene.use_preview_range = True
    scene.frame_preview_start, scene.frame_preview_end = 1, 140
    assert REGENERATE() == {"FINISHED"}
    _, new = sounds(project)
    assert span(new) == span(old) and new.frame_start == old.frame_start


def test_regenerating_says_what_it_needs(project, movie):
    movie()
    GENERATE()
    [sound] = sounds(project)
    project.strips["ball"].select, sound.select = False, True
    scene = project.scene
    for range_, expected in ((None, "press P"), ((900, 950), "expected one within the other")):
        if range_:
            scene.use_preview_range = True
            scene.frame_preview_start, scene.frame_preview_end = range_
        before = content(project)
        with pytest.raises(RuntimeError, match=expected):
            REGENERATE()
        assert content(project) == before


def test_what_cannot_be_made_anew_is_told_by_name(project, movie):
    project.scene.use_preview_range = True
    strip = movie()
    GENERATE()
    [sound] = sounds(project)
    own = project.strips.new_sound("own", sound.sound.filepath, 5, 101)
    window = bpy.context.window_manager.windows[0]
    with bpy.context.temp_override(window=window, area=window.screen.areas[0]):
        window.screen.areas[0].ui_type = "SEQUENCE_EDITOR"
        project.scene.sequence_editor.active_strip = sound
        strip.select, own.select = False, False
        bpy.ops.sequencer.retiming_key_add(timeline_frame=120)
        bpy.ops.sequencer.retiming_segment_speed_set(speed=50)
    for bad, expected in ((own, "is no sound of vab-rt's"), (sound, "has its speed changed")):
        for each in project.strips:
            each.select = each == bad
        before = content(project)
        with pytest.raises(RuntimeError, match=expected):
            REGENERATE()
        assert content(project) == before

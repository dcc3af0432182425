# SPDX-License-Identifier: GPL-3.0-or-later
"""Strips of the sequencer, as Blender 4.2 to 5.3 name them."""

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import bpy

from .making import Again, Take
from .planning import (
    Piece,
    Refused,
    Strip,
    frame_rate,
    free_channel,
    part_of_sound,
    seconds,
    speed_changed,
)

KEY = "vab_rt"
"""A strip's own property with what its sound is of."""

# The new name of 5.x first: the old ones end with 6.0.
_BEGIN = ("left_handle", "frame_final_start")
_END = ("right_handle", "frame_final_end")
_CONTENT_BEGIN = ("content_start", "frame_start")
_END_OFFSET = ("right_handle_offset", "frame_offset_end")
_CUT = (
    ("content_trim_start", "animation_offset_start"),
    ("content_trim_end", "animation_offset_end"),
)


def _get(strip: Any, names: tuple[str, ...], default: Any = None) -> Any:
    for name in names:
        if hasattr(strip, name):
            return getattr(strip, name)
    return default


def _set(strip: Any, names: tuple[str, ...], value: int) -> None:
    setattr(strip, next(name for name in names if hasattr(strip, name)), value)


def scene_of(context: Any) -> Any:
    """The scene that the sequencer shows; 5.0 and later have one of their own for that."""
    return getattr(context, "sequencer_scene", None) or context.scene


def rate_of(scene: Any) -> Fraction:
    return frame_rate(scene.render.fps, scene.render.fps_base)


def _collection(scene: Any) -> Any:
    """That of the strips on display: of the scene, or of the meta strip that is open."""
    editor = scene.sequence_editor
    if editor is None:
        raise Refused(f"scene {scene.name} has no strips, expected a movie; add one")
    open_metas = list(editor.meta_stack)
    return _get(open_metas[-1] if open_metas else editor, ("strips", "sequences"))


def selected(scene: Any) -> list[Any]:
    return [strip for strip in _collection(scene) if strip.select]


def facts_of(strip: Any, scene: Any) -> Strip:
    """What planning needs to know of one."""
    path = getattr(strip, "filepath", None)
    if strip.type == "SOUND" and strip.sound is not None:
        path = strip.sound.filepath
    begin, end = _get(strip, _BEGIN), _get(strip, _END)
    content_begin = _get(strip, _CONTENT_BEGIN)
    everywhere = _get(scene.sequence_editor, ("strips_all", "sequences_all"))
    is_slowed = any(s.type == "SPEED" and s.input_1 == strip for s in everywhere)
    return Strip(
        name=strip.name,
        kind=strip.type,
        path=Path(bpy.path.abspath(path)) if path else None,
        begin=begin,
        end=end,
        content_begin=content_begin,
        content_frames=end + _get(strip, _END_OFFSET) - content_begin,  # the scene's, not its own
        cut_frames=tuple(_get(strip, names, 0) for names in _CUT),
        movie_hz=getattr(strip, "fps", 0.0),
        channel=strip.channel,
        num_retiming_keys=len(getattr(strip, "retiming_keys", ())),
        is_reversed=getattr(strip, "use_reverse_frames", False),
        has_speed_effect=is_slowed or getattr(strip, "speed_factor", 1.0) != 1.0,
    )


def again_of(strip: Any, scene: Any) -> Again:
    """A sound of ours, within the scene's preview range. Raises Refused."""
    facts = facts_of(strip, scene)
    if strip.type != "SOUND" or KEY not in strip:
        raise Refused(f"{strip.name} is no sound of vab-rt's, expected one that it generated")
    if not scene.use_preview_range:
        raise Refused("no preview range is set, expected one around what to make anew; press P")
    if facts.num_retiming_keys > 2 or facts.has_speed_effect:
        raise Refused(speed_changed(strip.name))
    if facts.path is None or not facts.path.is_file():
        raise Refused(f"{strip.name} is of {facts.path}, which is not there; generate it anew")
    known = json.loads(strip[KEY])
    part = scene.frame_preview_start, scene.frame_preview_end + 1
    start_s, end_s = part_of_sound(facts, part, rate_of(scene))
    video = Path(bpy.path.abspath(known["video"]))
    if not video.is_file():
        raise Refused(f"{strip.name} is the sound of {video}, which is not there; put it back")
    content_s = seconds(facts.content_frames, rate_of(scene))
    return Again(strip.name, video, facts.path, start_s, end_s, known["seed"] + 1, content_s)


def place(scene: Any, piece: Piece, takes: list[Take]) -> list[Any]:
    """Sound strips over their movie, wherever that is by now; but for the first they are muted."""
    moved = _moved_by(scene, piece)
    begin, end = piece.begin + moved, piece.end + moved
    placed = []
    for number, take in enumerate(takes):
        strip = _new_sound(scene, take, begin, end, piece.channel)
        _set(strip, _END, end)
        _note(strip, piece.path, take, is_muted=number > 0)
        placed.append(strip)
    return placed


def _moved_by(scene: Any, piece: Piece) -> int:
    """Frames that the movie was moved by while its sound was made."""
    strip = _collection(scene).get(piece.name)
    return 0 if strip is None else round(_get(strip, _CONTENT_BEGIN) - piece.content_begin)


def replace(scene: Any, again: Again, takes: list[Take]) -> list[Any]:
    """Sound strips just where the old one is, which is muted from now on. Raises Refused."""
    old = _collection(scene).get(again.name)
    if old is None:
        raise Refused(f"{again.name} is no longer there; its new sound is {takes[0].path}")
    begin, end = _get(old, _BEGIN), _get(old, _END)
    placed = []
    for number, take in enumerate(takes):
        at = round(_get(old, _CONTENT_BEGIN))
        strip = _new_sound(scene, take, min(at, begin), end, old.channel, at)
        _set(strip, _BEGIN, begin)
        _set(strip, _END, end)
        _note(strip, again.video, take, is_muted=number > 0)
        placed.append(strip)
    old.mute, old.select = True, False
    return placed


def _new_sound(
    scene: Any, take: Take, begin: int, end: int, above: int, at: int | None = None
) -> Any:
    strips = _collection(scene)
    taken: Iterable[tuple[int, int, int]] = [
        (strip.channel, _get(strip, _BEGIN), _get(strip, _END)) for strip in strips
    ]
    return strips.new_sound(
        name=f"{take.path.stem}",
        filepath=_as_blender_has_it(take.path),
        channel=free_channel(taken, begin, end, above),
        frame_start=begin if at is None else at,
    )


def _note(strip: Any, video: Path, take: Take, *, is_muted: bool) -> None:
    strip.mute, strip.select = is_muted, not is_muted
    strip[KEY] = json.dumps({"video": _as_blender_has_it(video), "seed": take.seed})


def _as_blender_has_it(path: Path) -> str:
    """Relative to the .blend where there is one, so that the project can be moved."""
    if not bpy.data.is_saved:
        return str(path)
    try:
        return bpy.path.relpath(str(path))
    except ValueError:  # another drive
        return str(path)

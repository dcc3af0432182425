"""The add-on in a real window: the modal operator, how long the window stands still meanwhile, and
Esc. The last line is one JSON object.

    xvfb-run blender --factory-startup --enable-event-simulate --python window.py -- MOVIE FOLDER...

FOLDER...: where Python finds the add-on, as vab_addon, and the runtime: for a Blender that cannot
install extensions yet (before 4.2).
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import count

import bpy

TICK_S = 0.01
MOST_S = 300
movie, *folders = sys.argv[sys.argv.index("--") + 1 :]
sys.path[:0] = folders
addon = importlib.import_module("vab_addon")
operators = importlib.import_module("vab_addon.operators")

gaps: list[float] = []
results: dict = {"blender": bpy.app.version_string}
began = last = time.perf_counter()


def strips():
    editor = bpy.context.scene.sequence_editor
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def run(name: str) -> Iterator[None]:
    """Until the operator has ended; notes how it went under a name."""
    gaps.clear()
    before, start = len(strips()), time.perf_counter()
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "SEQUENCE_EDITOR")
    with bpy.context.temp_override(window=window, area=area):
        answer = bpy.ops.sequencer.vab_rt_generate("INVOKE_DEFAULT", True)
    assert answer == {"RUNNING_MODAL"}, answer
    while operators.running:
        yield
    results[name] = {
        "seconds": round(time.perf_counter() - start, 2),
        "longest_freezes_s": longest(),
        "ticks": len(gaps),
        "new_strips": len(strips()) - before,
    }


def story() -> Iterator[None]:
    window = bpy.context.window_manager.windows[0]
    area = max(window.screen.areas, key=lambda area: area.width * area.height)
    area.ui_type = "SEQUENCE_EDITOR"
    area.spaces[0].show_region_ui = True
    bpy.context.scene.sequence_editor_create()
    yield
    movie_strip = strips().new_movie("movie", movie, 1, 1)
    bpy.context.scene.render.fps = round(movie_strip.fps)
    yield from idle("nothing")
    yield from run("first")
    yield from idle("nothing but drawing", draw=True)
    select(movie_strip)
    yield from run("second")
    select(movie_strip)
    bpy.context.scene.vab_rt.takes = 4
    yield from run("four takes")
    select(movie_strip)
    stopping = run("cancelled by Esc")
    next(stopping)
    while operators.running[0].work.share == 0:
        yield
    bpy.context.window_manager.windows[0].event_simulate("ESC", "PRESS")
    yield from stopping
    bpy.ops.ed.undo()
    yield
    results["strips_after_one_undo"] = len(strips())
    bpy.context.scene.vab_rt.takes = 1
    bpy.context.scene.render.fps = 24
    with bpy.context.temp_override(window=window, area=area):
        bpy.ops.sequencer.movie_strip_add(
            filepath=movie,
            frame_start=1001,
            channel=8,
            sound=False,
            use_framerate=False,
            adjust_playback_rate=True,
            replace_sel=True,
        )
    yield from run("25 frames a second in a scene of 24, in its own time")


def idle(name: str, draw: bool = False) -> Iterator[None]:
    """For three seconds. draw: the sidebar and the status bar, ten times a second."""
    gaps.clear()
    until = time.perf_counter() + 3
    for number in count():
        if time.perf_counter() > until:
            break
        if draw and number % 10 == 0:
            bpy.context.workspace.status_text_set(f"{number}")
            for area in bpy.context.window_manager.windows[0].screen.areas:
                for region in area.regions:
                    if area.type == "SEQUENCE_EDITOR" and region.type == "UI":
                        region.tag_redraw()
        yield
    bpy.context.workspace.status_text_set(None)
    results[name] = {"longest_freezes_s": longest(), "ticks": len(gaps)}


def longest() -> list[float]:
    return [round(gap, 3) for gap in sorted(gaps)[:-4:-1]]


def select(strip) -> None:
    for each in strips():
        each.select = each == strip


def tick() -> float | None:
    """Blender calls it from its window's loop: what lies between two calls is a freeze."""
    global last
    now = time.perf_counter()
    gaps.append(now - last)
    last = now
    try:
        assert now - began < MOST_S, "it takes too long"
        next(told)
    except StopIteration:
        print(json.dumps(results), flush=True)
        bpy.ops.wm.quit_blender()
        return None
    except Exception as error:  # noqa: BLE001  # or else the window would stay for ever
        print(json.dumps({**results, "error": repr(error)}), flush=True)
        os._exit(1)
    return TICK_S


addon.register()
told = story()
bpy.app.timers.register(tick, first_interval=1)

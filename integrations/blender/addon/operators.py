# SPDX-License-Identifier: GPL-3.0-or-later
"""What the buttons do: plan in Blender's thread, make in another, place in Blender's again."""

import threading
from typing import Any, ClassVar

import bpy

from . import making, strips
from .planning import Refused, one_line, plan_piece, sound_folder
from .settings import settings_of

TICK_S = 0.1
running: list["_Operator"] = []
"""One at most."""


class _Operator:
    """What the two share. Modal in a window; a script's call waits until all is made."""

    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: Any) -> bool:
        if running:
            cls.poll_message_set("a sound is being made; Esc ends that")
        return not running

    def execute(self, context: Any) -> set[str]:
        if not self._plan(context):
            return {"CANCELLED"}
        self.work.run()
        return self._finish(context)

    def invoke(self, context: Any, event: Any) -> set[str]:
        if not self._plan(context):
            return {"CANCELLED"}
        self.told = ""
        self.thread = threading.Thread(target=self.work.run, name="vab-rt", daemon=True)
        manager = context.window_manager
        self.timer = manager.event_timer_add(TICK_S, window=context.window)
        manager.modal_handler_add(self)
        manager.progress_begin(0, 100)
        running.append(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: Any, event: Any) -> set[str]:
        if event.type == "ESC":
            self.work.stop.set()
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        if self.thread.ident is None:  # only now has Blender left the call that began all this
            self.thread.start()
        self._show(context)
        if self.thread.is_alive():
            return {"PASS_THROUGH"}
        self._end(context)
        return self._finish(context)

    def cancel(self, context: Any) -> None:
        """Blender's own, as when a file is opened: the thread ends at its next step."""
        self.work.stop.set()
        self._end(context)

    def _plan(self, context: Any) -> bool:
        """Raises nothing: what cannot be is reported."""
        scene = strips.scene_of(context)
        self.scene_name, self.refused = scene.name, []
        try:
            orders = self._orders(scene)
        except Refused as error:
            self.refused, orders = [str(error)], []
        if not orders:
            self._report("ERROR", self.refused)
            return False
        settings = scene.vab_rt
        wanted = bpy.path.abspath(settings.folder) if settings.folder else ""
        folder, self.is_unsaved = sound_folder(bpy.data.filepath, wanted)
        self.work = making.Making(orders, settings_of(settings), folder)
        return True

    def _show(self, context: Any) -> None:
        """Draws what has changed alone: drawing is what holds up Blender's thread."""
        work = self.work
        state = "is cancelled" if work.stop.is_set() else f"{work.share:.0%}, Esc cancels"
        told = f"Sound: {work.stage}, {state}"
        if told == self.told:
            return
        self.told = told
        context.window_manager.progress_update(round(100 * work.share))
        context.workspace.status_text_set(told)
        areas = context.screen.areas if context.screen else ()
        for area in [area for area in areas if area.type == "SEQUENCE_EDITOR"]:
            for region in [region for region in area.regions if region.type == "UI"]:
                region.tag_redraw()

    def _end(self, context: Any) -> None:
        context.window_manager.event_timer_remove(self.timer)
        context.window_manager.progress_end()
        if context.workspace:
            context.workspace.status_text_set(None)
        running.remove(self)

    def _finish(self, context: Any) -> set[str]:
        """Places what was made, all at once, so that one undo takes it back."""
        work, placed = self.work, []
        if work.stop.is_set():
            self._report("INFO", ["cancelled, nothing was changed"])
            return {"CANCELLED"}
        scene = bpy.data.scenes.get(self.scene_name)
        for order, takes in work.made:
            try:
                if scene is None:
                    raise Refused(f"scene {self.scene_name} is gone; its sounds: {work.folder}")
                placed += self._place(scene, order, takes)
            except Refused as error:
                work.failed.append(one_line(error))
        if not placed:
            self._report("ERROR", self.refused + work.failed)
            return {"CANCELLED"}
        self._report("WARNING", self.refused + work.failed)
        if self.is_unsaved:
            where = f"the .blend is not saved, so its sounds are in {work.folder}"
            self._report("WARNING", [f"{where}; save it and pack them (File > External Data)"])
        self._report("INFO", [f"{len(placed)} sound strips for {len(work.made)} strips"])
        return {"FINISHED"}

    def _report(self, kind: str, lines: list[str]) -> None:
        for line in lines:
            self.report({kind}, f"vab-rt: {line}")


class VABRT_OT_generate(_Operator, bpy.types.Operator):
    """Make sound for the selected movie strips"""

    bl_idname = "sequencer.vab_rt_generate"
    bl_label = "Generate Sound"

    def _orders(self, scene: Any) -> list[making.Order]:
        facts = [strips.facts_of(strip, scene) for strip in strips.selected(scene)]
        pieces, rate_hz = [], strips.rate_of(scene)
        if not facts:
            raise Refused("no strip is selected, expected movies; select some")
        for strip in facts:
            try:
                pieces.append(plan_piece(strip, rate_hz))
            except Refused as error:
                if strip.kind != "SOUND":  # which come along with their movies
                    self.refused.append(str(error))
        if not pieces and not self.refused:
            raise Refused("only sounds are selected, expected movies; select some")
        return pieces

    def _place(self, scene: Any, piece: Any, takes: list[making.Take]) -> list[Any]:
        return strips.place(scene, piece, takes)


class VABRT_OT_regenerate(_Operator, bpy.types.Operator):
    """Make the selected sounds anew within the preview range, and leave the rest as it is"""

    bl_idname = "sequencer.vab_rt_regenerate"
    bl_label = "Regenerate in Preview Range"

    def _orders(self, scene: Any) -> list[making.Order]:
        found = [strip for strip in strips.selected(scene) if strip.type != "MOVIE"]
        if not found:
            raise Refused("no sound is selected, expected one that vab-rt generated; select it")
        orders = []
        for strip in found:
            try:
                orders.append(strips.again_of(strip, scene))
            except Refused as error:
                self.refused.append(str(error))
        return orders

    def _place(self, scene: Any, again: Any, takes: list[making.Take]) -> list[Any]:
        return strips.replace(scene, again, takes)


def stop_all() -> None:
    """When the add-on goes: nothing of ours runs on while Python ends."""
    for operator in running:
        operator.work.stop.set()
        if operator.thread.ident is not None:
            operator.thread.join()
    running.clear()
    making.unload()

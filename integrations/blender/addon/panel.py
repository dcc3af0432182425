# SPDX-License-Identifier: GPL-3.0-or-later
"""Sound, in the sidebar of the sequencer."""

from typing import Any

import bpy

from .operators import running
from .settings import OWN
from .strips import scene_of


class VABRT_PT_sound(bpy.types.Panel):
    bl_label = "Sound"
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "Sound"

    def draw(self, context: Any) -> None:
        settings = scene_of(context).vab_rt
        layout = self.layout
        layout.use_property_split = True
        for operator in running:
            _draw_progress(layout, operator.work)
        layout.operator("sequencer.vab_rt_generate", icon="SOUND")
        layout.operator("sequencer.vab_rt_regenerate", icon="FILE_REFRESH")
        layout.prop(settings, "model")
        if settings.model == OWN:
            layout.prop(settings, "model_folder")
        for name in ("kind", "seed", "takes", "steps", "guidance", "folder"):
            layout.prop(settings, name)


def _draw_progress(layout: Any, work: Any) -> None:
    if hasattr(layout, "progress"):  # from 4.0 on
        layout.progress(factor=work.share, text=work.stage)
    else:
        layout.label(text=f"{work.stage}: {work.share:.0%}")

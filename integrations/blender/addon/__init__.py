# SPDX-License-Identifier: GPL-3.0-or-later
"""vab-rt in Blender's video sequencer. Nothing is fetched or installed by it: the runtime and its
models come as wheels in the same zip."""

import bpy

from . import operators, panel, settings

_CLASSES = (
    settings.VABRT_PG_settings,
    operators.VABRT_OT_generate,
    operators.VABRT_OT_regenerate,
    panel.VABRT_PT_sound,
)


def register() -> None:
    for each in _CLASSES:
        bpy.utils.register_class(each)
    bpy.types.Scene.vab_rt = bpy.props.PointerProperty(type=settings.VABRT_PG_settings)


def unregister() -> None:
    operators.stop_all()
    del bpy.types.Scene.vab_rt
    for each in reversed(_CLASSES):
        bpy.utils.unregister_class(each)

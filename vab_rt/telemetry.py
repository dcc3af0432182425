"""onnxruntime's telemetry: off, unless whoever runs this process has asked for it.

From 1.29 on its wheels keep a device id and a database of events in the user's cache, and send them
to their makers' server. The environment variable is read once, when onnxruntime is imported, so it
is set when `vab_rt` is: https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
"""

import os
from typing import Any

VARIABLE = "ORT_DISABLE_TELEMETRY"


def turn_off_telemetry() -> None:
    """For this process and those it starts; what the environment says already stays."""
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = "1"


def is_telemetry_wanted() -> bool:
    """Whether the environment asks for it: holds none of the words that onnxruntime knows."""
    return os.environ.get(VARIABLE, "1").strip().lower() not in ("1", "true", "yes", "on", "y")


def silence(onnxruntime: Any) -> None:
    """Stops the events of an onnxruntime that the host has imported before `vab_rt`."""
    if not is_telemetry_wanted():
        onnxruntime.disable_telemetry_events()

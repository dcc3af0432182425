"""From clips to a checkpoint, and what it is worth."""

import vab_rt  # noqa: F401  # before any library that imports onnxruntime, whose telemetry it turns off

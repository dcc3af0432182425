"""From a checkpoint to a bundle."""

import vab_rt  # noqa: F401  # before any library that imports onnxruntime, whose telemetry it turns off

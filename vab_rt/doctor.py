"""What this installation can do on this machine, and what to install for more."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from vab_rt.errors import BackendError, VabError

_ENCODERS = ("pcm_s16le", "flac", "libmp3lame", "aac", "libopus")


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. needed: without it nothing can be generated."""

    subject: str
    found: str
    is_good: bool = True
    is_needed: bool = False
    advice: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order a reader wants them. Raises nothing."""
    checks: tuple[Callable[[], Finding], ...] = (
        _vab_rt, _python, _onnxruntime, _sampling, _ffmpeg, _bundle, _gpu
    )  # fmt: skip
    return [check() for check in checks]


def _vab_rt() -> Finding:
    try:
        return Finding("vab-rt", version("vab-rt"))
    except PackageNotFoundError:
        advice = "pip install . in the checkout makes it a package"
        return Finding("vab-rt", "not installed, run from a folder", False, advice=advice)


def _python() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{platform.system()} {platform.machine()}, {cores} processors"
    return Finding("python", f"{platform.python_version()} ({where})", sys.version_info >= (3, 11))


def _onnxruntime() -> Finding:
    try:
        import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]  # no types
    except ImportError as error:
        advice = "pip install onnxruntime"
        return Finding("onnxruntime", f"cannot be imported ({error})", False, True, advice)
    providers = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    is_good = "CPU" in providers
    found = f"{ort.__version__}, providers {', '.join(providers)}"
    return Finding(
        "onnxruntime", found, is_good, True, "" if is_good else "pip install onnxruntime"
    )


def _sampling() -> Finding:
    from vab_rt.sampling import NativeSampler

    try:
        threads = NativeSampler().num_threads
    except BackendError as error:
        found = "numpy: the same tokens, several times slower"
        return Finding("sampling", found, False, advice=str(error))
    return Finding("sampling", f"native, {threads} threads")


def _ffmpeg() -> Finding:
    try:
        import av
    except ImportError as error:
        return Finding("ffmpeg", f"cannot be imported ({error})", False, True, "pip install av")
    libraries = ", ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}"
        for name in ("libavformat", "libavcodec")
    )
    missing = [name for name in _ENCODERS if not _has_encoder(name)]
    found = f"PyAV {av.__version__}, {libraries}"
    if missing:
        advice = "pip install --force-reinstall --only-binary av av"
        return Finding(
            "ffmpeg", f"{found}; cannot write {', '.join(missing)}", False, False, advice
        )
    return Finding("ffmpeg", found)


def _has_encoder(name: str) -> bool:
    from av.codec.codec import Codec, UnknownCodecError

    try:
        Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


def _bundle() -> Finding:
    from vab_rt.bundle import open_bundle

    try:
        bundle = open_bundle()
        bundle.verify()
    except (VabError, OSError) as error:
        advice = "pip install --force-reinstall --no-deps vab-rt, or name another with --model"
        return Finding("default model", str(error), False, True, advice)
    size = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    return Finding("default model", f"{bundle.config.name}, {size / 1e6:.1f} MB, verified")


def _gpu() -> Finding:
    """Looks for the driver's own traces: no library is loaded for it."""
    try:
        lines = Path("/proc/driver/nvidia/version").read_text().splitlines()
    except OSError:
        lines = []
    if lines:
        found = lines[0].removeprefix("NVRM version: ").strip()
    elif program := shutil.which("nvidia-smi"):
        found = f"NVIDIA, {program}"
    else:
        return Finding(
            "GPU driver", "no NVIDIA driver found; not needed, this version uses the CPU"
        )
    return Finding("GPU driver", f"{found}; this version uses the CPU")

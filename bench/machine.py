"""What a figure depends on: the machine, the versions, the commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from vab_rt.engines.gpu import cuda_version, find_driver

PACKAGES = ("numpy", "onnxruntime", "av", "torch")
OF_GPUS = ("cuda-core", "cuda-bindings", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "triton")


def machine() -> dict[str, str | int | float]:
    """load_average is that of the last minute, before the bench begins."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": _gpu_name(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *OF_GPUS):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package in PACKAGES:
                found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout, with a + where files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    root = Path(__file__).parent.parent
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown: git is not installed"
    return found.stdout.strip() if found.returncode == 0 else "unknown: not a git checkout"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu_name() -> str:
    """The first, with its driver; "none" where there is none that starts."""
    driver = find_driver()
    if driver is None or not driver.gpus:
        return "none"
    gpu = driver.gpus[0]
    return f"{gpu.name} ({gpu.capability}), {driver.version}, CUDA {cuda_version(driver.cuda)}"

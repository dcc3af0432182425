"""Compile the Triton kernels ahead of time, without a GPU: `python -m kernels.build [--out DIR]`.

Writes one `<kernel>.sm_<NN>.cubin` per kernel and target and `kernels.json`, which holds all that a
launcher must know. The same Triton gives the same bytes. Neither Triton nor torch is needed where
the files are used.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TARGETS = (80, 86, 89, 90, 100, 120)
DEFAULT_OUT = Path(__file__).parent.parent / "vab_rt" / "engines" / "cubins"
MAX_TOTAL_BYTES = 1_000_000
BLOCK = 2048

# Triton's words for the arguments of each kernel, in order; the last is a constant of the build.
SAMPLE = {
    "tokens": "*i32",
    "conditional": "*fp32",
    "unconditional": "*fp32",
    "parameters": "*i32",
    "steps": "*i32",
    "errors": "*i32",
    "sampled": "*i32",
    "confidence": "*fp32",
    "N": "i32",
    "V": "i32",
    "BLOCK": "constexpr",
}
REMASK = {name: kind for name, kind in SAMPLE.items() if not name.endswith("conditional")}
SIGNATURES = {"sample": (SAMPLE, 4), "remask": (REMASK, 16)}  # and warps per program
FUSED = r"FFMA\w*"  # one or two fused multiply-adds of float32; packed ones from sm_100 on
HIDDEN_ARGUMENTS = ("global_scratch", "profile_scratch")  # appended by Triton, 0 when unused


@dataclass(frozen=True)
class Compiled:
    """One kernel for one target."""

    kernel: str
    target: int
    cubin: bytes
    entry: str
    num_warps: int
    shared_bytes: int
    arguments: list[dict[str, str]]

    @property
    def file(self) -> str:
        return f"{self.kernel}.sm_{self.target}.cubin"

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "kernel": self.kernel,
            "target": self.target,
            "entry": self.entry,
            "num_warps": self.num_warps,
            "shared_bytes": self.shared_bytes,
            "arguments": self.arguments,
            "size_bytes": len(self.cubin),
            "sha256": hashlib.sha256(self.cubin).hexdigest(),
        }


def compile_kernel(kernel: str, target: int) -> Compiled:
    """One kernel for compute capability `target`, with the arithmetic of the reference."""
    # Paths and line numbers would make the files larger and different on every machine.
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels.sampling import triton_kernels

    signature, num_warps = SIGNATURES[kernel]
    function = getattr(triton_kernels, kernel)
    # The launcher aligns every address, except rows, whose length may be odd.
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if "*" in t
    }
    source = ASTSource(function, signature, {"BLOCK": BLOCK}, aligned)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", target, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": False},  # no FMA: exact
    )
    metadata = compiled.metadata
    plain = (metadata.num_ctas, metadata.global_scratch_size, metadata.profile_scratch_size)
    assert plain == (1, 0, 0), f"{kernel} wants a cluster or scratch memory: {plain}"
    arguments = [{"name": n, "type": t} for n, t in signature.items() if t != "constexpr"]
    arguments += [{"name": name, "type": "*i8"} for name in HIDDEN_ARGUMENTS]
    num_parameters = len(re.findall(rf"{metadata.name}_param_\d+[,\n]", compiled.asm["ptx"]))
    assert num_parameters == len(arguments), f"{kernel}: {num_parameters} in PTX, {arguments}"
    return Compiled(
        kernel, target, compiled.asm["cubin"], metadata.name, metadata.num_warps,
        metadata.shared, arguments,
    )  # fmt: skip


def build(out: Path, targets: tuple[int, ...] = TARGETS) -> Iterator[Compiled]:
    """Write cubins and kernels.json into `out`; yields each kernel as it is written."""
    import triton

    out.mkdir(parents=True, exist_ok=True)
    done = []
    for kernel in SIGNATURES:
        for target in targets:
            compiled = compile_kernel(kernel, target)
            (out / compiled.file).write_bytes(compiled.cubin)
            done.append(compiled)
            yield compiled
    total = sum(len(compiled.cubin) for compiled in done)
    assert total < MAX_TOTAL_BYTES, f"{total} bytes of cubins, at most {MAX_TOTAL_BYTES} allowed"
    description = {
        "format_version": 1,
        "triton": triton.__version__,
        "block": BLOCK,
        "kernels": [compiled.as_json() for compiled in done],
    }
    (out / "kernels.json").write_text(json.dumps(description, indent=1) + "\n")


def tool(name: str) -> Path:
    """A tool of NVIDIA's that comes with Triton, such as cuobjdump."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def disassemble(cubin: bytes) -> str:
    """The machine code (SASS) of a cubin as text."""
    return _inspect("-sass", cubin)


def resources(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED, LOCAL and the rest that a cubin asks for; LOCAL or STACK means spills."""
    return {name: int(n) for name, n in re.findall(r"(\w+):(\d+)", _inspect("-res-usage", cubin))}


@cache
def _inspect(option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool("cuobjdump"), option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def num_instructions(sass: str, name: str = r"[A-Z]\w*") -> int:
    """Instructions of a disassembly whose name matches, in all by default; a loop counts once."""
    return len(re.findall(rf"/\*[0-9a-f]{{4,}}\*/\s+(?:@!?U?P\w+\s+)?{name}[\s.;]", sass))


def table_row(compiled: Compiled) -> str:
    sass, used = disassemble(compiled.cubin), resources(compiled.cubin)
    cells = (
        compiled.kernel, f"sm_{compiled.target}", len(compiled.cubin), used["REG"],
        used["STACK"] + used["LOCAL"], compiled.shared_bytes, compiled.num_warps,
        num_instructions(sass), num_instructions(sass, FUSED),
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for the cubins")
    parser.add_argument("--target", type=int, choices=TARGETS, action="append")
    options = parser.parse_args(arguments)
    print("| kernel | target | bytes | registers | spills | shared | warps | SASS | FFMA |")
    print("|---|---|---|---|---|---|---|---|---|")
    for compiled in build(options.out, tuple(options.target or TARGETS)):
        print(table_row(compiled))
        sys.stdout.flush()


if __name__ == "__main__":
    main()

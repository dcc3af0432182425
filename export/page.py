"""A page that needs no server, the model inside: `python -m export.page BUNDLE OUT`.

One folder of static files: sound is made in the browser by onnxruntime-web, nothing is uploaded.
"""

import argparse
import shutil
from pathlib import Path

from export.bundle_folder import folder_beside
from export.verified_graph import write_one_graph
from training.command import mistakes_in_one_line
from vab_rt.bundle import Bundle, open_bundle
from vab_rt.errors import ExportError

HOSTS = Path(__file__).parents[1] / "examples" / "hosts"
OURS = ("page/*.html", "page/*.mjs", "page/_headers", "node/one_graph.mjs")
THEIRS = (
    "onnxruntime-web/dist/ort.wasm.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "mp4box/dist/mp4box.all.mjs",
    "mp4box/dist/*-*.mjs",
)
LICENCE = "mp4box/LICENSE"  # onnxruntime-web's files name theirs in themselves


def write_page(bundle: Bundle, out: Path, node_modules: Path) -> int:
    """Bytes of the folder. Raises ExportError where it exists, where node_modules lacks
    a library, and as `write_one_graph` does."""
    find_libraries(node_modules)
    if out.exists():
        raise ExportError(f"{out} exists, expected a new folder; remove it first")
    with folder_beside(out, force=False) as folder:
        write_one_graph(bundle, folder / "model.onnx", with_video=True, force=False)
        lay_out(folder, node_modules)
        return sum(path.stat().st_size for path in folder.iterdir())


def find_libraries(node_modules: Path) -> list[Path]:
    found = {name: list(node_modules.glob(name)) for name in (*THEIRS, LICENCE)}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        raise ExportError(
            f"{node_modules} has no {missing[0]}, expected onnxruntime-web 1.30 and mp4box 2.4; "
            "run npm install --ignore-scripts onnxruntime-web@1.30 mp4box@2.4, and name its "
            "node_modules with --node-modules"
        )
    return [path for name in THEIRS for path in found[name]]


def lay_out(folder: Path, node_modules: Path) -> None:
    """Copies all but the model."""
    ours = [path for name in OURS for path in HOSTS.glob(name)]
    for path in [*ours, *find_libraries(node_modules)]:
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(node_modules / LICENCE, folder / "mp4box.LICENSE")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m export.page", description="A page that needs no server."
    )
    parser.add_argument("bundle", help="a bundle's folder, or the name of a shipped model")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument(
        "--node-modules",
        type=Path,
        default=Path("node_modules"),
        help="where npm has installed onnxruntime-web and mp4box (default: node_modules)",
    )
    args = parser.parse_args(words)
    with mistakes_in_one_line():
        size = write_page(open_bundle(args.bundle), args.out, args.node_modules)
        print(f"{args.out}  {size / 1e6:.1f} MB; try it: python -m http.server -d {args.out}")


if __name__ == "__main__":
    main()

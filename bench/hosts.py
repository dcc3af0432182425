"""`python -m bench hosts`: a model as one graph beside our own loop, in Python, Node and a browser,
and the loop on OpenVINO.

From a clip's frames to its sound, the model loaded. Node and the browser run where npm has
installed onnxruntime for them; otherwise their figures are null, and `why` says what is missing.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

import vab_rt
from bench.generate import render_clip
from bench.openvino import MOST_APART, SEED, beside_cpu, make
from bench.options import add_model, at_least_one, parser_of
from bench.report import PAUSE_S, console, in_turn, print_facts, print_figures, summarise
from export.one_graph import build_one_graph, request
from export.page import HOSTS, lay_out
from vab_rt.bundle import Bundle, open_bundle
from vab_rt.errors import ExportError
from vab_rt.systems.vab import Vab
from vab_rt.video import Video

MOST_RATIO = 1.3
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
FIRST_SOUND_S = 600
IN_PAGE = """async (seed) => {
  const page = await import("/page.mjs");
  const { readFrames } = await import("/frames.mjs");
  const [video, input] = ["video", "file"].map((id) => document.getElementById(id));
  const begin = performance.now();
  const seen = await readFrames(input.files[0], video, await page.loaded);
  const read = performance.now();
  await page.ask("make", { ...seen, wishes: { seed } });
  return [(read - begin) / 1e3, (performance.now() - read) / 1e3];
}"""

Figures = dict[str, float | None]


class Clip:
    """A video of one clip, and its frames as the graph takes them."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        c = bundle.config
        found = list(Video(path, 0, c.clip_s).frames(c))[: c.num_frames]
        self.path = path
        self.frames = np.stack([frame.image for frame in found])
        large = [frame.large for frame in found if frame.large is not None]
        self.large = np.stack(large) if large else self.frames[:0]

    @property
    def inputs(self) -> dict[str, npt.NDArray[np.uint8]]:
        return {"frames": self.frames} | ({"images": self.large} if len(self.large) else {})


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    bundle = open_bundle(options.model)
    graph = build_one_graph(bundle, with_video=True).SerializeToString()
    facts = print_facts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = Clip(render_clip(folder), bundle)
        (folder / "model.onnx").write_bytes(graph)
        figures: Figures = dict(in_python(options.model, graph, clip, options.runs))
        why = {}
        hosts: list[Callable[[int], tuple[Figures, str | None]]] = [
            partial(beside_cpu, bundle, clip.frames, clip.large),
            partial(in_node, folder, clip, options.node_modules),
            partial(in_browser, folder, clip, options.node_modules),
        ]
        for host in hosts:
            found, reason = host(options.runs)
            figures |= found
            why |= {figure: reason for figure in found if reason}
    print_figures(figures | {f"why no {figure}": reason for figure, reason in why.items()})
    if options.json:
        sizes = {"graph_bytes": len(graph), "runs": options.runs}
        targets = {"one_graph_ratio": MOST_RATIO}
        print(json.dumps(figures | sizes | {"why": why, "targets": targets} | facts))


def in_python(model: str | None, graph: bytes, clip: Clip, num_runs: int) -> dict[str, float]:
    """Medians of our loop and of the graph, in turn. Nothing is timed unless tokens are equal."""
    pipeline = vab_rt.load(model, "cpu")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as our loop's
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    system: Vab = pipeline.system
    c = system.codec_config
    given = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    asked = clip.inputs | request(given, SEED, system.defaults)

    def theirs() -> tuple[Any, Any]:
        return tuple(session.run(["tokens", "audio"], asked))

    ours = partial(make, system, clip.frames, clip.large)
    apart = check_parity(ours(), theirs())
    times = summarise(
        in_turn({"loop": ours, "graph": theirs}, num_runs, warm_ups=1, pause_s=PAUSE_S)
    )
    loop_s, graph_s = (times[name].median / 1e3 for name in ("loop", "graph"))
    figures = {"loop_s": loop_s, "one_graph_s": graph_s, "one_graph_ratio": graph_s / loop_s}
    return {name: round(value, 4) for name, value in figures.items()} | {"apart": apart}


def check_parity(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> float:
    """How far samples are apart; exits where tokens are not equal or samples too far apart."""
    apart = float(np.abs(ours[1] - theirs[1]).max())
    if not np.array_equal(ours[0], theirs[0]) or apart > MOST_APART:
        sys.exit(f"not timed: the graph gives other tokens, or a sound {apart:.1e} off")
    console.print(f"parity: equal tokens, samples {apart:.1e} off")
    return apart


def in_node(
    folder: Path, clip: Clip, node_modules: Path, num_runs: int
) -> tuple[Figures, str | None]:
    """The median of a process of its own, its first run not counted."""
    node = shutil.which("node")
    if node is None or not (node_modules / "onnxruntime-node").is_dir():
        return {"node_s": None}, f"no node, or no onnxruntime-node in {node_modules}"
    for script in (HOSTS / "node").glob("*.mjs"):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(node_modules.absolute())
    words = [f"seed={SEED}", f"runs={num_runs + 1}"]
    for name, frames in clip.inputs.items():
        frames.tofile(folder / f"{name}.rgb")
        words += [] if name == "frames" else [f"{name}={name}.rgb"]
    command = [node, "host.mjs", "model.onnx", "frames.rgb", "out.wav", *words]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    seconds = [float(line.split()[1]) for line in told.splitlines() if line.startswith("run_s ")]
    return {"node_s": round(median(seconds[1:]), 4)}, None


def in_browser(
    folder: Path, clip: Clip, node_modules: Path, num_runs: int
) -> tuple[Figures, str | None]:
    """wasm_s: frames to sound in Chromium. page_s: with reading the frames, from the drop on."""
    nothing: Figures = {"wasm_s": None, "page_s": None}
    browser = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
    if importlib.util.find_spec("playwright") is None or browser is None:
        return nothing, "no playwright, or no chromium-headless-shell on the path"
    try:
        lay_out(folder, node_modules)
    except ExportError as error:
        return nothing, str(error)
    with serving(folder, ISOLATED) as address, browsing(browser) as page:
        page.goto(address)
        page.get_by_text("Ready").wait_for()
        page.set_input_files("#file", clip.path)
        page.get_by_text("Sound of seed").wait_for()
        runs = [page.evaluate(IN_PAGE, str(SEED)) for _ in range(num_runs)]
    read_s, make_s = (median(each) for each in zip(*runs, strict=True))
    return {"wasm_s": round(make_s, 4), "page_s": round(read_s + make_s, 4)}, None


@contextmanager
def browsing(browser: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = program.new_page()
        page.set_default_timeout(FIRST_SOUND_S * 1000)
        yield page
        program.close()


class Handler(SimpleHTTPRequestHandler):
    """Says nothing, and sends `more` with each file."""

    def __init__(self, *words: Any, more: Mapping[str, str], **options: Any) -> None:
        self._more = more
        super().__init__(*words, **options)

    def end_headers(self) -> None:
        for name, value in self._more.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, headers: Mapping[str, str]) -> Iterator[str]:
    """The address of a server of a folder's files."""
    handler = partial(Handler, directory=folder, more=headers)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("hosts", __doc__)
    add_model(parser)
    parser.add_argument("--runs", type=at_least_one, default=5, help="turns of all that is timed")
    parser.add_argument(
        "--node-modules",
        type=Path,
        default=Path("node_modules"),
        help="where npm has installed what hosts and page need (default: node_modules)",
    )
    return parser

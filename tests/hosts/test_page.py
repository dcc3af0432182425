"""The page without a server: `export.page` makes it, Chromium runs it, nothing leaves it."""

import re
import shutil
import wave

import numpy as np
import onnxruntime
import pytest
from command import PATIENCE_S
from media import make_video
from one_graph_hosts import node_modules

from bench.hosts import ISOLATED, browsing, serving
from export import page as page_command
from export.one_graph import request
from vab_rt.bundle import open_bundle
from vab_rt.video import Video, read_frames

SEED = 2**64 - 5


@pytest.mark.parametrize(
    ("has_library", "message"),
    [(False, "expected onnxruntime-web"), (True, "expected a new folder")],
)
def test_what_the_page_cannot_be_made_of_is_told(
    tiny_bundle, tmp_path, capsys, has_library, message
):
    if has_library:
        library = tmp_path / "onnxruntime-web" / "dist"
        library.mkdir(parents=True)
        for name in page_command.THEIRS:
            (library / name).touch()
    with pytest.raises(SystemExit):
        page_command.main([str(tiny_bundle), str(tmp_path), "--node-modules", str(tmp_path)])
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def site(tiny_bundle, tmp_path_factory):
    modules = node_modules("onnxruntime-web")
    if modules is None:
        pytest.skip("no onnxruntime-web; NODE_MODULES names the folder that has it")
    out = tmp_path_factory.mktemp("page") / "site"
    page_command.main([str(tiny_bundle), str(out), "--node-modules", str(modules)])
    return out


@pytest.fixture(params=[{}, ISOLATED], ids=["plain", "isolated"])
def opened(site, request):
    """A page of a server that sends these headers; without an error, and asking nobody else."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
    if browser is None:
        pytest.skip("no chromium-headless-shell on the path")
    api.expect.set_options(timeout=PATIENCE_S * 1000)
    wrong = []
    with serving(site, request.param) as address, browsing(browser) as page:
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda asked: wrong.append(asked.url) if outside(asked, address) else None
        )
        page.goto(address)
        yield page, api.expect(page.locator("#status")), bool(request.param)
    assert not wrong


def outside(asked, address):
    return asked.method != "GET" or not asked.url.startswith((address, f"blob:{address}", "data:"))


@pytest.mark.slow
def test_a_page_without_a_server_makes_the_graphs_sound(opened, site, tiny_bundle, tmp_path):
    page, status, is_isolated = opened
    status.to_have_text(
        re.compile(r"Ready, on \d threads?" if is_isolated else "Ready, on 1 thread$")
    )
    lacks = page.locator("#lacks").inner_text()
    assert (lacks == "") if is_isolated else ("Cross-Origin-Opener-Policy" in lacks)
    (tmp_path / "wrong.mp4").write_bytes(b"no video" * 99)
    page.set_input_files("#file", tmp_path / "wrong.mp4")
    status.to_contain_text("Not made: this browser cannot play that file")
    video = make_video(tmp_path / "in.webm", num_frames=75, size=(96, 64), codec="libvpx")
    page.fill("#seed", str(SEED))
    page.set_input_files("#file", video)
    status.to_have_text(re.compile(rf"Sound of seed {SEED} in .*, of the first 2 s: the rest .*"))
    with page.expect_download() as file:
        page.click("#save")
    file.value.save_as(tmp_path / "out.wav")
    found = page.evaluate(ASK, str(SEED))
    frames = np.array(found["frames"], np.uint8).reshape(4, 8, 8, 3)
    reader, _ = read_frames(Video(video, 0, 2), open_bundle(tiny_bundle).manifest.model)
    assert np.abs(frames - np.stack(reader).astype(float)).mean() < 4
    tokens, audio = ask_the_graph(site, frames, tiny_bundle)
    assert found["tokens"] == tokens.ravel().tolist()
    with wave.open(str(tmp_path / "out.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32767)
    assert np.abs(samples - audio[0] / max(1, np.abs(audio).max())).max() <= 1e-4


ASK = """async (seed) => {
  const page = await import("/page.mjs");
  const video = document.getElementById("video");
  const seen = await page.readFrames(video, await page.loaded);
  const { tokens } = await page.ask("make", { ...seen, wishes: { seed } });
  return { frames: [...seen.frames], tokens: [...tokens] };
}"""


def ask_the_graph(site, frames, bundle):
    session, manifest = (
        onnxruntime.InferenceSession(site / "model.onnx"),
        open_bundle(bundle).manifest,
    )
    c = manifest.model
    given = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    return session.run(None, {"frames": frames, **request(given, SEED, manifest.defaults)})

"""The page without a server: `export.page` makes it, Chromium runs it, nothing leaves it."""

import re
import shutil
import wave
from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
from command import PATIENCE_S
from media import make_video, trim
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
    tiny_bundle, tmp_path, refused, has_library, message
):
    if has_library:
        for name in (*page_command.THEIRS, page_command.LICENCE):
            path = tmp_path / name.replace("*", "some")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    words = (tiny_bundle, tmp_path, "--node-modules", tmp_path)
    assert message in refused(page_command.main, *words)


@pytest.fixture(scope="module")
def site(tiny_bundle, tmp_path_factory):
    modules = node_modules("mp4box")
    if modules is None or not (modules / "onnxruntime-web").is_dir():
        pytest.skip("no onnxruntime-web and mp4box; NODE_MODULES names the folder that has them")
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
  const { readFrames } = await import("/frames.mjs");
  const [video, input] = ["video", "file"].map((id) => document.getElementById(id));
  const seen = await readFrames(input.files[0], video, await page.loaded);
  const { tokens } = await page.ask("make", { ...seen, wishes: { seed } });
  return { frames: [...seen.frames], tokens: [...tokens] };
}"""
CLIPS = {  # how each is made, and why its frames are sought, not decoded
    "plain.mp4": ({}, None),
    "quicktime.mov": ({"b_frames": 0, "with_sound": True}, None),
    "fragmented.mp4": ({"format_options": {"movflags": "frag_keyframe+empty_moov"}}, None),
    "fast.mp4": ({"fps": 50, "num_frames": 90}, None),
    "uneven.mp4": ({"timestamps": [Fraction(n * n, 1000) for n in range(45)]}, None),
    "trimmed.mp4": ({}, "an edit list"),
    "turned.mp4": ({"rotation": 90}, "turned"),
    "deep.mp4": ({"pix_fmt": "yuv444p"}, "pixels of format I444"),
    "vp9.mp4": ({"codec": "libvpx-vp9"}, "neither H.264"),
    "vp8.webm": ({"codec": "libvpx"}, "sought"),
}


@pytest.mark.slow
@pytest.mark.parametrize("opened", [{}], indirect=True)
def test_frames_are_the_readers_decoded_or_sought(opened, tiny_bundle, tmp_path):
    page, status, _ = opened
    told = []
    status.to_contain_text("Ready")
    page.on("console", lambda said: told.append(said.text))
    for name, (how, why) in CLIPS.items():
        video = make_video(tmp_path / name, **{"num_frames": 45, "size": (96, 64)} | how)
        if name == "trimmed.mp4":
            trim(video, 15_000, 1.2)
        told.clear()
        page.set_input_files("#file", video)
        status.to_contain_text("Sound of seed")
        frames = np.array(page.evaluate(ASK, "0")["frames"], np.uint8).reshape(-1, 8, 8, 3)
        sought = [text for text in told if "frames are sought" in text]
        assert bool(sought) == bool(why) and all(why in text for text in sought), (name, told)
        reader, _ = read_frames(Video(video, 0, 2), open_bundle(tiny_bundle).manifest.model)
        assert len(frames) == len(reader), name
        if not why:
            assert np.abs(frames - np.stack(reader).astype(float)).max() <= 1, name


READ = """async (times) => {
  const page = await import("/page.mjs");
  const { readFrames } = await import("/frames.mjs");
  const [video, input] = ["video", "file"].map((id) => document.getElementById(id));
  const all = [];
  for (let i = 0; i < times; i++) {
    const { frames } = await readFrames(input.files[0], video, await page.loaded);
    all.push([...frames]);
  }
  return all;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("opened", [{}], indirect=True)
def test_a_webm_that_is_sought_shows_no_frame_of_before(opened, tiny_bundle, tmp_path):
    """Chromium says "seeked" before the frame can be drawn once in eighty times."""
    page, status, _ = opened
    status.to_contain_text("Ready")
    video = make_video(tmp_path / "in.webm", num_frames=75, size=(96, 64), codec="libvpx")
    page.set_input_files("#file", video)
    status.to_contain_text("Sound of seed")
    found = np.array(page.evaluate(READ, 60), float).reshape(60, 4, -1)
    reader, _ = read_frames(Video(video, 0, 2), open_bundle(tiny_bundle).manifest.model)
    off = np.abs(found - np.stack(reader).reshape(4, -1)).mean(2)  # [60, 4]
    assert off.max() < 4, off.round(1)


def ask_the_graph(site, frames, bundle):
    session, manifest = (
        onnxruntime.InferenceSession(site / "model.onnx"),
        open_bundle(bundle).manifest,
    )
    c = manifest.model
    given = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    return session.run(None, {"frames": frames, **request(given, SEED, manifest.defaults)})

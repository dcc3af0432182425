"""The page of vab-rt serve in a real browser: Debian's chromium-headless-shell, by Playwright."""

import shutil

import pytest
from command import PATIENCE_S, wait_for
from media import make_video
from serving import running

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = api.expect
expect.set_options(timeout=PATIENCE_S * 1000)
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium-headless-shell on the path"),
]


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def served(tiny_bundle, tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    with running(tiny_bundle, home) as (address, _):
        yield address, home


@pytest.fixture
def page(browser, served):
    """Open, dark and as wide as a phone; without an error, and asking nobody else."""
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark", accept_downloads=True
    )
    context.set_default_timeout(PATIENCE_S * 1000)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: None if is_ours(asked.url, served[0]) else wrong.append(asked))
    page.goto(served[0])
    yield page
    context.close()
    assert not wrong


def is_ours(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "blob:", "data:"))


def choose(page, path) -> None:
    page.set_input_files("#file", path)
    page.click("#make")


def test_from_a_video_to_a_part_made_anew_and_back(page, tmp_path):
    video = make_video(tmp_path / "film.mp4", num_frames=50)
    choose(page, video)
    expect(page.locator("#list label")).to_have_count(4)
    expect(page.locator("#list label").first).to_contain_text("score")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wave = page.locator("#wave")
    wave.scroll_into_view_if_needed()
    box = wave.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=8)
    page.mouse.up()
    assert float(page.input_value("#from")) == pytest.approx(0.6, abs=0.1)
    assert float(page.input_value("#to")) == pytest.approx(1.2, abs=0.1)
    before = page.inner_text("#list label >> nth=0")
    page.keyboard.press("r")
    expect(page.locator("#list")).to_contain_text("made anew")
    with page.expect_download() as sound:
        page.click("[data-format=wav]")
    assert sound.value.suggested_filename.startswith("film.")
    assert sound.value.path().read_bytes()[:4] == b"RIFF"
    with page.expect_download() as film:
        page.click("[data-format=mp4]")
    assert film.value.path().read_bytes()[4:8] == b"ftyp"
    page.keyboard.press("u")
    expect(page.locator("#list")).not_to_contain_text("made anew")
    assert page.inner_text("#list label >> nth=0") == before
    page.keyboard.press("2")
    assert page.locator("#list input >> nth=1").is_checked()
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_text("Pause")
    expect(page.locator("#time")).not_to_have_text("0.0 s")


def test_a_bad_file_says_why_and_a_good_one_follows(page, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all" * 100)
    choose(page, bad)
    expect(page.locator("#status")).to_contain_text("cannot be read as video")
    assert page.locator("#result").is_hidden()
    page.fill("#takes", "1")
    choose(page, make_video(tmp_path / "good.mp4", num_frames=25))
    page.wait_for_selector("#list label")
    assert "score" not in page.inner_text("#list")


def test_cancelled_and_nothing_is_left_when_the_page_is_gone(page, served, tmp_path):
    (folder,) = served[1].glob("vab-rt-serve-*")
    before = set(folder.iterdir())
    page.fill("#takes", "16")
    choose(page, make_video(tmp_path / "long.mp4", num_frames=1500))
    expect(page.locator("#status")).to_have_text("Making sound")
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled")
    page.fill("#takes", "1")
    page.click("#make")
    page.wait_for_selector("#list label")
    assert set(folder.iterdir()) - before
    page.goto("about:blank")
    assert wait_for(lambda: set(folder.iterdir()) <= before)

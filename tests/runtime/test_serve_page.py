"""The page of vab-rt serve in a real browser: Debian's chromium-headless-shell, by Playwright.

Screenshots are left in build/screenshots.
"""

import base64
import re
import shutil
from pathlib import Path

import av
import pytest
from command import PATIENCE_S, wait_for
from media import make_video
from serving import running

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = api.expect
expect.set_options(timeout=PATIENCE_S * 1000)
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium-headless-shell on the path"),
]


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        words = ["--no-sandbox", "--disable-dev-shm-usage"]
        try:
            found = playwright.chromium.launch(executable_path=BROWSER, args=words)
        except api.Error as error:
            pytest.skip(f"{BROWSER} does not start: {error}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def served(tiny_bundle, tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    with running(tiny_bundle, home) as (address, _):
        yield address, home


@pytest.fixture(scope="module")
def long_video(tmp_path_factory) -> Path:
    """Sixteen sounds of it take some time."""
    return make_video(tmp_path_factory.mktemp("long") / "long.mp4", num_frames=300, fps=5)


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


def make(page, num_takes: int = 1) -> None:
    page.fill("#takes", str(num_takes))
    page.click("#make")
    expect(page.locator("#list label")).to_have_count(num_takes)
    expect(page.locator("#time")).to_contain_text(re.compile(r"of [1-9]"))


def choose(page, path) -> None:
    page.set_input_files("#file", path)


def drop(page, path) -> None:
    """As from a window of files."""
    page.evaluate(
        """([name, content]) => {
          const bytes = Uint8Array.from(atob(content), (byte) => byte.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name));
          for (const kind of ["dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, dataTransfer }));
          }
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def drag(page, begin: float, end: float) -> None:
    """From one share of the waveform's width to another."""
    wave = page.locator("#wave")
    wave.scroll_into_view_if_needed()
    box = wave.bounding_box()
    y = box["y"] + 40
    page.mouse.move(box["x"] + begin * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=8)
    page.mouse.up()


def fetched(page, format: str, folder: Path) -> Path:
    with page.expect_download() as file:
        page.click(f"[data-format={format}]")
    path = folder / file.value.suggested_filename
    file.value.save_as(path)
    return path


def shoot(page, name: str) -> None:
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def width_of(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def test_from_a_video_to_a_part_made_anew_and_back(page, tmp_path):
    shoot(page, "empty-dark-phone")
    drop(page, make_video(tmp_path / "film.mp4", num_frames=50))
    expect(page.locator("#video")).to_be_visible()
    make(page, 4)
    expect(page.locator("#list label").first).to_contain_text("score")
    assert width_of(page) <= 360
    drag(page, 0.3, 0.6)
    assert float(page.input_value("#from")) == pytest.approx(0.6, abs=0.1)
    assert float(page.input_value("#to")) == pytest.approx(1.2, abs=0.1)
    before = page.inner_text("#list label >> nth=0")
    page.keyboard.press("r")
    expect(page.locator("#list")).to_contain_text("made anew")
    page.keyboard.press("r")  # and once more
    expect(page.locator("#undo")).to_be_enabled()
    shoot(page, "finished-dark-phone")
    sound, film = fetched(page, "wav", tmp_path), fetched(page, "mp4", tmp_path / "out")
    assert sound.name.startswith("film.") and sound.read_bytes()[:4] == b"RIFF"
    assert film.read_bytes()[4:8] == b"ftyp"
    while "made anew" in page.inner_text("#list"):
        page.keyboard.press("u")
    assert page.inner_text("#list label >> nth=0") == before
    page.keyboard.press("2")
    assert page.locator("#list input >> nth=1").is_checked()
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_text("Pause")
    expect(page.locator("#time")).not_to_contain_text(re.compile(r"^0\.0"))


def test_a_part_is_marked_by_keys(page, tmp_path):
    choose(page, make_video(tmp_path / "film.mp4", num_frames=100))
    make(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("i")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("O")
    assert (page.input_value("#from"), page.input_value("#to")) == ("1.00", "2.04")
    expect(page.locator("#again")).to_be_enabled()


def test_a_bad_file_says_why_and_a_good_one_follows(page, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all" * 100)
    choose(page, bad)
    page.click("#make")
    expect(page.locator("#status")).to_contain_text("cannot be read as video")
    assert page.locator("#result").is_hidden()
    choose(page, make_video(tmp_path / "good.mp4", num_frames=25))
    make(page)
    assert "score" not in page.inner_text("#list")
    assert page.locator("#mix-label").is_hidden()  # it has no sound of its own


def test_cancelled_and_nothing_is_left_when_the_page_is_gone(page, served, long_video):
    (folder,) = served[1].glob("vab-rt-serve-*")
    before = set(folder.iterdir())
    choose(page, long_video)
    page.fill("#takes", "16")
    page.click("#make")
    expect(page.locator("#status")).to_have_text("Making sound")
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled")
    make(page)
    assert set(folder.iterdir()) - before
    page.goto("about:blank")
    assert wait_for(lambda: set(folder.iterdir()) <= before)


def test_cancelled_while_the_video_is_on_its_way(page, tmp_path):
    page.route("**/v1/sounds?*", lambda route: None)  # it never arrives
    choose(page, make_video(tmp_path / "film.mp4", num_frames=25))
    page.click("#make")
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled")
    page.unroute("**/v1/sounds?*")
    make(page)


def test_another_video_while_one_is_worked_on(page, long_video, tmp_path):
    choose(page, long_video)
    page.fill("#takes", "16")
    page.click("#make")
    expect(page.locator("#status")).to_have_text("Making sound")
    choose(page, make_video(tmp_path / "short.mp4", num_frames=25))
    make(page, 2)
    expect(page.locator("#time")).to_contain_text("of 1.0 s")


def test_mixed_with_the_films_own_sound(page, tmp_path):
    choose(page, make_video(tmp_path / "film.mp4", num_frames=25, with_sound=True))
    make(page)
    page.select_option("#mix", "keep")
    page.locator("#gain").press("ArrowLeft")
    expect(page.locator("#gain-db")).to_have_text("-1 dB")
    with av.open(str(fetched(page, "wav", tmp_path))) as sound:
        assert sound.streams.audio[0].channels == 2
    with av.open(str(fetched(page, "mp4", tmp_path / "out"))) as film:
        assert film.streams.audio[0].channels == 2 and film.streams.video


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("hevc.mkv", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("prores.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
        ("old.avi", {"codec": "mpeg4", "b_frames": 0}),
    ],
)
def test_what_a_browser_does_not_play_is_shown_all_the_same(page, tmp_path, name, more):
    choose(page, make_video(tmp_path / name, num_frames=50, with_sound=True, **more))
    expect(page.locator("#unplayable")).to_be_visible()
    make(page)
    expect(page.locator("#video")).to_be_visible()
    expect(page.locator("#unplayable")).to_be_hidden()
    shown = "[video.videoWidth, video.videoHeight, Math.round(video.duration)]"
    assert page.evaluate(f"const video = document.getElementById('video'); {shown}") == [64, 48, 2]
    film = fetched(page, Path(name).suffix[1:], tmp_path / "out")
    assert film.suffix == Path(name).suffix and film.stat().st_size > 0


def test_the_example(page, tmp_path):
    page.click("#example")
    expect(page.locator("#video")).to_be_visible()
    make(page)
    expect(page.locator("#time")).to_contain_text("of 10.0 s")


def test_for_all_who_use_it(page, tmp_path):
    """By axe-core: roles, labels, contrast, order."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    page.set_viewport_size({"width": 1100, "height": 800})

    def found(name: str) -> list[str]:
        problems = []
        for mode in ("dark", "light"):
            page.emulate_media(color_scheme=mode)
            shoot(page, f"{name}-{mode}")
            for each in axe.Axe().run(page).response["violations"]:
                if each["impact"] in ("serious", "critical"):
                    problems += [f"{mode}: {each['id']}: {node['html']}" for node in each["nodes"]]
        return problems

    assert not found("empty")
    choose(page, make_video(tmp_path / "film.mkv", num_frames=50, with_sound=True))
    make(page, 4)
    drag(page, 0.3, 0.6)
    assert not found("finished") and width_of(page) <= 1100

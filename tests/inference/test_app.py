"""The page in a real browser, by a person's clicks: a whole run with a reload in the middle, a refusal, a stop."""

import shutil
import threading
import time

import pytest
from media_factory import tone
from omegaconf import OmegaConf
from test_synthesize import ToyFaces, ToyModel, picture

from synctalklip.app.page import serve
from synctalklip.cli import CONFIGS
from synctalklip.data import media
from synctalklip.inference import Synthesizer

pytest.importorskip("gradio", reason="gradio is not installed (make app)")
selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --mute-audio --window-size=1100,1200"
)


class PatientModel(ToyModel):
    """Paints when it is told to."""

    def __init__(self):
        self.may_go_on = threading.Event()

    def __call__(self, faces, speech):
        assert self.may_go_on.wait(60)
        return super().__call__(faces, speech)


@pytest.fixture
def browser(tmp_path):
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    driver = selenium.Chrome(options, selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(condition, seconds: float = 90.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the page does not get there"
        time.sleep(0.05)


def shown(browser, words: str) -> bool:
    return words in browser.execute_script("return document.querySelector('#view')?.innerText ?? ''")


def give(browser, name: str, path) -> None:
    """Upload a file; until then the field has no link to it."""
    field = f"#{name} input[type=file]"
    wait(lambda: browser.find_elements("css selector", field))
    browser.find_element("css selector", field).send_keys(str(path))
    wait(lambda: path.stem in browser.find_element("id", name).text)


def test_a_person_makes_a_video(browser, tmp_path):
    media.write_video(tmp_path / "video.mp4", [picture()] * 30)
    media.write_wav(tmp_path / "speech.wav", (tone(1.2, 16000)[0] * 8000).astype("int16"))
    (tmp_path / "letter.txt").write_text("no video")
    (tmp_path / "page").mkdir()
    model, cfg = PatientModel(), OmegaConf.load(CONFIGS / "app.yaml")
    cfg.port = None
    page = serve(cfg, Synthesizer(model, ToyFaces()), tmp_path / "page")
    try:
        browser.get(f"http://127.0.0.1:{page.server_port}")
        give(browser, "video", tmp_path / "letter.txt")
        wait(lambda: shown(browser, "letter.txt"))
        assert str(tmp_path) not in browser.find_element("id", "view").text
        browser.find_element(
            "css selector", "#video button[aria-label*='emove'], #video button[aria-label='Clear']"
        ).click()
        wait(lambda: browser.find_elements("css selector", "#video input[type=file]"))
        give(browser, "video", tmp_path / "video.mp4")
        wait(lambda: browser.find_elements("css selector", "#faces img"))
        give(browser, "audio", tmp_path / "speech.wav")
        browser.find_element("id", "start").click()
        wait(lambda: shown(browser, "of 60 frames"))
        browser.refresh()
        wait(lambda: shown(browser, "of 60 frames"))
        model.may_go_on.set()
        wait(lambda: shown(browser, "generated"))
        assert shown(browser, "LSE offset")
        assert shown(browser, "Lip opening")
        sizes = "return [...document.querySelectorAll('#view video')].map((v) => v.readyState > 0 && v.duration)"
        wait(lambda: all(browser.execute_script(sizes)))
        assert browser.execute_script(sizes) == pytest.approx([1.2, 1.2], abs=0.1)
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert {name.split("/")[2] for name in loaded if name.startswith("http")} == {f"127.0.0.1:{page.server_port}"}
        browser.save_screenshot(str(tmp_path / "done.png"))
    finally:
        model.may_go_on.set()
        page.close()

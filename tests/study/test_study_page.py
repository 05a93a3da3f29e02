"""The page of a study in a real browser, as a participant uses it: a whole session, a reload in the middle, a file."""

import functools
import http.server
import json
import shutil
import threading
import time

import pytest
from study_factory import config, make_videos

from synctalklip.study.collect import collect
from synctalklip.study.make import make

selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --mute-audio --window-size=1100,900"
)
ANSWER_KEYS = "453"


@pytest.fixture
def browser(tmp_path):
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(condition, seconds: float = 30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the page does not get there"
        time.sleep(0.02)


def shown(browser, name: str) -> bool:
    return browser.find_element("id", name).is_displayed()


def press(browser, keys: str) -> None:
    browser.switch_to.active_element.send_keys(keys)


def watch(browser) -> None:
    """Play the video to its end; answers are closed until then."""
    if shown(browser, "play"):
        assert not browser.find_element("css selector", "#rows input").is_enabled()
        browser.find_element("id", "play").click()
    wait(lambda: browser.find_element("css selector", "#rows input").is_enabled())
    length, place = browser.execute_script(
        "const v = document.getElementById('video'); return [v.duration, v.currentTime]"
    )
    assert place == pytest.approx(length, abs=0.1)
    assert length == pytest.approx(0.48, abs=0.1)


def stored(browser) -> dict:
    """The state that the browser keeps for the participant."""
    code = "Object.keys(localStorage).find((name) => !name.endsWith('current'))"
    return json.loads(browser.execute_script(f"return localStorage.getItem({code})"))


def keys_for(browser) -> str:
    """A digit for each row; what the attention check asks for, where it is one."""
    asked = browser.find_element("id", "note")
    return "222" if asked.is_displayed() and "choose 2" in asked.text else ANSWER_KEYS


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def begin(browser, code: str) -> None:
    """Give a code and agree."""
    field, agree = (browser.find_element("id", name) for name in ("code", "agree"))
    field.clear()
    field.send_keys(code)
    if not agree.is_selected():
        agree.click()
    browser.find_element("css selector", "#start button").click()


def rate(browser, keys: str) -> None:
    """Answer the open rows with the keyboard, then Enter."""
    assert not browser.find_element("id", "next").is_enabled()
    for key in keys:
        press(browser, key)
    press(browser, "\ue007")


def test_a_participant_from_the_first_screen_to_the_file(browser, tmp_path):
    make_videos(tmp_path)
    cfg = config(
        tmp_path, "participants=2", "bootstrap.samples=10", "swapped_check.highest=5", "exclude.median_seconds=0"
    )
    make(cfg)
    key = json.loads((tmp_path / "study/key.json").read_text())
    code, *_ = key["plans"]
    browser.get((tmp_path / "study/page/index.html").as_uri() + f"?code={code}")
    button = browser.find_element("css selector", "#start button")
    button.click()
    assert "tick the box" in browser.find_element("id", "start-problem").text
    browser.find_element("id", "agree").click()
    button.click()
    total = len(key["plans"][code])
    for number in range(total):
        if shown(browser, "pause"):
            browser.find_element("id", "go-on").click()
        watch(browser)
        if number == 0:
            press(browser, "r")
            wait(lambda: stored(browser)["draft"]["plays"] == 2)
        keys = keys_for(browser)
        if number == 4:
            press(browser, keys[0])
            before = browser.find_element("id", "place").text
            browser.refresh()
            wait(lambda: shown(browser, "rate"))
            assert browser.find_element("id", "place").text == before == f"Video 3 of {total - 2}"
            assert browser.find_element("css selector", "#rows input:checked").get_attribute("value") == keys[0]
            keys = keys[1:]
        rate(browser, keys)
    wait(lambda: shown(browser, "done"))
    browser.find_element("id", "save").click()
    file = tmp_path / "downloads" / f"study-{key['study']}-{code}.json"
    wait(file.is_file)
    shutil.copy(file, tmp_path / "study/results")
    text = str(collect(cfg))
    assert "by 1 participants" in text
    assert "0 participants excluded, 0 files rejected" in text
    ratings = json.loads(file.read_text())["ratings"]
    assert [rating["item"] for rating in ratings] == key["plans"][code]
    assert [rating["plays"] for rating in ratings[:2]] == [2, 1]
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {name.split(":")[0] for name in loaded} <= {"file", "data", "blob"}
    assert list(ratings[0]["answers"].values()) == [int(key) for key in ANSWER_KEYS]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_by_mouse_from_a_server_for_two_people_on_one_device(browser, tmp_path):
    make_videos(tmp_path)
    make(config(tmp_path, "participants=2"))
    one, other = json.loads((tmp_path / "study/key.json").read_text())["plans"]
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "study/page"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_port}/index.html")
        begin(browser, "WRONG")
        assert "not part of the study" in browser.find_element("id", "start-problem").text
        begin(browser, one.lower())
        watch(browser)
        for row in browser.find_elements("css selector", "#rows fieldset"):
            row.find_elements("css selector", "label")[3].click()
        browser.find_element("id", "next").click()
        assert browser.find_element("id", "place").text == "Example 2 of 2"
        browser.find_element("id", "leave").click()
        begin(browser, other)
        assert browser.find_element("id", "place").text == "Example 1 of 2"
        # Who finds a way to skip has not seen it.
        wait(lambda: browser.execute_script("return document.getElementById('video').readyState") == 4)
        browser.execute_script("const v = document.getElementById('video'); v.currentTime = 0.4; v.play()")
        wait(lambda: browser.execute_script("return document.getElementById('video').ended"))
        watch(browser)
        browser.find_element("id", "leave").click()
        begin(browser, one)
        assert browser.find_element("id", "place").text == "Example 2 of 2"
        server.shutdown()


DAMAGES = ("{", "5", "[]", "null", '{"participant": "CODE"}', '{"participant": "CODE", "started": 1, "ratings": [1]}')


def test_a_damaged_state_begins_anew(browser, tmp_path):
    make_videos(tmp_path)
    make(config(tmp_path, "participants=1", "bootstrap.samples=10"))
    key = json.loads((tmp_path / "study/key.json").read_text())
    (code,) = key["plans"]
    page = (tmp_path / "study/page/index.html").as_uri()
    browser.get(page)
    store = f"study/{key['study']}/"
    for damage in DAMAGES:
        for name, value in (("current", json.dumps(code)), (code, damage.replace("CODE", code))):
            browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", store + name, value)
        browser.get(page)
        wait(lambda: shown(browser, "welcome"))
        begin(browser, code)
        wait(lambda: shown(browser, "rate"))
        assert stored(browser)["ratings"] == []

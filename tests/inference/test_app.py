"""The page: its jobs by themselves, and all of it in a real browser, by two persons' clicks."""

import json
import shutil
import socket
import threading
import time

import av
import cv2
import numpy as np
import pytest
from media_factory import tone
from omegaconf import OmegaConf
from test_synthesize import ToyFaces, ToyModel, picture

from synctalklip.app.desk import DONE, REFUSED, STOPPED, Desk
from synctalklip.app.look import as_played, faces_of
from synctalklip.app.page import served
from synctalklip.cli import CONFIGS
from synctalklip.data import media
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Synthesizer

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --mute-audio --window-size=1100,1200"
)


class PatientModel(ToyModel):
    """Begins to paint each video when it is told to."""

    def __init__(self):
        self.may_go_on, self.is_free = threading.Event(), False

    def encode_speech(self, audio, padding_mask):
        self.may_go_on.clear()
        return super().encode_speech(audio, padding_mask)

    def __call__(self, faces, speech):
        wait(lambda: self.is_free or self.may_go_on.is_set())
        return super().__call__(faces, speech)


def wait(condition, seconds: float = 60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not get there"
        time.sleep(0.05)


@pytest.fixture
def files(tmp_path):
    """A video of 1.2 s, a speech as long, and a text file."""
    media.write_video(tmp_path / "video.mp4", [picture()] * 30)
    media.write_wav(tmp_path / "speech.wav", (tone(1.2, 16000)[0] * 8000).astype("int16"))
    (tmp_path / "letter.txt").write_text("no video")
    return {name: str(tmp_path / name) for name in ("video.mp4", "speech.wav", "letter.txt")}


@pytest.fixture
def open_desk(tmp_path):
    desks = []

    def open_desk(model, waiting=8, keep_minutes=60.0):
        folder = tmp_path / f"desk{len(desks)}"
        folder.mkdir()
        desks.append(Desk(Synthesizer(model, ToyFaces()), folder, 100, waiting, keep_minutes))
        return desks[-1]

    yield open_desk
    for desk in desks:
        desk.synthesizer.model.is_free = True
        desk.close()


def test_typed_words_are_spoken_and_files_go_after_their_time(files, open_desk):
    desk = open_desk(PatientModel(), keep_minutes=1 / 60)
    upload = shutil.copy(files["video.mp4"], desk.uploads)
    (desk.uploads / "broken off").write_bytes(b"half a video")
    key = desk.submit(upload, None, "  Hello, one two three. ", "largest")
    job = desk.find(key)
    wait(lambda: job.frames[0] > 0)
    wait(lambda: list(desk.uploads.iterdir()) == [])
    time.sleep(0.6)
    assert job.is_open
    assert job.video.is_file()
    desk.synthesizer.model.may_go_on.set()
    wait(lambda: not job.is_open)
    assert job.state == DONE, job.sentence
    assert media.probe(job.output).sample_rate is not None
    assert job.frames[0] == job.frames[1] > 0
    assert json.loads(job.sidecar.read_text())["generated"] is True
    wait(lambda: desk.find(key) is None)
    assert list(desk.folder.iterdir()) == []


def test_a_job_that_cannot_be_done_is_refused_and_the_next_one_is_made(files, open_desk):
    desk = open_desk(PatientModel())
    refused = desk.find(desk.submit(files["letter.txt"], files["speech.wav"], "", "largest"))
    silent = desk.find(desk.submit(files["video.mp4"], None, "...", "largest"))
    desk.submit(files["video.mp4"], files["speech.wav"], "", 0)
    wait(lambda: not silent.is_open)
    assert refused.state == silent.state == REFUSED
    assert refused.sentence.startswith("letter.txt: cannot be read")
    assert "nothing to say" in silent.sentence


def test_the_queue_has_an_order_and_an_end(files, open_desk):
    desk = open_desk(PatientModel(), waiting=2)
    first, second, third = (desk.submit(files["video.mp4"], files["speech.wav"], "", "largest") for _ in range(3))
    wait(lambda: desk.find(first).frames[0] > 0)
    assert [desk.place(key) for key in (first, second, third)] == [0, 1, 2]
    with pytest.raises(SyncTalklipError, match="2 videos are waiting already"):
        desk.submit(files["video.mp4"], files["speech.wav"], "", "largest")
    desk.stop(second)
    assert desk.find(second).state == STOPPED
    assert desk.place(third) == 1
    desk.stop(first)
    # Not may_go_on, which a video that only begins would take back.
    desk.synthesizer.model.is_free = True
    wait(lambda: not desk.find(first).is_open)
    assert desk.find(first).state == STOPPED
    assert not desk.find(first).output.exists()
    wait(lambda: desk.place(third) == 0)


def test_what_is_missing_is_asked_for(files, open_desk):
    desk = open_desk(PatientModel())
    for given, sentence in (
        ((None, files["speech.wav"], ""), "no face yet"),
        ((files["video.mp4"], None, " "), "one of the two"),
        ((files["video.mp4"], files["speech.wav"], "words"), "one of the two"),
        ((files["video.mp4"], None, "a" * 101), "100 are the most"),
        ((files["video.mp4"] + "4", None, "words"), "was deleted meanwhile"),
    ):
        with pytest.raises(SyncTalklipError, match=sentence):
            desk.submit(*given, "largest")


def test_faces_are_offered_by_the_places_that_the_synthesizer_counts(tmp_path):
    """One who enters on the left later is the first from the left of two, and still not the first face."""

    class Entering(ToyFaces):
        def detect(self, frame):
            shown = [[80.0, 20.0, 120.0, 60.0, 1.0]]
            # The first of the video is darker.
            if frame.mean() > 100:
                shown.append([10.0, 20.0, 50.0, 60.0, 1.0])
            return np.array(shown, np.float32)

    alone, both = np.full((80, 140, 3), 60, np.uint8), np.full((80, 140, 3), 150, np.uint8)
    media.write_video(tmp_path / "enter.mp4", [alone] * 10 + [both] * 10)
    media.write_video(tmp_path / "late.mp4", [alone] * 50 + [both] * 10)
    assert [round(face.mean(), -1) for face in faces_of(str(tmp_path / "enter.mp4"), Entering())] == [60, 150]
    assert len(faces_of(str(tmp_path / "late.mp4"), Entering())) == 1
    media.write_video(tmp_path / "dark.mp4", [np.zeros((80, 140, 3), np.uint8)] * 5)
    with pytest.raises(SyncTalklipError, match="no face was found in the only frame"):
        faces_of(str(tmp_path / "dark.mp4"), ToyFaces())


def test_a_source_is_shown_as_browsers_play_it(files, tmp_path):
    video, old, still = tmp_path / "video.mp4", tmp_path / "old.mpg", tmp_path / "still.bmp"
    assert as_played(video) == video
    cv2.imwrite(str(still), picture())
    shown = as_played(still)
    assert shown.suffix == ".png"
    assert np.array_equal(cv2.imread(str(shown)), picture())
    with av.open(str(old), "w") as container:
        track = container.add_stream("mpeg1video", rate=25)
        track.width, track.height, track.pix_fmt = 160, 960, "yuv420p"
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(picture(size=(160, 960)), format="bgr24")
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    info = media.probe(shown := as_played(old))
    assert (info.width, info.height, info.frames) == (80, 480, 30)
    assert as_played(shown) == shown


class Person:
    """A browser of their own on the page."""

    def __init__(self, folder, address: str):
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.browser.get(address)

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def text(self, name: str) -> str:
        return self.browser.execute_script(f"return document.querySelector('#{name}')?.innerText ?? ''")

    def sees(self, words: str, name: str = "view") -> None:
        wait(lambda: words in self.text(name))

    def click(self, name: str) -> None:
        wait(lambda: self.browser.find_element("id", name).is_enabled())
        self.browser.find_element("id", name).click()

    def choose(self, name: str, path: str) -> None:
        """Choose a file; a field that holds one has nothing to choose in until it is cleared."""
        for button in self.all(f"#{name} button[aria-label='Clear']"):
            button.click()
        wait(lambda: self.all(f"#{name} input[type=file]"))
        self.all(f"#{name} input[type=file]")[0].send_keys(path)

    def give(self, name: str, path: str) -> None:
        """Choose a file, which is taken."""
        self.choose(name, path)
        wait(lambda: self.all(f"#{name} a[download]"))

    def hosts(self) -> set[str]:
        """Asked for anything by the page since it was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        addresses = [each["request"]["url"] for each in sent]
        return {address.split("/")[2] for address in addresses if address.startswith(("http", "ws"))}


@pytest.mark.filterwarnings("ignore:::gradio")
@pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
def test_two_persons_make_videos(files, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed (make app)")
    connect, look_up, called = socket.socket.connect, socket.getaddrinfo, set()
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: called.add(to[0]) or connect(self, to))
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *rest, **more: called.add(name) or look_up(name, *rest, **more)
    )
    # What gradio takes from the environment is taken back after the test.
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    (tmp_path / "page").mkdir()
    (tmp_path / "large.mp4").write_bytes(bytes(3 * 2**20))
    model, cfg = PatientModel(), OmegaConf.load(CONFIGS / "app.yaml")
    cfg.port, cfg.upload_mb = None, 2
    persons = []
    with served(cfg, Synthesizer(model, ToyFaces()), tmp_path / "page") as page:
        address = f"127.0.0.1:{page.server_port}"
        try:
            one = Person(tmp_path / "one", f"http://{address}")
            persons.append(one)
            refuse_files(one, files, tmp_path)
            whole_run(one, lambda: persons.append(second_in_the_queue(files, tmp_path, address)), files, model)
            two = persons[1]
            two.sees("frames followed and painted")
            two.click("stop")
            model.may_go_on.set()
            two.sees("Stopped")
            assert {host for person in persons for host in person.hosts()} == {address}
            refuse_programs(f"http://{address}", tmp_path)
        finally:
            model.is_free = True
            for person in persons:
                person.browser.quit()
    # "localhost" is how selenium calls its own driver.
    assert called <= {"127.0.0.1", "::1", "localhost"}


def refuse_files(one: Person, files, tmp_path) -> None:
    """A file of another kind and one that is too large."""
    one.give("video", files["letter.txt"])
    one.sees("letter.txt: cannot be read", "problem")
    assert str(tmp_path) not in one.text("problem")
    one.choose("video", str(tmp_path / "large.mp4"))
    wait(lambda: "exceed the maximum allowed size" in one.browser.find_element("tag name", "body").text)
    one.click("start")
    one.sees("There is no face yet", "problem")


def refuse_programs(address: str, tmp_path) -> None:
    """What no browser asks for: an upload past the page's check, a file of the machine, another name."""
    httpx = pytest.importorskip("httpx", reason="comes with gradio")
    assert httpx.post(f"{address}/gradio_api/upload", files={"files": ("l.mp4", bytes(3 * 2**20))}).status_code == 413
    assert not [path for path in tmp_path.joinpath("page").rglob("*") if path.stat().st_size >= 2 * 2**20]
    assert httpx.get(f"{address}/gradio_api/file={tmp_path}/letter.txt").status_code == 403
    assert httpx.get(address).status_code == 200
    assert httpx.get(address, headers={"Host": "elsewhere.example"}).status_code == 400


def whole_run(one: Person, others_come, files, model: PatientModel) -> None:
    """Files, a face, a reload in the middle, and the result."""
    one.give("video", files["video.mp4"])
    wait(lambda: len(one.all("#faces img")) == 1)
    assert one.text("problem") == ""
    one.give("audio", files["speech.wav"])
    one.all("#faces button.thumbnail-item")[0].click()
    wait(lambda: one.all("#face label.selected input[value='0'], #face input[value='0']:checked"))
    one.click("start")
    one.sees("30 of 60 frames followed and painted")
    one.browser.refresh()
    one.sees("30 of 60 frames followed and painted")
    assert not one.browser.find_element("id", "start").is_enabled()
    others_come()
    model.may_go_on.set()
    one.sees("generated")
    for words in ("Frames with a painted mouth\t30 of 30", "LSE offset", "Lip aperture", "Statement of origin"):
        one.sees(words)
    one.all("#view summary")[0].click()
    one.sees('"face": 0')
    sizes = "return [...document.querySelectorAll('#view video')].map((v) => v.readyState > 0 && v.duration)"
    wait(lambda: all(one.browser.execute_script(sizes)))
    assert one.browser.execute_script(sizes) == pytest.approx([1.2, 1.2], abs=0.1)


def second_in_the_queue(files, tmp_path, address: str) -> Person:
    """Someone else, who types."""
    two = Person(tmp_path / "two", f"http://{address}")
    two.give("video", files["video.mp4"])
    two.all("#text textarea")[0].send_keys("Hello, one two three.")
    two.click("start")
    two.sees("Waiting: 1 before this one")
    return two

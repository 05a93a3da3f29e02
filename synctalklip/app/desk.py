"""Jobs of the page: one is worked on, the others wait; each can be looked at, stopped, and is deleted after a while."""

import queue
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synctalklip.app.figures import Figures, measure
from synctalklip.data.encode import write_wav
from synctalklip.data.synthetic.speech import say
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Cancelled, Synthesizer

WAITING, WORKING, DONE, REFUSED, STOPPED = "waiting", "working", "done", "refused", "stopped"
STATES_AT_REST = (DONE, REFUSED, STOPPED)


@dataclass
class Job:
    """One video that someone asked for.

    Attributes:
        folder: holds all its files; goes with it.
        video: source, video or picture.
        audio: file with the speech; None where `text` is spoken.
        text: typed words.
        face: see `inference.Options.face`.
        state: one of the states above.
        frames: frames done, frames in all and seconds left, as `inference.progress.Progress` counts.
        sentence: why it was refused.
        figures: of the result.
        ended: when it came to rest, on the clock of `time.monotonic`.
    """

    folder: Path
    video: Path
    audio: Path | None
    text: str
    face: str | int
    state: str = WAITING
    frames: tuple[int, int, float] = (0, 0, 0.0)
    sentence: str = ""
    figures: Figures | None = None
    ended: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def output(self) -> Path:
        """The result; `<output>.json` lies beside it."""
        return self.folder / "generated.mp4"


class Desk:
    """Takes jobs and works on one at a time, in the order in which they came.

    Args:
        synthesizer: makes the videos.
        folder: a folder of its own for the files of the jobs.
        text_length: longest text, in characters.
        waiting: most jobs that may wait.
        keep_minutes: a job and its files are deleted so long after its end.
    """

    def __init__(self, synthesizer: Synthesizer, folder: Path, text_length: int, waiting: int, keep_minutes: float):
        self.synthesizer, self.folder = synthesizer, folder
        self.text_length, self.waiting, self.keep = text_length, waiting, 60 * keep_minutes
        self._jobs: dict[str, Job] = {}
        self._queue: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, video: str | None, audio: str | None, text: str, face: str | int) -> str:
        """Take a job; its key is a secret of who gave it.

        Raises:
            SyncTalklipError: something is missing or too long, or too many wait already.
        """
        text = text.strip()
        self._assert_complete(video, audio, text)
        self.forget_old()
        key = uuid.uuid4().hex
        folder = self.folder / key
        folder.mkdir()
        assert video is not None
        speech = _taken(audio, folder / "speech") if audio else None
        job = Job(folder, _taken(video, folder / "face"), speech, text, face)
        with self._lock:
            self._jobs[key] = job
        self._queue.put(key)
        return key

    def _assert_complete(self, video: str | None, audio: str | None, text: str) -> None:
        if not video:
            raise SyncTalklipError("There is no face yet: give a video or a picture")
        if bool(audio) == bool(text):
            raise SyncTalklipError("Give a sound file or type a text, one of the two")
        if len(text) > self.text_length:
            raise SyncTalklipError(f"The text has {len(text)} characters: {self.text_length} are the most")
        if sum(job.state == WAITING for job in self._jobs.values()) >= self.waiting:
            raise SyncTalklipError(f"{self.waiting} jobs are waiting already: try again later")

    def find(self, key: str) -> Job | None:
        """The job of a key, None where there is none or not any more."""
        return self._jobs.get(key)

    def place(self, key: str) -> int:
        """How many jobs are before this one."""
        open_jobs = [name for name, job in self._jobs.items() if job.state not in STATES_AT_REST]
        return open_jobs.index(key) if key in open_jobs else 0

    def stop(self, key: str) -> None:
        """End a job that waits or is worked on."""
        job = self.find(key)
        if job is not None:
            job.stop.set()
            if job.state == WAITING:
                self._rest(job, STOPPED)

    def forget_old(self) -> None:
        """Delete what came to rest long ago."""
        with self._lock:
            for key, job in list(self._jobs.items()):
                if job.state in STATES_AT_REST and time.monotonic() - job.ended >= self.keep:
                    shutil.rmtree(job.folder, ignore_errors=True)
                    del self._jobs[key]

    def _rest(self, job: Job, state: str) -> None:
        job.ended, job.state = time.monotonic(), state

    def _work(self) -> None:
        while True:
            job = self._next()
            if job is not None and not job.stop.is_set():
                self._make(job)

    def _next(self) -> Job | None:
        """The next job; while none comes, what is old goes."""
        try:
            return self._jobs.get(self._queue.get(timeout=30))
        except queue.Empty:
            self.forget_old()
            return None

    def _make(self, job: Job) -> None:
        job.state = WORKING

        def report(done: int, total: int, left: float) -> None:
            job.frames = (done, total, left)

        try:
            self._run(job, report)
            self._rest(job, DONE)
        except Cancelled:
            self._rest(job, STOPPED)
        except SyncTalklipError as error:
            job.sentence = without_folders(str(error), job.folder)
            self._rest(job, REFUSED)
        # Whatever happens in one job, the next one is worked on.
        except Exception as error:
            job.sentence = f"This did not work ({type(error).__name__}: {error}); the terminal says more"
            self._rest(job, REFUSED)
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))

    def _run(self, job: Job, report: Callable[[int, int, float], Any]) -> None:
        audio = job.audio or job.folder / "text.wav"
        if job.audio is None:
            write_wav(audio, say(job.text))
        made = self.synthesizer.generate(
            job.video, audio, job.output, face=job.face, progress=report, cancelled=job.stop.is_set
        )
        job.figures = measure(self.synthesizer, made)


def _taken(file: str, folder: Path) -> Path:
    """A copy under its own name; two files of a job may have the same one."""
    folder.mkdir()
    return Path(shutil.copy(file, folder))


def without_folders(sentence: str, folder: Path) -> str:
    """A sentence about files that names them as their owner knows them."""
    return re.sub(rf"{re.escape(str(folder))}/((face|speech)/)?", "", sentence)

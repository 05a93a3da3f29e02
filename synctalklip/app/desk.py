"""Jobs of the page: one is worked on, the others wait; each can be looked at, stopped, and is deleted after a while."""

import contextlib
import os
import re
import shutil
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from synctalklip.app.look import Figures, as_played, measure
from synctalklip.data.media import write_wav
from synctalklip.data.synthetic.speech import say
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Cancelled, Synthesizer

WAITING, WORKING, DONE, REFUSED, STOPPED = "waiting", "working", "done", "refused", "stopped"


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
        frames: frames done, frames in all and seconds left; a frame that is looked at and painted counts twice.
        sentence: why it was refused.
        source: the source as browsers show it.
        figures: of the result.
        ended: when it came to rest, on the clock of `time.monotonic`.
        stop: set by who wants it stopped.
    """

    folder: Path
    video: Path
    audio: Path | None
    text: str
    face: str | int
    state: str = WAITING
    frames: tuple[int, int, float] = (0, 0, 0.0)
    sentence: str = ""
    source: Path | None = None
    figures: Figures | None = None
    ended: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def output(self) -> Path:
        """The result."""
        return self.folder / "generated.mp4"

    @property
    def sidecar(self) -> Path:
        """The statement that the synthesizer writes beside it."""
        return Path(f"{self.output}.json")

    @property
    def is_open(self) -> bool:
        """Whether it waits or is worked on."""
        return self.state in (WAITING, WORKING)

    def rest(self, state: str, sentence: str = "") -> None:
        """End in `state`."""
        self.sentence, self.ended, self.state = without_folders(sentence, self.folder), time.monotonic(), state


class Desk:
    """Takes jobs and works on one at a time, in the order in which they came.

    Args:
        synthesizer: makes the videos.
        folder: an empty folder of its own; in it, `uploads` is where the page puts what it gets, and `jobs` holds the
            files of the jobs.
        text_length: longest text, in characters.
        waiting: most jobs that may wait behind the one that is worked on.
        keep_minutes: an upload is deleted so long after it came, a job and its files so long after its end.
    """

    def __init__(self, synthesizer: Synthesizer, folder: Path, text_length: int, waiting: int, keep_minutes: float):
        self.synthesizer, self.uploads, self.folder = synthesizer, folder / "uploads", folder / "jobs"
        self.uploads.mkdir()
        self.folder.mkdir()
        self.text_length, self.waiting, self.keep = text_length, waiting, 60 * keep_minutes
        self._jobs: dict[str, Job] = {}
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=task, daemon=True) for task in (self._work, self._clean)]
        for thread in self._threads:
            thread.start()

    def submit(self, video: str | None, audio: str | None, text: str, face: str | int) -> str:
        """Take a job; its key is a secret of who gave it.

        Raises:
            SyncTalklipError: something is missing or too long, or too many wait already.
        """
        text = text.strip()
        self._assert_complete(video, audio, text)
        assert video is not None
        key = uuid.uuid4().hex
        folder = self.folder / key
        with self._changed:
            if sum(job.is_open for job in self._jobs.values()) > self.waiting:
                raise SyncTalklipError(f"{self.waiting} videos are waiting already: try again later")
            speech = _taken(audio, folder / "speech") if audio else None
            self._jobs[key] = Job(folder, _taken(video, folder / "face"), speech, text, face)
            self._changed.notify_all()
        return key

    def _assert_complete(self, video: str | None, audio: str | None, text: str) -> None:
        if not video:
            raise SyncTalklipError("There is no face yet: give a video or a picture")
        if bool(audio) == bool(text):
            raise SyncTalklipError("Give a sound file or type a text, one of the two")
        if len(text) > self.text_length:
            raise SyncTalklipError(f"The text has {len(text)} characters: {self.text_length} are the most")

    def find(self, key: str) -> Job | None:
        """The job of a key, None where there is none or not any more."""
        return self._jobs.get(key)

    def place(self, key: str) -> int:
        """How many jobs are before this one."""
        with self._changed:
            still_open = [name for name, job in self._jobs.items() if job.is_open]
        return still_open.index(key) if key in still_open else 0

    def stop(self, key: str) -> None:
        """End a job that waits or is worked on."""
        with self._changed:
            job = self.find(key)
            if job is not None:
                job.stop.set()
                if job.state == WAITING:
                    job.rest(STOPPED)

    def close(self) -> None:
        """Stop the work; waits until the files are free."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.stop.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _clean(self) -> None:
        """Delete what came or came to rest long ago."""
        with self._changed:
            while not self._closed:
                # gradio would forget an upload that was broken off.
                for place, _, names in os.walk(self.uploads):
                    for file in (Path(place, name) for name in names):
                        # It may go by itself meanwhile.
                        with contextlib.suppress(OSError):
                            if time.time() - file.stat().st_mtime >= self.keep:
                                file.unlink()
                for key, job in list(self._jobs.items()):
                    if not job.is_open and time.monotonic() - job.ended >= self.keep:
                        shutil.rmtree(job.folder, ignore_errors=True)
                        del self._jobs[key]
                self._changed.wait(min(30.0, self.keep / 2))

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._make(job)
                job.rest(STOPPED if job.stop.is_set() else DONE)
            except Cancelled:
                job.rest(STOPPED)
            except SyncTalklipError as error:
                job.rest(REFUSED, str(error))
            # Whatever happens in one job, the next one is worked on.
            except Exception as error:
                job.rest(REFUSED, f"This did not work ({type(error).__name__}: {error}); the terminal says more")
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))

    def _next(self) -> Job | None:
        """Wait for a job; None when the desk is closed."""
        with self._changed:
            while not self._closed:
                for job in self._jobs.values():
                    if job.state == WAITING:
                        job.state = WORKING
                        return job
                self._changed.wait()
        return None

    def _make(self, job: Job) -> None:
        audio = job.audio or job.folder / "text.wav"
        if job.audio is None:
            write_wav(audio, say(job.text))

        def report(done: int, total: int, left: float) -> None:
            job.frames = (done, total, left)

        made = self.synthesizer.generate(
            job.video, audio, job.output, face=job.face, progress=report, cancelled=job.stop.is_set
        )
        job.source = as_played(job.video)
        job.figures = measure(self.synthesizer, made)


def _taken(file: str, folder: Path) -> Path:
    """An upload under its own name, for as long as the job lasts; two files of a job may have the same one."""
    folder.mkdir(parents=True)
    try:
        os.link(file, folder / Path(file).name)
    except FileNotFoundError:
        raise SyncTalklipError(f"{Path(file).name} was deleted meanwhile: give it again") from None
    return folder / Path(file).name


def without_folders(sentence: str, folder: Path) -> str:
    """A sentence about files that names them as their owner knows them."""
    return re.sub(rf"{re.escape(str(folder))}/((face|speech)/)?", "", sentence)

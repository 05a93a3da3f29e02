"""The embedded corpus: sentences of the GRID grammar, written in the LRS2 layout.

`main/<speaker>/<id>.mp4` and `.txt`, `{train,val,test}.txt`.
"""

import json
import os
import string
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from synctalklip.data.synthetic.identity import draw_identity
from synctalklip.data.synthetic.render import FPS, render
from synctalklip.data.synthetic.speech import SAMPLE_RATE, Segment, articulate, speak
from synctalklip.data.workers import WorkerDied, run_in_workers
from synctalklip.errors import SyncTalklipError

GRAMMAR: dict[str, tuple[str, ...]] = {
    "command": ("bin", "lay", "place", "set"),
    "colour": ("blue", "green", "red", "white"),
    "preposition": ("at", "by", "in", "with"),
    "letter": tuple(letter for letter in string.ascii_lowercase if letter != "w"),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "adverb": ("again", "now", "please", "soon"),
}
VOCABULARY = tuple(sorted({word for words in GRAMMAR.values() for word in words}))
COMBINATIONS = int(np.prod([len(words) for words in GRAMMAR.values()]))


def _balanced(rng: np.random.Generator, words: tuple[str, ...]) -> Iterator[str]:
    """Endless draws in which each word comes once before any comes again."""
    while True:
        yield from (words[index] for index in rng.permutation(len(words)))


def grid_sentences(rng: np.random.Generator, n: int) -> list[str]:
    """Draw different sentences in which the words of a slot are equally frequent.

    Any run of 25 sentences from the start holds every word of the grammar, up to the few sentences that were drawn
    twice and replaced.

    Args:
        rng: source of randomness.
        n: number of sentences, at most half of the 64,000 that exist.

    Raises:
        ValueError: `n` is out of range.
    """
    if not 0 <= n <= COMBINATIONS // 2:
        raise ValueError(f"cannot draw {n} sentences; the grammar serves 0 to {COMBINATIONS // 2}")
    slots = [_balanced(rng, words) for words in GRAMMAR.values()]
    seen: dict[str, None] = {}
    while len(seen) < n:
        seen[" ".join(next(slot) for slot in slots)] = None
    return list(seen)


def sentence_id(sentence: str) -> str:
    """GRID's name of a sentence: the first letters, the digit as a figure (`bin blue at f two now` -> `bbaf2n`)."""
    words = sentence.split()
    digit = GRAMMAR["digit"].index(words[4])
    return "".join(word[0] for word in words[:4]) + (str(digit) if digit else "z") + words[5][0]


SPLITS = ("train", "val", "test")
# Even speakers are drawn as men, odd ones as women. Each voice comes with the middle of its pitch range.
_VOICES = (
    (("en", 45), ("en+m3", 42), ("en-us+m1", 50), ("en+m7", 46), ("en-gb-scotland+m1", 45), ("en-us+m3", 48)),
    (("en+f2", 52), ("en+f4", 50), ("en-us+f3", 55), ("en+f1", 54), ("en-us+f5", 50), ("en-gb-scotland+f2", 52)),
)


class CorpusError(SyncTalklipError):
    """The corpus cannot be made as asked."""


@dataclass(frozen=True)
class CorpusSettings:
    """What a corpus holds; two corpora of equal settings are equal, byte for byte.

    Attributes:
        clips: number of clips of each of `train`, `val`, `test`.
        identities: number of speakers that share the clips.
        unseen_identities: further speakers who say all of the test clips; 0 lets the known speakers say them.
        seed: source of every random choice.
        frame_size: side of the square frames in pixels, even.
        rate: slowest and fastest speech in words a minute.
        silence: shortest and longest rest before and after the sentence in seconds.
    """

    clips: dict[str, int]
    identities: int
    seed: int
    unseen_identities: int
    frame_size: int
    rate: tuple[int, int]
    silence: tuple[float, float]

    def __post_init__(self) -> None:
        if sorted(self.clips) != sorted(SPLITS) or min(self.clips.values()) < 0:
            raise CorpusError(f"clips must give a count of train, val and test, not {dict(self.clips)}")
        if sum(self.clips.values()) > COMBINATIONS // 2:
            raise CorpusError(f"clips: at most {COMBINATIONS // 2} different sentences can be drawn")
        if self.identities < 1 or self.unseen_identities < 0:
            raise CorpusError("identities must be at least 1 and unseen_identities at least 0")
        if self.frame_size < 128 or self.frame_size % 2:
            raise CorpusError("frame_size must be even and at least 128, or the face detector misses faces")
        if not 80 <= self.rate[0] <= self.rate[1] <= 450:
            raise CorpusError("rate must be two rising numbers between 80 and 450 words a minute")
        if not 0 <= self.silence[0] <= self.silence[1]:
            raise CorpusError("silence must be two rising numbers of seconds, at least 0")


@dataclass(frozen=True)
class ClipPlan:
    """One clip before it is made."""

    split: str
    speaker: int
    sentence: str

    @property
    def name(self) -> str:
        """`<speaker>/<sentence>`, as in the lists of the splits."""
        return f"s{self.speaker + 1}/{sentence_id(self.sentence)}"


@dataclass(frozen=True)
class MadeClip:
    """A clip in memory.

    Attributes:
        frames: (T, S, S, 3) uint8 BGR at 25 fps.
        wave: (640 T,) int16 at 16 kHz.
        moves: (T, A) articulators of each frame.
        phonemes, words: (name, start, end) in seconds from the first frame.
    """

    frames: np.ndarray
    wave: np.ndarray
    moves: np.ndarray
    phonemes: list[Segment]
    words: list[Segment]


def plan_corpus(settings: CorpusSettings) -> list[ClipPlan]:
    """Which speaker says which sentence in which split; no sentence comes twice."""
    plans: list[ClipPlan] = []
    sentences = iter(grid_sentences(np.random.default_rng([settings.seed, 0]), sum(settings.clips.values())))
    for number, split in enumerate(SPLITS):
        held_out = split == "test" and settings.unseen_identities > 0
        first = settings.identities if held_out else 0
        count = settings.unseen_identities if held_out else settings.identities
        order = np.random.default_rng([settings.seed, 1, number])
        speakers: list[int] = []
        while len(speakers) < settings.clips[split]:
            speakers.extend(first + int(index) for index in order.permutation(count))
        plans.extend(ClipPlan(split, speakers[index], next(sentences)) for index in range(settings.clips[split]))
    return plans


def _shift(segments: Iterable[Segment], offset: float) -> list[Segment]:
    return [(name, start + offset, end + offset) for name, start, end in segments]


def make_clip(plan: ClipPlan, settings: CorpusSettings) -> MadeClip:
    """Speak and film one clip; depends on the plan and the settings alone."""
    rng = np.random.default_rng([settings.seed, 2, zlib.crc32(plan.sentence.encode())])
    voices = _VOICES[plan.speaker % 2]
    voice, pitch = voices[(plan.speaker // 2) % len(voices)]
    rate = int(rng.integers(settings.rate[0], settings.rate[1] + 1))
    spoken, phonemes, words = speak(plan.sentence, voice, rate, pitch + int(rng.integers(-8, 9)))
    before, after = rng.uniform(*settings.silence, 2)
    lead = round(before * SAMPLE_RATE)
    step = SAMPLE_RATE // FPS
    frames = -(-(lead + len(spoken) + round(after * SAMPLE_RATE)) // step)
    wave = np.zeros(frames * step)
    wave[lead : lead + len(spoken)] = spoken * (rng.uniform(9000, 22000) / max(1, np.abs(spoken.astype(int)).max()))
    wave += rng.normal(0, rng.uniform(4, 16), len(wave))
    offset = lead / SAMPLE_RATE
    phonemes, words = _shift(phonemes, offset), _shift(words, offset)
    # A camera frame stands for the middle of its 40 ms.
    moves = articulate(phonemes, (np.arange(frames) + 0.5) / FPS)
    person = draw_identity(settings.seed, plan.speaker)
    images = render(moves, person, rng, settings.frame_size)
    return MadeClip(images, np.clip(np.round(wave), -32768, 32767).astype(np.int16), moves, phonemes, words)


def transcript(words: list[Segment]) -> str:
    """An LRS2 transcript: the text, then one line a word with its start and end in seconds and a score."""
    lines = [f"Text:  {' '.join(word.upper() for word, _, _ in words)}", "Conf:  10", ""]
    lines.append("WORD START END ASDSCORE")
    lines.extend(f"{word.upper()} {start:.3f} {end:.3f} 10.0" for word, start, end in words)
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _write_clip(plan: ClipPlan, settings: CorpusSettings, out: Path) -> int:
    """Write one clip; the transcript comes last and so marks a complete clip. Returns its number of frames."""
    import cv2

    from synctalklip.data.media import write_video

    cv2.setNumThreads(1)  # one process a core already
    clip = make_clip(plan, settings)
    path = out / "main" / f"{plan.name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, clip.frames, fps=FPS, wave=clip.wave, sample_rate=SAMPLE_RATE)
    _write_text(path.with_suffix(".txt"), transcript(clip.words))
    return len(clip.frames)


def _is_complete(plan: ClipPlan, out: Path) -> bool:
    path = out / "main" / f"{plan.name}.mp4"
    return path.is_file() and path.with_suffix(".txt").is_file()


def _claim(settings: CorpusSettings, out: Path) -> None:
    """Note the settings in the folder; refuse a folder that holds another corpus."""
    note = out / "corpus.json"
    # Through JSON and back, so that tuples and lists compare equal.
    wanted = json.loads(json.dumps(asdict(settings)))
    if note.is_file():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise CorpusError(f"{note}: not JSON; remove {out} and make the corpus again") from None
        if found != wanted:
            changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise CorpusError(
                f"{out}: holds a corpus of other settings ({', '.join(changed)}); remove it or give another `out`"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    _write_text(note, json.dumps(wanted, indent=2) + "\n")


def _writer(settings: CorpusSettings, out: Path) -> Callable[[ClipPlan], int]:
    return partial(_write_clip, settings=settings, out=out)


def _make_all(plans: list[ClipPlan], settings: CorpusSettings, out: Path, workers: int) -> Iterator[int]:
    """Frames of each clip as it is done.

    Raises:
        CorpusError: a worker was killed; what is complete stays.
    """
    if workers <= 1 or len(plans) <= 1:
        yield from (_write_clip(plan, settings, out) for plan in plans)
        return
    # In processes of their own: espeak-ng has global state.
    for index, made in run_in_workers(partial(_writer, settings, out), plans, workers):
        if isinstance(made, WorkerDied):
            raise CorpusError(f"{out}: the worker of {plans[index].name} died (exit code {made.code}); run again")
        yield made


def make_corpus(settings: CorpusSettings, out: str | Path, workers: int = 1) -> dict[str, int]:
    """Make the corpus, or what is missing of it.

    Args:
        settings: what to make.
        out: folder of the corpus; clips that are already complete there are kept.
        workers: number of processes; the result does not depend on it.

    Returns:
        counts: `made`, `kept` (clips) and `frames` (of the clips made now).

    Raises:
        CorpusError: the folder holds a corpus of other settings.
        SpeechError: espeak-ng is not installed.
    """
    from tqdm import tqdm

    out = Path(out)
    _claim(settings, out)
    plans = plan_corpus(settings)
    missing = [plan for plan in plans if not _is_complete(plan, out)]
    counts = {"made": 0, "kept": len(plans) - len(missing), "frames": 0}
    with tqdm(total=len(plans), initial=counts["kept"], desc="corpus", unit="clip", disable=not missing) as bar:
        for frames in _make_all(missing, settings, out, workers):
            counts["made"] += 1
            counts["frames"] += frames
            bar.update()
    for split in SPLITS:
        _write_text(out / f"{split}.txt", "".join(f"{plan.name}\n" for plan in plans if plan.split == split))
    return counts

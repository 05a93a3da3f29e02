"""When the lips have to close: the sounds p, b and m of words whose times are known."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from synctalklip.errors import SyncTalklipError

BILABIALS = frozenset("PBM")
SHIPPED = Path(__file__).with_name("pronunciations.dict")
"""The 51 words of GRID, from the CMU Pronouncing Dictionary."""


class PronunciationError(SyncTalklipError):
    """A pronouncing dictionary that cannot be read; names file and line."""


def read_pronunciations(path: str | Path = SHIPPED) -> dict[str, tuple[str, ...]]:
    """A dictionary in the format of the CMU Pronouncing Dictionary: `word SOUND SOUND ...` a line, in ARPAbet.

    Comments begin with `;;;` or `#`; of several pronunciations, `word(2)` and so on, the first is taken.

    Returns:
        Sounds, without their stress, by lower-case word.

    Raises:
        PronunciationError: there is no such file, it is no text, or a line has no sounds.
    """
    path = Path(path)
    found: dict[str, tuple[str, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PronunciationError(
            f"{path}: cannot be read as a pronouncing dictionary ({error}); give one in the format of cmudict.dict"
        ) from error
    for number, line in enumerate(lines, 1):
        word, *sounds = re.sub(r"(;;;|\s#|^#).*", "", line).split() or [""]
        if not word:
            continue
        if not sounds:
            raise PronunciationError(f"{path}, line {number}: {word!r} has no sounds; write 'word SOUND SOUND ...'")
        word = re.sub(r"\(\d+\)$", "", word).lower()
        found.setdefault(word, tuple(sound.rstrip("012") for sound in sounds))
    return found


def bilabial_times(
    words: Iterable[tuple[str, float, float]], pronunciations: Mapping[str, tuple[str, ...]]
) -> list[tuple[float, float]]:
    """Start and end of every p, b and m, in seconds.

    The sounds of a word share its time evenly, which is exact for the first and the last sound at one of their ends.

    Args:
        words: (word, start, end) in seconds; words that the dictionary lacks are left out.
        pronunciations: see `read_pronunciations`.
    """
    times = []
    for word, start, end in words:
        sounds = pronunciations.get(word, ())
        step = (end - start) / max(1, len(sounds))
        times += [
            (start + place * step, start + (place + 1) * step)
            for place, sound in enumerate(sounds)
            if sound in BILABIALS
        ]
    return times

"""What a lip reader took for what: aligned words and visemes, and errors by the length of a word."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from synctalklip.metrics.statistics import Parts

NOTHING = "∅"
"""Stands for what was not read, and before what was read though it was not said."""
OTHER = "(other)"

# What lips show, in classes after Jeffers and Barley 1971, by spelling: English spelling tells only roughly what is
# said, but hypotheses have no other form. Longer spellings come first.
_SPELLINGS = {
    "p b m": ("p", "b", "m"),
    "f v": ("ph", "f", "v"),
    "th": ("th",),
    "sh ch j": ("sh", "ch", "j"),
    "s z": ("s", "z", "x"),
    "t d n l": ("t", "d", "n", "l"),
    "k g h": ("ck", "k", "g", "c", "h", "q"),
    "w r u": ("wh", "w", "r", "oo", "ou", "u"),
    "o": ("o",),
    "a": ("a",),
    "e i": ("ee", "ea", "e", "i", "y"),
}
VISEMES = tuple(_SPELLINGS)
_BY_SPELLING = {spelling: viseme for viseme, spellings in _SPELLINGS.items() for spelling in spellings}
_LONGEST = max(map(len, _BY_SPELLING))

Pair = tuple[str, str]
"""What was said and what was read; one of them may be `NOTHING`."""


@dataclass(frozen=True)
class Readings:
    """What the clips of one run say and what was read from them.

    Attributes:
        references: one sentence a clip; empty for a clip that was not read.
        hypotheses: in the same order.
    """

    references: tuple[str, ...]
    hypotheses: tuple[str, ...]

    @property
    def vocabulary(self) -> list[str]:
        """All words that were said."""
        return sorted({word for text in self.references for word in text.split()})


def to_visemes(text: str) -> list[str]:
    """The visemes of a text, spaces and unknown signs left out.

    Doubled letters are one sound, so a viseme that follows itself within a word is written once.
    """
    found: list[str] = []
    for word in text.lower().split():
        place, last = 0, ""
        while place < len(word):
            piece = next((word[place : place + n] for n in range(_LONGEST, 0, -1)
                          if word[place : place + n] in _BY_SPELLING), word[place])  # fmt: skip
            viseme = _BY_SPELLING.get(piece, "")
            if viseme and viseme != last:
                found.append(viseme)
            place, last = place + len(piece), viseme
    return found


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """Pairs of the alignment with the fewest edits (jiwer's)."""
    if not reference:
        return [(NOTHING, read) for read in hypothesis]
    pairs: list[Pair] = []
    # jiwer splits at spaces, which the names of visemes hold.
    numbers = {symbol: str(number) for number, symbol in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    said_numbers, read_numbers = (" ".join(numbers[symbol] for symbol in part) for part in (reference, hypothesis))
    for chunk in jiwer.process_words(said_numbers, read_numbers).alignments[0]:
        said = list(reference[chunk.ref_start_idx : chunk.ref_end_idx])
        read = list(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx])
        length = max(len(said), len(read))
        pairs += zip(said + [NOTHING] * (length - len(said)), read + [NOTHING] * (length - len(read)))
    return pairs


def confusion(runs: Sequence[Readings], visemes: bool) -> tuple[list[str], list[str], np.ndarray]:
    """How often each symbol was read as each.

    Args:
        runs: of one method, pooled.
        visemes: count visemes; else words.

    Returns:
        Names of the rows, names of the columns, and counts (rows,columns). Rows: what was said, and `NOTHING`.
        Columns: what was read; among words `OTHER` for those that were never said; and `NOTHING`.
    """
    split = to_visemes if visemes else str.split
    symbols = list(VISEMES) if visemes else sorted({word for readings in runs for word in readings.vocabulary})
    said_names = [*symbols, NOTHING]
    read_names = [*symbols, NOTHING] if visemes else [*symbols, OTHER, NOTHING]
    rows, columns = ({name: index for index, name in enumerate(names)} for names in (said_names, read_names))
    counts = np.zeros((len(rows), len(columns)), np.int64)
    for readings in runs:
        for reference, hypothesis in zip(readings.references, readings.hypotheses, strict=True):
            for said, read in align(split(reference), split(hypothesis)):
                counts[rows[said], columns[read if read in columns else OTHER]] += 1
    return said_names, read_names, counts


def errors_by_length(runs: Sequence[Readings]) -> dict[int, Parts]:
    """Number of letters -> words of that length that were read wrong, over all of them, run by run and clip by clip.

    Words that were read though nothing was said have no length of their own and are not counted.

    Args:
        runs: of one method, of the same clips in the same order.
    """
    longest = max(len(word) for readings in runs for word in readings.vocabulary)
    wrong, every = np.zeros((2, len(runs), len(runs[0].references), longest + 1))
    for run, readings in enumerate(runs):
        for clip, (reference, hypothesis) in enumerate(zip(readings.references, readings.hypotheses, strict=True)):
            for said, read in align(reference.split(), hypothesis.split()):
                if said != NOTHING:
                    every[run, clip, len(said)] += 1
                    wrong[run, clip, len(said)] += said != read
    lengths = np.flatnonzero(every.sum((0, 1)))
    finite = np.zeros(len(runs), bool)
    return {int(length): Parts(wrong[..., length], every[..., length], finite) for length in lengths}

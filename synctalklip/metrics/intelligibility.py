"""What a lip reader got wrong: word and character error rates, aligned words and visemes.

Rates are summed over the corpus; the mean of per-clip rates has a name of its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from synctalklip.errors import MetricError


@dataclass(frozen=True)
class EditCounts:
    """Edits that turn a reference into a hypothesis, and the length of the reference."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference symbol; may exceed 1.

        Raises:
            MetricError: the reference is empty.
        """
        if self.length == 0:
            raise MetricError("an error rate needs at least one reference symbol, but every reference is empty")
        return self.errors / self.length

    def __add__(self, other: "EditCounts") -> "EditCounts":
        return EditCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.length + other.length,
        )


def edit_counts(reference: Sequence[str], hypothesis: Sequence[str]) -> EditCounts:
    """Levenshtein edits between two sequences of symbols; of equal paths, the one with more substitutions."""
    # One cell is (errors, substitutions, deletions, insertions).
    row = [(j, 0, 0, j) for j in range(len(hypothesis) + 1)]
    for i, symbol in enumerate(reference, start=1):
        previous, row = row, [(i, 0, i, 0)]
        for j, guess in enumerate(hypothesis, start=1):
            errors, subs, dels, ins = previous[j - 1]
            if symbol == guess:
                row.append((errors, subs, dels, ins))
                continue
            best = (errors + 1, subs + 1, dels, ins)
            errors, subs, dels, ins = previous[j]
            if errors + 1 < best[0]:
                best = (errors + 1, subs, dels + 1, ins)
            errors, subs, dels, ins = row[j - 1]
            if errors + 1 < best[0]:
                best = (errors + 1, subs, dels, ins + 1)
            row.append(best)
    _, subs, dels, ins = row[-1]
    return EditCounts(subs, dels, ins, len(reference))


def word_counts(reference: str, hypothesis: str) -> EditCounts:
    """Word edits of one sentence; words are separated by white space."""
    return edit_counts(reference.split(), hypothesis.split())


def character_counts(reference: str, hypothesis: str) -> EditCounts:
    """Character edits of one sentence, spaces included, runs of white space as one space."""
    return edit_counts(" ".join(reference.split()), " ".join(hypothesis.split()))


Count = Callable[[str, str], EditCounts]


def _counts(references: Sequence[str], hypotheses: Sequence[str], count: Count) -> list[EditCounts]:
    if len(references) != len(hypotheses):
        raise MetricError(
            f"{len(references)} references but {len(hypotheses)} hypotheses: give one hypothesis for each clip"
        )
    return [count(reference, hypothesis) for reference, hypothesis in zip(references, hypotheses)]


def _corpus(references: Sequence[str], hypotheses: Sequence[str], count: Count) -> EditCounts:
    return sum(_counts(references, hypotheses, count), EditCounts())


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of the corpus: all word edits divided by all reference words.

    Args:
        references: one transcript a clip, normalised as the hypotheses are.
        hypotheses: one reading a clip, in the same order.

    Returns:
        The rate; 0 is perfect, above 1 is possible.

    Raises:
        MetricError: the lengths differ or no reference holds a word.
    """
    return _corpus(references, hypotheses, word_counts).rate


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate of the corpus; arguments and errors as for `wer`."""
    return _corpus(references, hypotheses, character_counts).rate


def _per_clip(references: Sequence[str], hypotheses: Sequence[str], count: Count) -> float:
    counts = _counts(references, hypotheses, count)
    for index, clip in enumerate(counts):
        if clip.length == 0:
            raise MetricError(f"reference {index} is empty, so its clip has no error rate: leave the clip out")
    if not counts:
        raise MetricError("a mean over clips needs at least one clip, but none is given")
    return math.fsum(clip.rate for clip in counts) / len(counts)


def wer_per_clip(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Mean over clips of each clip's word error rate: what the published WER3 reports.

    A clip of one word weighs as much as one of twenty, so it is no word error rate of the corpus; see `wer`.

    Raises:
        MetricError: the lengths differ, no clip, or a reference that holds no word.
    """
    return _per_clip(references, hypotheses, word_counts)


def cer_per_clip(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Mean over clips of each clip's character error rate; as `wer_per_clip`."""
    return _per_clip(references, hypotheses, character_counts)


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

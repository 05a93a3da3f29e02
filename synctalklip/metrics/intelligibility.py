"""Word and character error rates, summed over the corpus: the mean of per-clip rates has a name of its own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

"""Error rates against jiwer and by hand."""

import jiwer
import numpy as np
import pytest

from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.intelligibility import EditCounts, cer, character_counts, wer, word_counts

WORDS = "bin lay place set blue green red white at by in with a b c two three now please".split()


def random_sentences(count: int, seed: int) -> tuple[list[str], list[str]]:
    """References and hypotheses with random substitutions, deletions and insertions."""
    rng = np.random.default_rng(seed)
    references, hypotheses = [], []
    for _ in range(count):
        words = list(rng.choice(WORDS, rng.integers(1, 9)))
        heard = []
        for word in words:
            edit = rng.random()
            if edit > 0.15:
                heard.append(word if edit > 0.4 else str(rng.choice(WORDS)))
            if rng.random() < 0.15:
                heard.append(str(rng.choice(WORDS)))
        references.append(" ".join(words))
        hypotheses.append(" ".join(heard))
    return references, hypotheses


def test_counts_by_hand():
    assert word_counts("bin blue at f two now", "bin red at two now please") == EditCounts(1, 1, 1, 6)
    assert word_counts("a b", "") == EditCounts(0, 2, 0, 2)
    assert word_counts("", "a b") == EditCounts(0, 0, 2, 0)
    assert character_counts("cat", "cart") == EditCounts(0, 0, 1, 3)


def test_corpus_rate_is_not_the_mean_of_clips():
    # One of one wrong and none of nine wrong: 1/10, not the mean 1/2.
    assert wer(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]) == pytest.approx(0.1)


def test_may_exceed_one():
    assert wer(["a"], ["x y z"]) == 3


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_jiwer(seed):
    references, hypotheses = random_sentences(50, seed)
    assert wer(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert cer(references, hypotheses) == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)


def test_bad_input_is_named():
    with pytest.raises(MetricError, match="2 references but 1 hypotheses"):
        wer(["a", "b"], ["a"])
    with pytest.raises(MetricError, match="every reference is empty"):
        wer(["", ""], ["a", ""])

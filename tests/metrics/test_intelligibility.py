"""Error rates against jiwer and by hand."""

from pathlib import Path

import jiwer
import numpy as np
import pytest

from synctalklip.errors import MetricError
from synctalklip.metrics.intelligibility import (
    EditCounts,
    cer,
    cer_per_clip,
    character_counts,
    wer,
    wer_per_clip,
    word_counts,
)

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


@pytest.fixture(scope="module")
def readings() -> tuple[list[str], list[str]]:
    """Fifty references and readings: nothing read, words twice, words swapped, more words than were said."""
    lines = (Path(__file__).parent / "readings.txt").read_text().splitlines()
    references, hypotheses = zip(*([side.strip() for side in line.split("|")] for line in lines))
    return list(references), list(hypotheses)


def test_fixture_equals_jiwer(readings):
    references, hypotheses = readings
    assert len(references) == 50
    assert hypotheses.count("") == 3
    oracle = jiwer.process_words(references, hypotheses)
    assert wer(references, hypotheses) == pytest.approx(oracle.wer, abs=1e-12)
    assert cer(references, hypotheses) == pytest.approx(
        jiwer.cer(references, [" ".join(hypothesis.split()) for hypothesis in hypotheses]), abs=1e-12
    )
    for reference, hypothesis in zip(references, hypotheses):
        found, one = word_counts(reference, hypothesis), jiwer.process_words(reference, hypothesis)
        assert found.errors == one.substitutions + one.deletions + one.insertions, (reference, hypothesis)
        assert found.deletions - found.insertions == one.deletions - one.insertions


def test_mean_of_clips_is_the_mean_of_jiwers_rates(readings):
    references, hypotheses = readings
    rates = [jiwer.wer(reference, hypothesis) for reference, hypothesis in zip(references, hypotheses)]
    assert wer_per_clip(references, hypotheses) == pytest.approx(np.mean(rates), abs=1e-12)
    assert wer_per_clip(references, hypotheses) != pytest.approx(wer(references, hypotheses), abs=0.01)


def test_mean_of_clips_by_hand():
    # One of one word wrong and none of nine: (1 + 0) / 2. One of three letters and four of eight: (1/3 + 1/2) / 2.
    assert wer_per_clip(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]) == 0.5
    assert cer_per_clip(["cat", "abcd efg"], ["cut", "abcd"]) == pytest.approx((1 / 3 + 1 / 2) / 2)
    # Nothing read is all wrong; a long reading of one word counts in full.
    assert wer_per_clip(["a b", "a"], ["", "x y z"]) == (1 + 3) / 2


def test_mean_of_clips_refuses_what_has_no_rate():
    with pytest.raises(MetricError, match="reference 1 is empty"):
        wer_per_clip(["a", " "], ["a", "b"])
    with pytest.raises(MetricError, match="none is given"):
        cer_per_clip([], [])
    with pytest.raises(MetricError, match="1 references but 2 hypotheses"):
        cer_per_clip(["a"], ["a", "b"])


def test_bad_input_is_named():
    with pytest.raises(MetricError, match="2 references but 1 hypotheses"):
        wer(["a", "b"], ["a"])
    with pytest.raises(MetricError, match="every reference is empty"):
        wer(["", ""], ["a", ""])

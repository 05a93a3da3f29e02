"""When lips have to close, from words and a pronouncing dictionary."""

import pytest

from synctalklip.data.pronunciation import BILABIALS, PronunciationError, bilabial_times, read_pronunciations
from synctalklip.data.synthetic.corpus import VOCABULARY


def test_the_shipped_dictionary_has_the_words_of_grid():
    words = read_pronunciations()
    assert set(words) == set(VOCABULARY)
    assert words["seven"] == ("S", "EH", "V", "AH", "N")
    closing = {word for word, sounds in words.items() if BILABIALS & set(sounds)}
    assert closing == {"bin", "place", "blue", "by", "b", "m", "p", "please"}


def test_times_by_hand():
    words = [("bin", 0.9, 1.2), ("at", 1.2, 1.4), ("m", 1.4, 1.6), ("bimbo", 2.0, 3.0)]
    times = bilabial_times(words, read_pronunciations())
    assert times == [pytest.approx((0.9, 1.0)), pytest.approx((1.5, 1.6))]


def test_a_dictionary_in_cmudicts_format(tmp_path):
    path = tmp_path / "words.dict"
    path.write_text(";;; comment\nA  AH0\nA(1)  EY1\nbamboo B AE0 M B UW1 # wood\n\n")
    assert read_pronunciations(path) == {"a": ("AH",), "bamboo": ("B", "AE", "M", "B", "UW")}
    assert len(bilabial_times([("bamboo", 0, 1)], read_pronunciations(path))) == 3
    path.write_text("bamboo\n")
    with pytest.raises(PronunciationError, match=r"words\.dict, line 1: 'bamboo' has no sounds"):
        read_pronunciations(path)
    with pytest.raises(PronunciationError, match="cannot be read as a pronouncing dictionary"):
        read_pronunciations(tmp_path / "gone.dict")

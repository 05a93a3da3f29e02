"""Sentences of the GRID grammar: command colour preposition letter digit adverb."""

import string
from collections.abc import Iterator

import numpy as np

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

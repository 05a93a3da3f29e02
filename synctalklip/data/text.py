"""Transcripts and the sentencepiece vocabulary.

One normal form of text (lower-case words of a-z and apostrophes) is used by preparation, training and scoring,
so that a word error is never a difference of spelling. Token ids follow AV-HuBERT: bos 0, pad 1, eos 2, unk 3.
"""

import io
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from synctalklip.errors import SyncTalklipError

BOS, PAD, EOS, UNK = 0, 1, 2, 3
MODEL_TYPES = ("word", "char", "unigram")
SILENCES = frozenset({"sil", "sp"})
# Units of a GRID `.align` file in a second: 1000 a video frame.
ALIGN_RATE = 25000
# Heading of the word times in an LRS text file.
WORD_TIMES = ["WORD", "START", "END"]

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))


class TextError(SyncTalklipError):
    """A transcript or a tokenizer cannot be used; the message says which and why."""


def _number_words(value: int) -> str:
    """English words of an integer from 0 to 999,999,999,999."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        return _TENS[value // 10] + (f" {_ONES[value % 10]}" if value % 10 else "")
    for size, name in _SCALES:
        if value >= size:
            rest = value % size
            return f"{_number_words(value // size)} {name}" + (f" {_number_words(rest)}" if rest else "")
    raise AssertionError(value)


def _spell(match: re.Match) -> str:
    digits = match.group().replace(",", "")
    if len(digits) > 12:
        raise TextError(f"number {digits!r} has more than 12 digits; write it in words")
    # A leading zero is read digit by digit, as in a telephone number.
    if len(digits) > 1 and digits[0] == "0":
        return " ".join(_ONES[int(digit)] for digit in digits)
    return _number_words(int(digits))


def normalize_text(text: str) -> str:
    """Lower-case words separated by single spaces.

    Accents are folded (`café` -> `cafe`), whole numbers are spelled, sound marks such as `{LG}` and punctuation
    are dropped, apostrophes inside words are kept.

    Raises:
        TextError: a digit glued to letters (`3rd`), a number of more than 12 digits, or a letter outside a-z
            that has no plain form.
    """
    text = re.sub(r"\{[^}]*\}|<[^>]*>|\[[^\]]*\]", " ", text.replace("’", "'"))
    folded = unicodedata.normalize("NFKD", text).lower()
    folded = "".join(letter for letter in folded if not unicodedata.combining(letter))
    glued = re.search(r"[a-z]+\d\w*|\d+[a-z]\w*", folded)
    if glued:
        raise TextError(f"{glued.group()!r} mixes digits and letters; write it in words")
    folded = re.sub(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+", lambda match: f" {_spell(match)} ", folded)
    foreign = sorted({letter for letter in folded if letter.isalnum() and not letter.isascii()})
    if foreign:
        raise TextError(f"letters {''.join(foreign)!r} have no plain a-z form; transliterate the transcript")
    words = (word.strip("'") for word in re.sub(r"[^a-z']+", " ", folded).split())
    return " ".join(word for word in words if word)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TextError(f"{path}: transcript is missing") from None
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: transcript is not UTF-8 text ({error.reason} at byte {error.start})") from None


def lines_of(text: str) -> list[str]:
    """Lines of a text file; other signs that separate lines in print (U+2028, form feed) belong to their line."""
    return re.split(r"\r\n|\r|\n", text)


def read_lrs_transcript(path: str | Path) -> str:
    """Normalised transcript of an LRS2/LRS3 text file (first line `Text:  THE WORDS`).

    Raises:
        TextError: the file is missing, is not text, or holds no words.
    """
    path = Path(path)
    lines = lines_of(_read(path))
    first = lines[0] if lines else ""
    return _checked(path, re.sub(r"^\s*text\s*:", "", first, flags=re.IGNORECASE))


def read_alignment(path: str | Path) -> list[tuple[int, int, str]]:
    """Word boundaries of a GRID `.align` file as (start, end, word), silences included, in the file's own units.

    Raises:
        TextError: the file is missing or a line is not `start end word`.
    """
    path = Path(path)
    rows = []
    for number, line in enumerate(lines_of(_read(path)), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not all(re.fullmatch(r"\d+(\.\d+)?", field) for field in fields[:2]):
            raise TextError(f"{path}: line {number} is not 'start end word': {line.strip()!r}")
        rows.append((int(float(fields[0])), int(float(fields[1])), fields[2]))
    return rows


def read_grid_transcript(path: str | Path) -> str:
    """Normalised transcript of a GRID `.align` file: its words without the silences `sil` and `sp`.

    Raises:
        TextError: the file is missing, malformed, or holds no words.
    """
    words = [word for _, _, word in read_alignment(path) if word not in SILENCES]
    return _checked(Path(path), " ".join(words))


def read_word_times(path: str | Path) -> tuple[tuple[str, float, float], ...]:
    """Normalised words of a transcript, with start and end in seconds from the first frame; empty without times.

    Args:
        path: `.align` file of GRID, or text file of LRS, which holds a line `WORD START END ...` before the times.

    Raises:
        TextError: the file is missing, or a line of times is malformed or out of order.
    """
    path = Path(path)
    if path.suffix == ".align":
        rows = [(word, start / ALIGN_RATE, end / ALIGN_RATE) for start, end, word in read_alignment(path)]
        rows = [row for row in rows if row[0] not in SILENCES]
    else:
        rows = list(_lrs_word_times(path))
    for word, start, end in rows:
        if not 0 <= start <= end < math.inf:
            raise TextError(f"{path}: {word!r} is said from {start} to {end}; times are seconds in order, from 0")
    return tuple((normalize_text(word), start, end) for word, start, end in rows)


def _lrs_word_times(path: Path) -> Iterator[tuple[str, float, float]]:
    lines = [line.split() for line in lines_of(_read(path))]
    heading = next((number for number, fields in enumerate(lines) if fields[:3] == WORD_TIMES), len(lines))
    for number, fields in enumerate(lines[heading + 1 :], start=heading + 2):
        if not fields:
            continue
        try:
            yield fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            raise TextError(f"{path}: line {number} is not 'WORD START END': {' '.join(fields)!r}") from None


def _checked(path: Path, text: str) -> str:
    try:
        text = normalize_text(text)
    except TextError as error:
        raise TextError(f"{path}: {error}") from None
    if not text:
        raise TextError(f"{path}: transcript holds no words")
    return text


class Tokenizer:
    """Text to token ids and back through a sentencepiece model.

    Args:
        model: the bytes of a sentencepiece `.model` file, as stored in checkpoints.

    Raises:
        TextError: the bytes are no sentencepiece model, or its special ids are not bos 0, pad 1, eos 2, unk 3.
    """

    bos, pad, eos, unk = BOS, PAD, EOS, UNK

    def __init__(self, model: bytes) -> None:
        self.model = bytes(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model)
        except RuntimeError:
            raise TextError(f"the tokenizer ({len(self.model)} bytes) is not a sentencepiece model") from None
        ids = tuple(getattr(self._processor, f"{name}_id")() for name in ("bos", "pad", "eos", "unk"))
        if ids != (BOS, PAD, EOS, UNK):
            raise TextError(f"the tokenizer's bos, pad, eos, unk ids are {ids}, expected {(BOS, PAD, EOS, UNK)}")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a `.model` file.

        Raises:
            TextError: the file is missing or not a model of this project.
        """
        path = Path(path)
        if not path.is_file():
            raise TextError(f"{path}: no tokenizer there; make one with scripts/train_tokenizer.py")
        try:
            return cls(path.read_bytes())
        except TextError as error:
            raise TextError(f"{path}: {error}") from None

    @property
    def size(self) -> int:
        """Number of symbols, the four special ones included."""
        return self._processor.GetPieceSize()

    @property
    def symbols(self) -> list[str]:
        """The symbols in the order of their ids."""
        return [self._processor.IdToPiece(index) for index in range(self.size)]

    def encode(self, text: str, eos: bool = False) -> list[int]:
        """Token ids of normalised text, with the end-of-sentence id appended when `eos`."""
        return self._processor.EncodeAsIds(text) + ([EOS] if eos else [])

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first end of sentence; other special ids are left out."""
        kept = []
        for index in map(int, ids):
            if index == EOS:
                break
            if index > UNK:
                kept.append(index)
        return self._processor.DecodeIds(kept) if kept else ""

    def __getstate__(self) -> dict:
        return {"model": self.model}

    def __setstate__(self, state: dict) -> None:
        Tokenizer.__init__(self, state["model"])


def train_tokenizer(
    texts: Iterable[str], path: str | Path, model_type: str, vocab_size: int | None = None
) -> Tokenizer:
    """Train a sentencepiece model on normalised texts and write it to `path`.

    Args:
        texts: transcripts, already through `normalize_text`.
        path: the `.model` file to write (written beside, then renamed).
        model_type: `unigram` (AV-HuBERT), `char` or `word` (small closed vocabularies such as GRID).
        vocab_size: symbols with the four special ones; None takes every word or character of the texts.

    Raises:
        TextError: unknown type, no text, or a size that the texts cannot fill.
    """
    if model_type not in MODEL_TYPES:
        raise TextError(f"tokenizer type {model_type!r} is not one of {', '.join(MODEL_TYPES)}")
    if vocab_size is None and model_type == "unigram":
        raise TextError("a unigram tokenizer needs a size (AV-HuBERT uses 1000)")
    sentences = [text for text in texts if text]
    if not sentences:
        raise TextError("no transcript to train a tokenizer on: the clips carry no text")
    options = {"vocab_size": vocab_size} if vocab_size else {"use_all_vocab": True}
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_lines(sentences),
            model_writer=written,
            model_type=model_type,
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=BOS,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            # One thread: the vocabulary must not depend on the machine.
            num_threads=1,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:
        raise TextError(f"cannot train a {model_type} tokenizer of size {vocab_size}: {error}") from None
    tokenizer = Tokenizer(written.getvalue())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(tokenizer.model)
    partial.replace(path)
    return tokenizer


def _lines(sentences: list[str]) -> Iterator[str]:
    yield from sentences

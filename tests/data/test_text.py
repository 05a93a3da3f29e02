"""Transcripts are normalised in one way, and token ids are those of AV-HuBERT."""

import pickle

import pytest
import torch

from synctalklip.data.text import (
    TextError,
    Tokenizer,
    normalize_text,
    read_grid_transcript,
    read_lrs_transcript,
    read_word_times,
    train_tokenizer,
)

SENTENCES = ["bin blue at f two now", "set red by a nine soon", "place green in z zero please"] * 3


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("Hello,  WORLD!", "hello world"),
        ("it's 'QUOTED' rock'n'roll", "it's quoted rock'n'roll"),
        ("Café Ærø".replace("Ærø", "naïve"), "cafe naive"),
        ("I'm 21", "i'm twenty one"),
        ("1,024 and 100", "one thousand twenty four and one hundred"),
        ("flight 007", "flight zero zero seven"),
        ("2000000", "two million"),
        ("{LG} well <unk> [noise] then", "well then"),
        ("it’s", "it's"),
        ("...", ""),
    ],
)
def test_normal_form(raw, normal):
    assert normalize_text(raw) == normal
    assert normalize_text(normal) == normal


@pytest.mark.parametrize("raw", ["the 3rd man", "日本", "1234567890123"])
def test_what_has_no_normal_form_is_refused(raw):
    with pytest.raises(TextError):
        normalize_text(raw)


def test_lrs_transcript(tmp_path):
    path = tmp_path / "00001.txt"
    path.write_text("Text:  THE 2 CAFÉS\nConf:  4\n\nWORD START END ASDSCORE\n", encoding="utf-8")
    assert read_lrs_transcript(path) == "the two cafes"
    path.write_text("\ufeffText:  THE\u2028TWO\x85CAFÉS\r\nConf:  4\r\n", encoding="utf-8", newline="")
    assert read_lrs_transcript(path) == "the two cafes"


def test_word_times_are_seconds_from_the_first_frame(tmp_path):
    align, lrs = tmp_path / "a.align", tmp_path / "a.txt"
    align.write_text("0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 34100 sp\n")
    assert read_word_times(align) == (("bin", 0.95, 1.18), ("blue", 1.18, 1.36))
    lrs.write_text("Text:  LAY CAFÉ\nConf:  10\n\nWORD START END ASDSCORE\nLAY 0.169 0.340 10.0\nCAFÉ 0.4 0.5 2\n")
    assert read_word_times(lrs) == (("lay", 0.169, 0.34), ("cafe", 0.4, 0.5))
    lrs.write_text("Text:  LAY\n")
    assert read_word_times(lrs) == ()
    lrs.write_text("Text:  LAY\nWORD START END\nLAY 0.3\n")
    with pytest.raises(TextError, match="line 3 is not 'WORD START END'"):
        read_word_times(lrs)
    lrs.write_text("Text:  LAY\nWORD START END\nLAY 0.3 0.2\n")
    with pytest.raises(TextError, match=r"'LAY' is said from 0\.3 to 0\.2"):
        read_word_times(lrs)


def test_grid_transcript_leaves_silence_out(tmp_path):
    path = tmp_path / "s1_bbaf2n.align"
    path.write_text("0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 34100 sp\n34100 74500 sil\n")
    assert read_grid_transcript(path) == "bin blue"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "missing"),
        (b"", "no words"),
        (b"Text:  \n", "no words"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"Text: 3rd", "3rd"),
    ],
)
def test_bad_transcript_is_named(tmp_path, content, complaint):
    path = tmp_path / "broken.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TextError, match=complaint) as caught:
        read_lrs_transcript(path)
    assert str(path) in str(caught.value)


def test_malformed_alignment_names_the_line(tmp_path):
    path = tmp_path / "a.align"
    path.write_text("0 100 bin\noops\n")
    with pytest.raises(TextError, match="line 2"):
        read_grid_transcript(path)


@pytest.mark.parametrize(("model_type", "size"), [("word", None), ("char", None), ("unigram", 24)])
def test_tokenizer_round_trip(tmp_path, model_type, size):
    tokenizer = train_tokenizer(SENTENCES, tmp_path / "t.model", model_type, size)
    assert tokenizer.symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert (tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.unk) == (0, 1, 2, 3)
    assert size is None or tokenizer.size == size
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence, eos=True)
        assert ids[-1] == 2
        assert tokenizer.decode([*ids, 5, 6]) == sentence
        assert tokenizer.decode(torch.tensor(ids)) == sentence
    assert Tokenizer.load(tmp_path / "t.model").model == tokenizer.model
    assert pickle.loads(pickle.dumps(tokenizer)).symbols == tokenizer.symbols


def test_word_tokenizer_has_one_id_a_word(tmp_path):
    tokenizer = train_tokenizer(SENTENCES, tmp_path / "t.model", "word", None)
    assert tokenizer.size == 4 + len(set(" ".join(SENTENCES).split()))
    assert len(tokenizer.encode("bin blue at")) == 3
    assert tokenizer.encode("unheard") == [3]


def test_training_twice_gives_the_same_bytes(tmp_path):
    first = train_tokenizer(SENTENCES, tmp_path / "a.model", "unigram", 24)
    assert train_tokenizer(SENTENCES, tmp_path / "b.model", "unigram", 24).model == first.model


def test_tokenizer_errors(tmp_path):
    with pytest.raises(TextError, match="no transcript"):
        train_tokenizer(["", ""], tmp_path / "t.model", "word")
    with pytest.raises(TextError, match="bpe"):
        train_tokenizer(SENTENCES, tmp_path / "t.model", "bpe", 10)
    with pytest.raises(TextError, match="1000"):
        train_tokenizer(SENTENCES, tmp_path / "t.model", "unigram", 1000)
    with pytest.raises(TextError, match="train_tokenizer"):
        Tokenizer.load(tmp_path / "none.model")
    (tmp_path / "junk.model").write_bytes(b"junk")
    with pytest.raises(TextError, match=r"junk\.model"):
        Tokenizer.load(tmp_path / "junk.model")

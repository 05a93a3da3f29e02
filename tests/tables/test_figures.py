"""What was taken for what, and the figures that are drawn of it."""

import csv

import numpy as np
import pytest
from run_factory import READERS, write_run

from synctalklip.errors import MetricError
from synctalklip.metrics.intelligibility import (
    NOTHING,
    OTHER,
    VISEMES,
    Readings,
    align,
    confusion,
    to_visemes,
)  # fmt: skip
from synctalklip.tables.blocks import group_by_name
from synctalklip.tables.figures import draw_figures, errors_by_length, lse_over_shift, write_figures

TEXTS = ["bin blue at f two now", "set red by p one soon"]
READ = ["bin blue by f now", "set red by one soon"]
ALL = ["lse_over_shift", "wer_by_word_length", "confusions"]


def rows(hypotheses=READ) -> list[dict]:
    return [
        {"id": f"c{i}", "frames": 50, "lse_d": 1.0, "reference": said, "WER.words": 6, "WER.word_errors": 1,
         "WER.hypothesis": read}
        for i, (said, read) in enumerate(zip(TEXTS, hypotheses))
    ]  # fmt: skip


def write_curves(run, distances: dict[str, list[float]]):
    with open(run.path / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "shift", "distance"))
        for name, curve in distances.items():
            reach = len(curve) // 2
            writer.writerows((name, shift, value) for shift, value in zip(range(-reach, reach + 1), curve))
    return run


def draw(runs, figures=ALL, readers=None, **settings):
    settings = {"samples": 20, "seed": 1, "fewest": 1, "most_words": 60} | settings
    return draw_figures(runs, figures, readers, **settings)


def test_spelling_to_what_the_lips_show():
    assert to_visemes("bob") == ["p b m", "o", "p b m"]
    assert to_visemes("The phone") == ["th", "e i", "f v", "o", "t d n l", "e i"]
    assert to_visemes("soon") == ["s z", "w r u", "t d n l"]
    assert to_visemes("pp b") == ["p b m", "p b m"]  # doubled within a word, but not over words
    assert to_visemes("it's 5") == ["e i", "t d n l", "s z"]
    letters = [letter for letter in map(chr, range(ord("a"), ord("z") + 1))]
    assert all(len(to_visemes(letter)) == 1 for letter in letters)
    assert {viseme for text in [*letters, "th", "sh"] for viseme in to_visemes(text)} == set(VISEMES)


def test_alignment_by_hand():
    assert align(list("abcd"), list("acdx")) == [("a", "a"), ("b", NOTHING), ("c", "c"), ("d", "d"), (NOTHING, "x")]
    assert align(["a b", "c"], ["a", "c"]) == [("a b", "a"), ("c", "c")]
    assert align([], ["x"]) == [(NOTHING, "x")]
    assert align(["x"], []) == [("x", NOTHING)]


def test_confusion_by_hand():
    readings = Readings(("a b", "b", ""), ("a c", "", ""))
    said, read, counts = confusion([readings, readings], visemes=False)
    assert said == ["a", "b", NOTHING]
    assert read == ["a", "b", OTHER, NOTHING]
    assert counts.tolist() == [[2, 0, 0, 0], [0, 0, 2, 2], [0, 0, 0, 0]]
    said, read, counts = confusion([Readings(("pat",), ("mat",))], visemes=True)
    assert counts.sum() == 3  # p and m look alike: nothing is confused
    assert counts.trace() == 3


def test_errors_by_length_by_hand():
    # "at" was read as "by", "two" and "p" were left out.
    found = errors_by_length([Readings(tuple(TEXTS), tuple(READ))])
    assert {length: (part.numerator.sum(), part.denominator.sum()) for length, part in found.items()} == {
        1: (1, 2), 2: (1, 2), 3: (1, 6), 4: (0, 2),
    }  # fmt: skip
    twice = errors_by_length([Readings(tuple(TEXTS), tuple(READ)), Readings(tuple(TEXTS), tuple(TEXTS))])
    assert twice[1].values.tolist() == [0.5, 0.0]


def test_curves_are_means_over_clips_in_any_order_and_short_clips_have_fewer_shifts(tmp_path):
    one = write_curves(write_run(tmp_path / "a", rows()), {"c0": [3, 2, 1, 2, 3], "c1": [4.0, 2.0, 4.0]})
    other = write_curves(write_run(tmp_path / "b", rows()[::-1], "b"), {"c1": [1.0] * 5, "c0": [2.0] * 5})
    figure = lse_over_shift(group_by_name([one, other]), samples=20, seed=1)
    first, second, _ = figure.axes[0].lines
    assert first.get_xdata().tolist() == [-2, -1, 0, 1, 2]
    np.testing.assert_allclose(first.get_ydata(), [3, 3, 1.5, 3, 3])
    np.testing.assert_allclose(second.get_ydata(), 1.5)
    assert lse_over_shift(group_by_name([write_run(tmp_path / "c", rows())]), 20, 1) is None


def test_figures_are_drawn_of_what_was_measured_and_written(tmp_path):
    with_curves = write_curves(write_run(tmp_path / "a", rows(), readers=READERS), {"c0": [2, 1, 2], "c1": [2, 1, 2]})
    seeds = [write_run(tmp_path / f"b{seed}", rows(TEXTS), "b", readers=READERS, generated_sha256=str(seed))
             for seed in (1, 2)]  # fmt: skip
    drawn = draw([with_curves, *seeds])
    assert list(drawn) == ["lse_over_shift", "wer_by_word_length_WER", "confusions_WER"]
    bars = drawn["wer_by_word_length_WER"].axes[0]
    heights = [[bar.get_height() for bar in group] for group in bars.containers if hasattr(group, "patches")]
    assert heights == [[50, 50, pytest.approx(100 / 6), 0], [0, 0, 0, 0]]
    assert bars.get_xticklabels()[0].get_text() == "1\n(2 words)"  # not 4: seeds say the same words
    assert [axes.get_title() for axes in drawn["confusions_WER"].axes[:2]] == ["ours", "b"]
    by_viseme = draw([with_curves], ["confusions"], most_words=5)["confusions_WER"].axes[0]
    assert [label.get_text() for label in by_viseme.get_yticklabels()] == [*VISEMES, NOTHING]
    paths = write_figures({"x": drawn["lse_over_shift"]}, tmp_path / "out", ["png", "pdf"])
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG", b"%PDF"]


def test_figures_of_what_was_not_measured_are_left_out_and_counted(tmp_path, caplog):
    """Clips too short for any shift leave a list of curves with no line; some runs have no texts, or no clips."""
    whole = write_curves(write_run(tmp_path / "a", rows(), "a", readers=READERS), {"c0": [3, 1, 3], "c1": [3, 2, 3]})
    unread = [{key: value for key, value in row.items() if key != "WER.hypothesis"} for row in rows()]
    blind = write_curves(write_run(tmp_path / "b", unread, "b", readers=READERS), {})
    empty = write_run(tmp_path / "c", [], "c", readers=READERS)
    lines = draw([whole, blind], ["lse_over_shift"])["lse_over_shift"].axes[0].lines
    assert len(lines) == 2  # that of a, and the one at no shift
    assert list(draw([whole, blind], ["wer_by_word_length"])) == ["wer_by_word_length_WER"]
    assert list(draw([write_run(tmp_path / "d", unread, "d", readers=READERS), whole], ["lse_over_shift"]))
    caplog.clear()
    silent = write_curves(write_run(tmp_path / "e", unread, "e", readers=READERS), {"c0": [3, 1, 3]})
    assert list(draw([silent])) == ["lse_over_shift"]
    assert "2 of 3 figures left out, not measured: wer_by_word_length_WER, confusions_WER" in caplog.text
    for run in (blind, empty):
        with pytest.raises(MetricError, match="has neither LSE curves nor readings; evaluate with a SyncNet or lip"):
            draw([run])


def test_what_cannot_be_drawn_is_named(tmp_path):
    run = write_run(tmp_path / "a", [{"id": "c0", "frames": 3, "psnr_face": 30}])
    for arguments, reason in [
        (([],), "at least one run"),
        (([run],), "has neither LSE curves nor readings"),
        (([run], ["faces"]), "'faces' is unknown; choose from lse_over_shift, wer_by_word_length"),
        (([run], ALL, ["WER9"]), "there is no 'WER9'; the runs were read by none"),
    ]:
        with pytest.raises(MetricError, match=reason):
            draw(*arguments)
    (run.path / "curves.csv").write_text("id,shift,distance\nnobody,0,1\n")
    with pytest.raises(MetricError, match=r"curves\.csv: is no list of id, shift and distance"):
        draw([run])
    with pytest.raises(MetricError, match="'svg' is unknown"):
        write_figures({}, tmp_path, ["svg"])

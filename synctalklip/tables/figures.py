"""Figures of several evaluations: distance over the shift, errors by word length, what was taken for what.

Drawn without a display; runs of one name are pooled.
"""

import csv
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import MetricError
from synctalklip.metrics.intelligibility import NOTHING, Readings, align, confusion
from synctalklip.metrics.statistics import Parts, bootstrap
from synctalklip.tables.blocks import Method, group_by_name
from synctalklip.tables.runs import Run, check_comparable, reader_names

log = logging.getLogger(__name__)

_PANELS = 3  # side by side, at most
_ANNOTATED = 16  # symbols up to which the cells of a matrix are numbered
_BAND = 0.2  # opacity of an interval


def read_curves(run: Run, ids: Sequence[str]) -> dict[int, np.ndarray]:
    """Shift in frames -> distance of each of the clips `ids` (N,), NaN for a clip that is too short for it.

    Raises:
        MetricError: `curves.csv` is damaged.
    """
    place = {name: index for index, name in enumerate(ids)}
    curves: dict[int, np.ndarray] = {}
    path = run.path / "curves.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                distances = curves.setdefault(int(row["shift"]), np.full(len(place), np.nan))
                distances[place[row["id"]]] = float(row["distance"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise MetricError(f"{path}: is no list of id, shift and distance ({error!r}): evaluate again") from error
    return dict(sorted(curves.items()))


def lse_over_shift(methods: Sequence[Method], samples: int, seed: int) -> Figure | None:
    """SyncNet distance over the shift between lips and sound, mean over clips with its 95 % interval.

    Args:
        methods: one line each; those without curves are left out.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        None when no method has curves.
    """
    ids = _clips(methods)
    drawn = {method.name: curves for method in methods if (curves := _shared_curves(method, ids))}
    if not drawn:
        return None
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="sound taken so many frames after the lips (40 ms each)", ylabel="SyncNet distance"
    )
    for name, curve in drawn.items():
        points = list(curve.values())
        (line,) = axes.plot(list(curve), [point.mean for point in points], marker=".", label=name)
        low, high = zip(*(bootstrap(point, samples, seed) for point in points))
        axes.fill_between(list(curve), low, high, color=line.get_color(), alpha=_BAND, linewidth=0)
    axes.axvline(0, color="grey", linewidth=0.8, linestyle=":")
    axes.grid(alpha=0.3)
    _legend(figure, axes, "mean and 95 % interval")
    return figure


def _shared_curves(method: Method, ids: Sequence[str]) -> dict[int, Parts]:
    """Shift -> distances of all clips and runs; empty where a run has no curves or shares no shift with the others."""
    if not all((run.path / "curves.csv").is_file() for run in method.runs):
        return {}
    curves = [read_curves(run, ids) for run in method.runs]
    shifts = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {shift: _pooled([curve[shift] for curve in curves]) for shift in shifts}


def _clips(methods: Sequence[Method]) -> list[str]:
    return sorted({name for method in methods for run in method.runs for name in run.ids})


def _legend(figure: Figure, axes: Axes, title: str) -> None:
    """Beside the picture, where it hides nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", title=title)


def _pooled(distances: Sequence[np.ndarray]) -> Parts:
    """Each clip's distances of all runs, as means over clips."""
    known = np.array([np.isfinite(one) for one in distances])
    values = np.where(known, distances, 0.0)
    return Parts(values, known.astype(np.float64), np.zeros(len(values), bool))


def readings_of(run: Run, reader: str, ids: Sequence[str]) -> Readings:
    """What a lip reader read from the clips `ids`."""
    texts = ("reference", f"{reader}.hypothesis")
    rows = {row["id"]: row for row in run.rows if row.get(f"{reader}.words") and all(text in row for text in texts)}
    said, read = (tuple(rows[name][text] if name in rows else "" for name in ids) for text in texts)
    return Readings(said, read)


def _read_by(methods: Sequence[Method], reader: str) -> dict[str, list[Readings]]:
    """Method -> what was read from each of its runs; methods of which nothing was read are left out."""
    ids = _clips(methods)
    found = {method.name: [readings_of(run, reader, ids) for run in method.runs] for method in methods}
    return {name: runs for name, runs in found.items() if all(readings.vocabulary for readings in runs)}


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


def wer_by_word_length(
    methods: Sequence[Method], reader: str, fewest: int, samples: int, seed: int
) -> Figure | None:  # fmt: skip
    """Share of words that were read wrong over their number of letters, with 95 % intervals over clips.

    Args:
        methods: one group of bars each; those that the reader did not read are left out.
        reader: name of a lip reader.
        fewest: lengths of fewer words are left out.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        None when there is nothing to draw.
    """
    shares = {name: errors_by_length(readings) for name, readings in _read_by(methods, reader).items()}
    said = sorted({length for found in shares.values() for length in found})
    # Seeds of a method say the same words again; a clip that a method lacks is not counted for it.
    counts = {n: min(f[n].denominator.sum(1).min() if n in f else 0 for f in shares.values()) for n in said}
    lengths = [length for length in said if counts[length] >= max(fewest, 1)]
    if not lengths:
        return None
    figure = Figure(figsize=(2 + max(5.0, 0.9 * len(lengths)), 4), layout="constrained")
    axes = figure.add_subplot(xlabel="letters of the word", ylabel=f"words read wrong by {reader} (%)")
    width = 0.8 / len(shares)
    for index, (name, found) in enumerate(shares.items()):
        means = np.array([100 * found[length].mean for length in lengths])
        low, high = (100 * np.array(ends) for ends in zip(*(bootstrap(found[n], samples, seed) for n in lengths)))
        places = np.arange(len(lengths)) + width * (index - (len(shares) - 1) / 2)
        errors = [np.maximum(means - low, 0), np.maximum(high - means, 0)]
        axes.bar(places, means, width, yerr=errors, label=name, capsize=2, error_kw={"linewidth": 0.8})
    axes.set_xticks(range(len(lengths)), [f"{length}\n({counts[length]:.0f} words)" for length in lengths])
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3, axis="y")
    _legend(figure, axes, "with 95 % intervals")
    return figure


def confusions(methods: Sequence[Method], reader: str, most_words: int) -> Figure | None:
    """What was read for what was said, in percent of what was said; one panel a method.

    Args:
        methods: those that the reader did not read are left out.
        reader: name of a lip reader.
        most_words: vocabularies of at most so many words are shown as words, larger ones as visemes.

    Returns:
        None when there is nothing to draw.
    """
    read = _read_by(methods, reader)
    if not read:
        return None
    visemes = max(len(one.vocabulary) for readings in read.values() for one in readings) > most_words
    found = {name: confusion(readings, visemes) for name, readings in read.items()}
    size = max(4.2, 0.17 * max(len(columns) for _, columns, _ in found.values()))
    columns = min(_PANELS, math.ceil(math.sqrt(len(found))))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(size * columns + 0.8, (size + 0.4) * rows), layout="constrained")
    panels = [_matrix(figure.add_subplot(rows, columns, i, title=name), *one)
              for i, (name, one) in enumerate(found.items(), 1)]  # fmt: skip
    figure.colorbar(panels[0], ax=figure.axes, label=f"% of what was said, read by {reader}", shrink=0.8)
    return figure


def _matrix(axes: Axes, said: Sequence[str], read: Sequence[str], counts: np.ndarray) -> AxesImage:
    """One panel; the last row counts what was read though nothing was said, in percent of all such."""
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(100.0 * counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    few = len(said) <= _ANNOTATED
    names: dict[str, Any] = {"fontsize": 8 if few else 6}
    axes.set_xticks(range(len(read)), read, rotation=90, **names)
    axes.set_yticks(range(len(said)), said, **names)
    axes.set(xlabel="read", ylabel="said")
    if few:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 1:
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=6,
                          color="white" if share > 50 else "black")  # fmt: skip
    return picture


def draw_figures(
    runs: Sequence[Run],
    figures: Sequence[str],
    readers: Sequence[str] | None,
    samples: int,
    seed: int,
    fewest: int,
    most_words: int,
) -> dict[str, Figure]:
    """All wanted figures that the runs have measured.

    Args:
        runs: of one corpus and setting; those of one name are pooled.
        figures: of lse_over_shift, wer_by_word_length, confusions.
        readers: names of lip readers; None for all.
        samples: bootstrap samples.
        seed: of the bootstrap.
        fewest: see `wer_by_word_length`.
        most_words: see `confusions`.

    Returns:
        File name without ending -> figure; those of a lip reader end in its name.

    Raises:
        MetricError: no run, runs that are not comparable, an unknown figure or reader, or nothing to draw.
    """
    if not runs:
        raise MetricError("figures need at least one run: runs=[folder,...]")
    check_comparable(runs)
    methods = group_by_name(runs)
    known = reader_names(runs)
    for name in readers or []:
        if name not in known:
            raise MetricError(f"readers: there is no {name!r}; the runs were read by {', '.join(known) or 'none'}")
    by_reader: dict[str, Callable[[str], Figure | None]] = {
        "wer_by_word_length": lambda reader: wer_by_word_length(methods, reader, fewest, samples, seed),
        "confusions": lambda reader: confusions(methods, reader, most_words),
    }
    made: dict[str, Figure | None] = {}
    for name in figures:
        if name == "lse_over_shift":
            made[name] = lse_over_shift(methods, samples, seed)
        elif name in by_reader:
            made |= {f"{name}_{reader}": by_reader[name](reader) for reader in known if reader in (readers or known)}
        else:
            raise MetricError(f"figures: {name!r} is unknown; choose from lse_over_shift, {', '.join(by_reader)}")
    drawn = {name: figure for name, figure in made.items() if figure is not None}
    left_out = [name for name in made if name not in drawn]
    if drawn and left_out:
        log.warning("%d of %d figures left out, not measured: %s", len(left_out), len(made), ", ".join(left_out))
    if not drawn:
        raise MetricError(f"{runs[0].path}: has neither LSE curves nor readings; evaluate with a SyncNet or lip reader")
    return drawn


def write_figures(figures: dict[str, Figure], folder: str | Path, formats: Sequence[str]) -> list[Path]:
    """Write each figure in each of `formats` (png, pdf), and say where.

    Raises:
        MetricError: an unknown format.
    """
    unknown = [name for name in formats if name not in ("png", "pdf")]
    if unknown:
        raise MetricError(f"formats: {unknown[0]!r} is unknown; choose from png, pdf")
    written = []
    for name, figure in figures.items():
        for ending in formats:
            path = Path(folder) / f"{name}.{ending}"
            write_atomically(path, partial(figure.savefig, format=ending, dpi=150))
            written.append(path)
    return written

"""The columns of result tables: what each is called, how it is summed, who judged it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from synctalklip.errors import MetricError
from synctalklip.tables.render import Column

OWN, CROSS, SILENT = "reconstruction", "cross", "silent"
_TOLD = ("protocol", "ends", "windows", "decoding", "beam", "reading")
"""What a footnote tells of a judge beside its name."""


@dataclass(frozen=True)
class Metric:
    """One column.

    Attributes:
        key: its name in configs.
        label: heading.
        higher_is_better: direction of the arrow.
        value: column of `clips.csv`.
        weight: column of `clips.csv` with the weights of a mean; None weighs clips equally.
        kind: "mean" of `value`; "rate": `value` and `weight` are counts, summed and divided; "clip_rate": their
            ratio is taken clip by clip and averaged over clips.
        digits: decimals printed.
        percent: print a percentage.
        judge: entry of `summary.json` that says who judged, such as `syncnet` or `readers.WER1`.
        settings: evaluation settings in which it means what its heading says.
        note: how it is measured, for the footnote.
        standard: among the columns of a layout that names none.
        ends_at_truth: the recordings are the end of the scale, and what is better is marked.
    """

    key: str
    label: str
    higher_is_better: bool
    value: str
    note: str
    weight: str | None = None
    kind: str = "mean"
    digits: int = 2
    percent: bool = False
    judge: str | None = None
    settings: tuple[str, ...] = (OWN,)
    standard: bool = True
    ends_at_truth: bool = False

    def column(self, signed: bool = False) -> Column:
        """How it is printed; `signed` for differences."""
        return Column(self.label, self.higher_is_better, self.digits, self.percent, signed, self.key)


def _picture(key: str, label: str, region: str, digits: int, standard: bool = True) -> Metric:
    note = f"{region}, in float, mean over frames"
    return Metric(key, label, True, key, note, weight="frames", digits=digits, standard=standard)


def _sync(judge: str) -> tuple[Metric, ...]:
    """The columns of one of the SyncNets of an evaluation."""
    prefix, label = ("", "LSE") if judge == "syncnet" else (f"{judge}.", "LSE2")
    common: dict[str, Any] = {"judge": judge, "settings": (OWN, CROSS)}
    columns = (
        ("lse_d", f"{label}-D", False, "mean over clips, at the best shift", 3, False, False),
        ("lse_c", f"{label}-C", True, "mean over clips, median over the shifts minus the best", 3, False, True),
        ("lse_d_zero", f"{label}-D at 0", False, "mean over clips, without a shift", 3, False, False),
        (
            "in_sync", "offset ≤ 1" if not prefix else f"{label} offset ≤ 1", True,
            "share of clips whose best shift is at most 1 frame", 0, True, False,
        ),
    )  # fmt: skip
    return tuple(
        Metric(f"{prefix}{key}", title, higher, f"{prefix}{key}", note, digits=digits, percent=percent,
               ends_at_truth=ends, **common)
        for key, title, higher, note, digits, percent, ends in columns
    )  # fmt: skip


def _lips(key: str, label: str, higher: bool, note: str, **options: Any) -> Metric:
    settings = options.pop("settings", (OWN, CROSS))
    return Metric(key, label, higher, options.pop("value", key), note, judge="lips", settings=settings, **options)


def _expert(key: str, label: str, note: str, settings: tuple[str, ...] = (OWN,)) -> Metric:
    return Metric(key, label, True, key, note, digits=3, judge="avs", settings=settings)


METRICS = (
    _picture("psnr_face", "PSNR face", "face box", 2),
    # Where the upper half is pasted this is PSNR face minus 10 log10(2) = 3.01 dB, and tells nothing more.
    _picture("psnr_lower", "PSNR lower", "lower half of the face box", 2, standard=False),
    _picture("psnr_frame", "PSNR frame", "full frame", 2),
    _picture("ssim_face", "SSIM face", "face box", 3),
    _picture("ssim_lower", "SSIM lower", "lower half of the face box", 3),
    _picture("ssim_frame", "SSIM frame", "full frame", 3),
    Metric(
        "psnr_legacy", "PSNR legacy uint8", True, "psnr_legacy",
        "face box, in the wrapped 8-bit arithmetic of the published scripts, which reads several dB too high",
        weight="frames",
    ),
    Metric("lpips", "LPIPS", False, "lpips", "face box, mean over frames", weight="frames", digits=3),
    *_sync("syncnet"),
    *_sync("syncnet2"),
    _expert("avs_u", "AVS_u", "cosine of generated lips and sound", (OWN, CROSS)),
    _expert("avs_m", "AVS_m", "cosine of sound with real lips and sound with generated lips"),
    _expert("avs_v", "AVS_v", "cosine of real lips and generated lips"),
    _lips(
        "lip_correlation", "lip correlation", True,
        "correlation of the opening between the lips with that in the recording of the same sound, mean over clips",
    ),
    _lips(
        "lip_lag", "lip lag", False,
        "frames, early or late, at which these openings correlate best, mean over clips", value="lip_lag_size",
    ),
    _lips(
        "lip_spread", "lip spread", True,
        "standard deviation of the opening over that in the recording, mean over clips", settings=(OWN,),
        ends_at_truth=True,
    ),
    _lips(
        "lmd", "LMD", False,
        "distance of the landmarks of the mouth, pixels of the face crop, mean over frames and clips", settings=(OWN,),
    ),
    _lips(
        "closure", "lips closed at p, b, m", True,
        "share of these sounds at which the opening falls into the lowest 30 % of its range in the recording of the "
        "face; a mouth that never opens has all of them",
        value="lips_closed", weight="bilabials", kind="rate", percent=True, digits=0,
    ),
    Metric(
        "open", "open in silence", False, "open_frames", "share of frames whose mouth is open under silence",
        weight="open_counted", kind="rate", percent=True, digits=1, settings=(SILENT,),
    ),
)  # fmt: skip

_READ = "errors of all words, read from the lips alone"
_NEAREST = "share of frames whose sound is nearest, among the video embeddings of all frames of the clip,"
TABLE_2 = (
    Metric("errors", "WER", False, "errors", _READ, "words", "rate", 1, True),
    Metric(
        "aligned0", "alignment, same frame", True, "aligned0", f"{_NEAREST} to its own", "pairs", "rate", 1, True
    ),
    Metric(
        "aligned1", "alignment, within 1 frame", True, "aligned1", f"{_NEAREST} to its own or the one beside it",
        "pairs", "rate", 1, True,
    ),
    Metric(
        "paired_sum", "L1 paired", False, "paired_sum", "distance of the embeddings of sound and lips of one frame",
        "pairs", "rate", 3,
    ),
    Metric(
        "unpaired_sum", "L1 unpaired", True, "unpaired_sum", "the same of different frames", "unpaired_pairs", "rate",
        3,
    ),
)  # fmt: skip
"""Columns of scripts/table2.py: counts of a clip, summed over the corpus and divided."""


def reader_metrics(name: str) -> dict[str, Metric]:
    """The columns that a lip reader can give: `wer`, `cer` and `clip`, the published per-clip average."""
    common: dict[str, Any] = {"percent": True, "digits": 1, "judge": f"readers.{name}", "settings": (OWN, CROSS)}
    words, word_errors = f"{name}.words", f"{name}.word_errors"
    return {
        "wer": Metric(name, name, False, word_errors, "errors of all words", words, "rate", **common),
        "cer": Metric(
            f"{name}.cer", f"{name} characters", False, f"{name}.character_errors", "errors of all characters",
            f"{name}.characters", "rate", **common,
        ),
        "clip": Metric(
            f"{name}.clip", f"{name} per-clip average", False, word_errors,
            "mean of the rates of the clips, as in the published scripts; not a rate of the corpus",
            words, "clip_rate", **common,
        ),
    }  # fmt: skip


def choose(wanted: Sequence[str] | None, readers: Sequence[str]) -> list[Metric]:
    """The columns that a layout names.

    Args:
        wanted: keys of `METRICS` or `TABLE_2`; `NAME`, `NAME.cer` or `NAME.clip` for a lip reader; `readers`,
            `readers.cer` or `readers.clip` for all of them. None takes the standard ones of `METRICS` and the word
            error rate of each reader.
        readers: names of the lip readers, in order.

    Raises:
        MetricError: a name that is none of these.
    """
    known = {metric.key: [metric] for metric in (*METRICS, *TABLE_2)}
    by_reader = {name: reader_metrics(name) for name in readers}
    for suffix, which in (("", "wer"), (".cer", "cer"), (".clip", "clip")):
        known |= {f"{name}{suffix}": [made[which]] for name, made in by_reader.items()}
        known[f"readers{suffix}"] = [made[which] for made in by_reader.values()]
    chosen: dict[str, Metric] = {}
    standard = [*(metric.key for metric in METRICS if metric.standard), "readers"]
    for key in standard if wanted is None else wanted:
        if key not in known:
            raise MetricError(f"columns: there is no {key!r}; choose from {', '.join(known)}")
        chosen |= {metric.key: metric for metric in known[key]}
    return list(chosen.values())


def judged_by(metric: Metric, summary: dict[str, Any]) -> dict[str, Any] | None:
    """What a run's `summary.json` says about the judge of a column; None for arithmetic and for what is absent."""
    if metric.judge is None:
        return None
    kind, _, name = metric.judge.partition(".")
    found = summary.get(kind) or None
    return found.get(name) if found and name else found


def describe(metric: Metric, summary: dict[str, Any]) -> str:
    """The footnote of a column: how it is measured, and by whom."""
    judge = judged_by(metric, summary)
    if not judge:
        return metric.note
    told = {key: judge[key] for key in _TOLD if judge.get(key) is not None}
    if told.get("decoding") == "forced":
        told["decoding"] = "forced (the reader is given the true words before each word)"
    settings = "".join(f", {key} {value}" for key, value in told.items())
    file = f" ({judge['sha256'][:8]})" if judge.get("sha256") else ""
    return f"{metric.note}; by {judge['name']}{file}{settings}"

"""Folders as `scripts/evaluate.py` writes them, from rows that are made up."""

import csv
import json
from pathlib import Path

from synctalklip.tables.runs import Run, load_run

READERS = {"WER": {"name": "reader", "sha256": "r", "decoding": "free", "beam": 1}}
SYNCNET = {"name": "SyncNet", "sha256": "s"}


def write_run(path: Path, rows: list[dict], name: str = "ours", kind: str = "generator", **summary) -> Run:
    """An evaluation of `rows`, one a clip; `summary` changes entries of its summary."""
    path.mkdir(parents=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "name": name, "kind": kind, "corpus": "toy", "split": "test", "setting": "reconstruction", "clips": len(rows),
        "protocol": "p",
    } | summary  # fmt: skip
    (path / "summary.json").write_text(json.dumps(summary))
    return load_run(path)


def write_evaluation(
    folder: Path, name: str, errors: list[int], lse_c: float = 0.4, psnr: float = 31.0, **summary
) -> Run:  # fmt: skip
    """An evaluation of clips of 6 words, of which so many are read wrongly."""
    rows = [
        {
            "id": f"clip{i}", "frames": 10, "psnr_face": psnr, "ssim_face": 0.95, "lse_c": lse_c, "lse_d": 0.8,
            "in_sync": 1, "WER.words": 6, "WER.word_errors": count,
        }
        for i, count in enumerate(errors)
    ]  # fmt: skip
    return write_run(
        folder, rows, name, **({"readers": READERS, "syncnet": SYNCNET, "generated_sha256": name} | summary)
    )


def write_table2(folder: Path, models: dict[str, list[int]], sha256: str = "a") -> None:
    """What scripts/table2.py leaves of models that read so many of 6 words wrongly in each clip."""
    found = {}
    for name, errors in models.items():
        clips = [
            {"id": f"c{i}", "errors": n, "words": 6, "aligned0": 30, "aligned1": 60, "pairs": 75, "paired_sum": 150.0,
             "unpaired_sum": 600.0, "unpaired_pairs": 100}
            for i, n in enumerate(errors)
        ]  # fmt: skip
        found[name] = {"checkpoint": f"outputs/{name}/checkpoints/checkpoint_best.pt", "sha256": sha256, "clips": clips}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table2.json").write_text(json.dumps(found))


ROWS = "outputs/ablation_grid/evaluate"


def write_sweep(root: Path) -> None:
    """The evaluations of a sweep in which SyncTalklip is read better than TalkLip and worse than Wav2Lip."""
    rows = root / ROWS
    write_evaluation(rows / "ground_truth", "Ground truth", [1, 1, 0, 1], kind="ground_truth")
    write_evaluation(rows / "synctalklip" / "seed1", "SyncTalklip", [2, 2, 1, 2], 0.35)
    write_evaluation(rows / "talklip" / "seed1", "TalkLip", [3, 3, 2, 3], 0.35)
    write_evaluation(rows / "wav2lip" / "seed1", "Wav2Lip", [1, 1, 0, 2], 0.3)

"""Table 2 of the paper: how well AV-SyncNets read lips, and how well their distance tells what belongs together.

T video frames at 25 Hz.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synctalklip.avsyncnet.decode import Generation, build_search, require_tokenizer
from synctalklip.avsyncnet.expert import Expert, load_expert
from synctalklip.checkpoint import file_hash, write_atomically
from synctalklip.data.dataset import ANY_LENGTH, ClipDataset, clip_batches, move
from synctalklip.data.manifest import Clip
from synctalklip.errors import SyncTalklipError
from synctalklip.evaluation.gates import WrongMouths, gates_of_expert, gates_of_syncnet
from synctalklip.metrics.avs import alignment_counts
from synctalklip.metrics.intelligibility import word_counts
from synctalklip.metrics.statistics import Parts
from synctalklip.syncnet.lse import load_syncnet
from synctalklip.tables.columns import TABLE_2
from synctalklip.tables.render import Cell, Column, Row, Table, write_tables
from synctalklip.tables.table import best_of, difference_table, score

# Column of a clip's counts, what it is divided by, how it is printed.
COLUMNS = tuple((metric.value, metric.weight or "", metric.column()) for metric in TABLE_2)
# The same of what an expert of stage 2 has to know; SyncNets have some of it.
GATES = (
    ("nearer", "neighbours", Column("own nearer than next", True, 1, percent=True)),
    ("window_found0", "window_sounds", Column("offset of windows, exact", True, 1, percent=True)),
    ("window_found1", "window_sounds", Column("within 1 frame", True, 1, percent=True)),
    ("window_offset_sum", "window_near", Column("bias, frames", False, 3, signed=True)),
    ("entropy_real", "inside", Column("entropy, recorded", False, 2)),
    ("entropy_wrong", "inside", Column("wrong mouth", True, 2)),
    ("farther", "inside", Column("wrong farther", True, 1, percent=True)),
    ("change_outside", "change_inside", Column("change outside", False, 1, percent=True)),
)
EDITS = ("substitutions", "deletions", "insertions")


@torch.inference_mode()
def measure(
    expert: Expert, clips: Sequence[Clip], generation: Generation, batch_frames: int, wrong: WrongMouths | None = None
) -> list[dict[str, Any]]:
    """Counts of every clip: edits of the words read from the video alone, `avs.alignment_counts`, and the gates.

    Args:
        expert: a fine-tuned AV-SyncNet.
        clips: prepared clips with transcripts.
        generation: how words are searched.
        batch_frames: padded frames of one forward pass.
        wrong: windows that are shown with a wrong mouth; None leaves out the gates.

    Returns:
        One dictionary of counts a clip, in the order of `clips`.
    """
    dataset = ClipDataset(clips, limits=ANY_LENGTH)
    search = build_search(expert, generation)
    device, tokenizer = next(expert.model.parameters()).device, require_tokenizer(expert)
    rows: dict[str, dict[str, Any]] = {}
    for batch, sample in clip_batches(dataset, dataset.order(1, 0), batch_frames, "read"):
        net_input = move(sample["net_input"], device)
        mask = net_input["padding_mask"]
        read = search({**net_input, "audio": None})
        heard, seen = expert.heard(net_input["audio"], mask), expert.seen(net_input["video"], mask)
        for index, tokens, audio, video in zip(batch, read, heard, seen):
            clip = dataset.clips[index]
            words = word_counts(clip.text, tokenizer.decode(tokens))
            distances = expert.distance.table(audio[: clip.frames], video[: clip.frames])
            rows[clip.id] = {"id": clip.id, "errors": words.errors, "words": words.length}
            rows[clip.id] |= {"substitutions": words.substitutions, "deletions": words.deletions}
            rows[clip.id] |= {"insertions": words.insertions} | alignment_counts(distances)
    gates = gates_of_expert(expert, clips, wrong, batch_frames) if wrong else {}
    return [rows[clip.id] | gates.get(clip.id, {}) for clip in clips]


def compare(
    models: Mapping[str, str],
    clips: Sequence[Clip],
    generation: Generation,
    batch_frames: int,
    device: str | torch.device,
    wrong: WrongMouths | None = None,
    syncnets: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure each of `models` (row name -> checkpoint) on the same clips; rows keep file and hash.

    Args:
        models: AV-SyncNets.
        wrong: of the gates; None leaves them out.
        syncnets: SyncNets, of which the gates alone are measured.
        clips, generation, batch_frames, device: see `measure`.

    Raises:
        SyncTalklipError: no clip, or clips whose mouth regions were cut in another way than those of a training.
    """
    if not clips:
        raise SyncTalklipError("no clip of the split has a transcript: choose another split or corpus")
    found = {}
    for name, path in models.items():
        expert = load_expert(path, clips[0].roi_mode).to(device)
        rows = measure(expert, clips, generation, batch_frames, wrong)
        found[name] = {"checkpoint": str(path), "sha256": file_hash(Path(path)), "clips": rows}
    if wrong is None:
        return found
    for name, path in (syncnets or {}).items():
        gates = gates_of_syncnet(load_syncnet(path, device)[0], clips, wrong)
        rows = [{"id": clip.id} | gates[clip.id] for clip in clips]
        found[name] = {"checkpoint": str(path), "sha256": file_hash(Path(path)), "clips": rows}
    return found


def tables(
    results: Mapping[str, dict[str, Any]], described: str, samples: int, permutations: int, seed: int
) -> list[Table]:
    """One row a model with 95 % bootstrap intervals over clips, and the other models tested against the first.

    Args:
        results: of `compare`.
        described: on what it was measured.
        samples: bootstrap samples.
        permutations: of each paired test.
        seed: of both.
    """
    counts = {name: _arrays(result["clips"]) for name, result in results.items()}
    readers = {name: found for name, found in counts.items() if "words" in found}
    first = next(iter(readers))
    parts, cells = _scores(readers, COLUMNS, samples, seed)
    rows = tuple(
        Row(name, (" / ".join(str(int(found[key].sum())) for key in EDITS),), tuple(cells[name]))
        for name, found in readers.items()
    )
    notes = [
        f"{described}, {int(counts[first]['words'].sum())} words; words read from the lips alone.",
        "Alignment: share of frames whose sound is nearest, among the video embeddings of all frames of the clip, to "
        "its own. L1: distance of the embeddings of sound and lips, of one frame and of different ones.",
        f"Brackets: 95 % intervals from {samples} bootstrap resamples of the clips. Bold: best model.",
        *(f"{name}: {result['checkpoint']} ({result['sha256'][:8]})." for name, result in results.items()),
    ]
    columns = tuple(metric.column() for metric in TABLE_2)
    made = [Table("", "model", ("S / D / I",), columns, (("", rows),), tuple(notes))]
    if any("window_sounds" in found for found in counts.values()):
        made.append(_gates(counts, samples, seed))
    if len(readers) > 1:
        signed = [metric.column(signed=True) for metric in TABLE_2]
        made.append(difference_table({"": parts}, signed, first, permutations, samples, seed))
    return made


def _gates(counts: Mapping[str, Mapping[str, np.ndarray]], samples: int, seed: int) -> Table:
    cells = _scores(counts, GATES, samples, seed)[1]
    # No bias is the best one, not the smallest.
    bias = [column.label for _, _, column in GATES].index("bias, frames")
    rows = tuple(
        Row(name, (), (*row[:bias], replace(row[bias], bold=False), *row[bias + 1 :])) for name, row in cells.items()
    )
    notes = (
        "Own nearer than next: sounds whose own lips are nearer than those of the frame before or behind, in each of "
        "these pairs. Windows: of as many frames as show a wrong mouth. Offset: windows whose lips are nearest to "
        "their sound among all of the clip; bias: mean offset of those found within 2 frames, positive where lips "
        "seem late.",
        "Wrong mouth: in windows of a recorded clip, each in a copy of its own, the mouth of one other frame of it is "
        "shown. Entropy: of the window's lips over the sounds of the clip, on minus the distance, recorded and with "
        "the wrong mouth; wrong farther: frames whose distance to their own sound grew. Change outside: of that "
        "distance, on the frames that show what they showed, as a share of the change in the window.",
        "A SyncNet embeds windows, also where frames are meant, and compares them by a Euclidean distance.",
    )
    columns = tuple(column for _, _, column in GATES)
    return Table("What the distance knows of synchrony", "model", (), columns, (("", rows),), notes)


def _scores(
    counts: Mapping[str, Mapping[str, np.ndarray]],
    columns: Sequence[tuple[str, str, Column]],
    samples: int,
    seed: int,
) -> tuple[dict[str, list[Parts]], dict[str, list[Cell]]]:
    """What each model scored in each column, and the cells with the best in bold; nothing where it has no counts."""
    empty = np.zeros(len(next(iter(next(iter(counts.values())).values()))))
    parts = {
        name: [Parts.of(found.get(key, empty), found.get(weight, empty)) for key, weight, _ in columns]
        for name, found in counts.items()
    }
    cells = {
        name: [
            score(one, samples, seed) if key in counts[name] else Cell(math.nan)
            for one, (key, _, _) in zip(scored, columns, strict=True)
        ]
        for name, scored in parts.items()
    }
    for index, (_, _, column) in enumerate(columns):
        for row in best_of([scored[index].value for scored in cells.values()], column.higher_is_better):
            scored = list(cells.values())[row]
            scored[index] = replace(scored[index], bold=True)
    return parts, cells


def _arrays(clips: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """(clips,) float64 for each count; zero of a clip that has none of it."""
    names = {key for row in clips for key in row if key != "id"}
    return {key: np.array([row.get(key, 0.0) for row in clips], np.float64) for key in sorted(names)}


def write(
    results: Mapping[str, dict[str, Any]], made: Sequence[Table], folder: str | Path, formats: Sequence[str]
) -> str:
    """Write `table2` in each of `formats` and the counts of every clip, `table2.json`; returns the Markdown."""
    folder = Path(folder)
    text = json.dumps(results, indent=1) + "\n"
    write_atomically(folder / "table2.json", lambda part: part.write_text(text, encoding="utf-8"))
    return write_tables(made, folder / "table2", formats)

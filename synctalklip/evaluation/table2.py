"""Table 2 of the paper: how well AV-SyncNets read lips, and how well their two embeddings fit together.

T video frames at 25 Hz.
"""

import json
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
from synctalklip.metrics.avs import alignment_counts
from synctalklip.metrics.intelligibility import word_counts
from synctalklip.metrics.statistics import Parts
from synctalklip.tables.columns import TABLE_2
from synctalklip.tables.render import Row, Table, write_tables
from synctalklip.tables.table import best_of, difference_table, score

EDITS = ("substitutions", "deletions", "insertions")


@torch.inference_mode()
def measure(expert: Expert, clips: Sequence[Clip], generation: Generation, batch_frames: int) -> list[dict[str, Any]]:
    """Counts of every clip: edits of the words read from the video alone, and `alignment_counts`.

    Args:
        expert: a fine-tuned AV-SyncNet.
        clips: prepared clips with transcripts.
        generation: how words are searched.
        batch_frames: padded frames of one forward pass.

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
        heard = expert.aligned(expert.encode(net_input["audio"], None, mask), mask)
        seen = expert.aligned(expert.encode(None, net_input["video"], mask), mask)
        for index, tokens, audio, video in zip(batch, read, heard, seen):
            clip = dataset.clips[index]
            words = word_counts(clip.text, tokenizer.decode(tokens))
            distances = expert.distance.matrix(audio[: clip.frames], video[: clip.frames])
            rows[clip.id] = {"id": clip.id, "errors": words.errors, "words": words.length}
            rows[clip.id] |= {"substitutions": words.substitutions, "deletions": words.deletions}
            rows[clip.id] |= {"insertions": words.insertions} | alignment_counts(distances)
    return [rows[clip.id] for clip in clips]


def compare(
    models: Mapping[str, str],
    clips: Sequence[Clip],
    generation: Generation,
    batch_frames: int,
    device: str | torch.device,
) -> dict[str, dict[str, Any]]:
    """Measure each of `models` (row name -> checkpoint) on the same clips; rows keep file and hash.

    Raises:
        SyncTalklipError: no clip, or clips whose mouth regions were cut in another way than those of a training.
    """
    if not clips:
        raise SyncTalklipError("no clip of the split has a transcript: choose another split or corpus")
    found = {}
    for name, path in models.items():
        expert = load_expert(path, clips[0].roi_mode).to(device)
        rows = measure(expert, clips, generation, batch_frames)
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
    parts = {
        name: [Parts.of(found[metric.value], found[str(metric.weight)]) for metric in TABLE_2]
        for name, found in counts.items()
    }
    cells = [[score(one, samples, seed) for one in scored] for scored in parts.values()]
    for index, metric in enumerate(TABLE_2):
        for row in best_of([scored[index].value for scored in cells], metric.higher_is_better):
            cells[row][index] = replace(cells[row][index], bold=True)
    rows = tuple(
        Row(name, (" / ".join(str(int(found[key].sum())) for key in EDITS),), tuple(scored))
        for (name, found), scored in zip(counts.items(), cells)
    )
    first = next(iter(results))
    notes = [
        f"{described}, {int(counts[first]['words'].sum())} words; words read from the lips alone.",
        "Alignment: share of frames whose sound is nearest, among the video embeddings of all frames of the clip, to "
        "its own. L1: distance of the embeddings of sound and lips, of one frame and of different ones.",
        f"Brackets: 95 % intervals from {samples} bootstrap resamples of the clips. Bold: best model.",
        *(f"{name}: {result['checkpoint']} ({result['sha256'][:8]})." for name, result in results.items()),
    ]
    columns = tuple(metric.column() for metric in TABLE_2)
    made = [Table("", "model", ("S / D / I",), columns, (("", rows),), tuple(notes))]
    if len(results) > 1:
        signed = [metric.column(signed=True) for metric in TABLE_2]
        made.append(difference_table({"": parts}, signed, first, permutations, samples, seed))
    return made


def _arrays(clips: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """(clips,) float64 for each count."""
    return {key: np.array([row[key] for row in clips], np.float64) for key in clips[0] if key != "id"}


def write(
    results: Mapping[str, dict[str, Any]], made: Sequence[Table], folder: str | Path, formats: Sequence[str]
) -> str:
    """Write `table2` in each of `formats` and the counts of every clip, `table2.json`; returns the Markdown."""
    folder = Path(folder)
    text = json.dumps(results, indent=1) + "\n"
    write_atomically(folder / "table2.json", lambda part: part.write_text(text, encoding="utf-8"))
    return write_tables(made, folder / "table2", formats)

"""Table 2 of the paper: how well AV-SyncNets read lips, and how well their two embeddings fit together.

T video frames at 25 Hz.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synctalklip.avsyncnet.decode import Generation, build_search
from synctalklip.avsyncnet.expert import Expert, load_expert
from synctalklip.avsyncnet.measures import alignment_counts
from synctalklip.checkpoint import file_hash
from synctalklip.data.dataset import ANY_LENGTH, ClipDataset, clip_batches, move
from synctalklip.data.manifest import Clip
from synctalklip.errors import SyncTalklipError
from synctalklip.metrics import table
from synctalklip.metrics.intelligibility import word_counts

# Column of a clip's counts, what it is divided by, heading, factor, decimals.
COLUMNS = (
    ("errors", "words", "WER % ↓", 100, 1),
    ("aligned0", "pairs", "alignment, same frame % ↑", 100, 1),
    ("aligned1", "pairs", "alignment, within 1 frame % ↑", 100, 1),
    ("paired_sum", "pairs", "L1 paired ↓", 1, 3),
    ("unpaired_sum", "unpaired_pairs", "L1 unpaired ↑", 1, 3),
)


@torch.inference_mode()
def measure(expert: Expert, clips: Sequence[Clip], generation: Generation, batch_frames: int) -> list[dict[str, Any]]:
    """Counts of every clip: edits of the words read from the video alone, and `measures.alignment_counts`.

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
    device = next(expert.model.parameters()).device
    rows: dict[str, dict[str, Any]] = {}
    for batch, sample in clip_batches(dataset, dataset.order(1, 0), batch_frames, "read"):
        net_input = move(sample["net_input"], device)
        mask = net_input["padding_mask"]
        read = search({**net_input, "audio": None})
        heard = expert.aligned(expert.encode(net_input["audio"], None, mask), mask)
        seen = expert.aligned(expert.encode(None, net_input["video"], mask), mask)
        for index, tokens, audio, video in zip(batch, read, heard, seen):
            clip = dataset.clips[index]
            words = word_counts(clip.text, expert.tokenizer.decode(tokens))
            distances = expert.distance.matrix(audio[: clip.frames], video[: clip.frames])
            rows[clip.id] = {"id": clip.id, "errors": words.errors, "words": words.length}
            rows[clip.id] |= {"substitutions": words.substitutions, "deletions": words.deletions}
            rows[clip.id] |= {"insertions": words.insertions} | alignment_counts(distances)
    return [rows[clip.id] for clip in clips]


def compare(
    models: Mapping[str, str], clips: Sequence[Clip], generation: Generation, batch_frames: int, device: str
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


def markdown(results: Mapping[str, dict[str, Any]], described: str, samples: int, seed: int) -> str:
    """One row a model, with 95 % bootstrap intervals over clips; `described` says on what it was measured."""
    headings = ["model", *(heading for _, _, heading, _, _ in COLUMNS), "S / D / I"]
    rows = []
    for name, result in results.items():
        counts = {
            key: np.array([row[key] for row in result["clips"]], float) for key in result["clips"][0] if key != "id"
        }
        cells = [name]
        for key, weight, _, factor, digits in COLUMNS:
            value = factor * counts[key].sum() / counts[weight].sum()
            low, high = (factor * end for end in table.bootstrap(counts[key], counts[weight], samples, seed))
            cells.append(f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
        cells.append(" / ".join(f"{int(counts[key].sum())}" for key in ("substitutions", "deletions", "insertions")))
        rows.append(cells)
    words = int(sum(row["words"] for row in next(iter(results.values()))["clips"]))
    notes = [
        f"{described}, {words} words; words read from the lips alone.",
        "Alignment: share of frames whose sound is nearest, among the video embeddings of all frames of the clip, to "
        "its own.",
        f"Brackets: 95 % intervals from {samples} bootstrap resamples of the clips.",
    ]
    return table.markdown(headings, rows) + "\n\n" + table.bullets(notes) + "\n"


def write(results: Mapping[str, dict[str, Any]], folder: str | Path, text: str) -> None:
    """Write `table2.md` and the counts of every clip, `table2.json`."""
    folder = Path(folder)
    (folder / "table2.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "table2.md").write_text(text, encoding="utf-8")

"""Reading lips with a trained AV-SyncNet or Conformer: batches in, sentences and word errors out.

B clips, T video frames at 25 Hz, L tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from synctalklip.avsyncnet.config import assert_choice
from synctalklip.avsyncnet.expert import (
    CONFORMER,
    expert_of,
    model_name,
    read_checkpoint,
    roi_mode_of,
    task_state,
    tokenizer_of,
)
from synctalklip.avsyncnet.search import forced, greedy
from synctalklip.data.dataset import ANY_LENGTH, ClipDataset, clip_batches, collate, frame_budget_batches, move
from synctalklip.data.features import normalize_roi
from synctalklip.data.manifest import Clip, write_jsonl
from synctalklip.data.text import Tokenizer, normalize_text
from synctalklip.errors import SyncTalklipError
from synctalklip.metrics.intelligibility import EditCounts, word_counts


@dataclass
class Generation:
    """How hypotheses are searched; names and meaning are fairseq's.

    Attributes:
        beam: 1 is greedy, and needs no fairseq.
        lenpen: exponent of the length by which scores are divided.
        max_len_a: longest hypothesis in tokens per video frame; `max_len_b` is added.
    """

    beam: int = 1
    lenpen: float = 1.0
    max_len_a: float = 1.0
    max_len_b: int = 0
    min_len: int = 1
    temperature: float = 1.0


Search = Callable[[dict[str, Any]], list[list[int]]]

DECODINGS = ("free", "forced")


class Reader(Protocol):
    """A frozen lip reader: an `Expert`, or a `ConformerExpert`."""

    tokenizer: Tokenizer | None
    roi_mode: str

    @property
    def model(self) -> Any:
        """With `encode` and `decode`."""
        ...


@dataclass
class ConformerExpert:
    """A frozen `ConformerReader` with what its checkpoint says of text and pictures."""

    model: Any
    tokenizer: Tokenizer | None
    roi_mode: str


def load_reader(path: str | Path, device: str | torch.device = "cpu") -> Reader:
    """Read a fine-tuned AV-SyncNet, a public AV-HuBERT or a Conformer; its checkpoint says which it is.

    Raises:
        CheckpointError: as `load_expert`.
    """
    state = read_checkpoint(path)
    if model_name(state) != CONFORMER:
        return expert_of(state, path).to(device)
    # torchaudio takes a while to import, and the others do not need it.
    from synctalklip.avsyncnet.conformer import build_conformer

    task = task_state(state, path)
    model = build_conformer(state, path).to(device)
    return ConformerExpert(model, tokenizer_of(task, path), roi_mode_of(task, path))


def require_tokenizer(expert: Reader) -> Tokenizer:
    """The tokenizer of a lip reader.

    Raises:
        SyncTalklipError: it came without one.
    """
    if expert.tokenizer is None:
        raise SyncTalklipError(
            "the checkpoint has no tokenizer, so its symbols are no text: convert it again with tokenizer=<its "
            "sentencepiece model>"
        )
    return expert.tokenizer


def build_search(expert: Reader, generation: Generation) -> Search:
    """A function from a `net_input` to the token ids of each clip.

    Raises:
        SyncTalklipError: no beam, or an expert that came without a tokenizer.
    """
    require_tokenizer(expert)
    if generation.beam < 1:
        raise SyncTalklipError(f"generation.beam {generation.beam}: at least 1 is needed")
    if generation.beam == 1:

        def search(net_input: dict[str, Any]) -> list[list[int]]:
            mask = net_input["padding_mask"]
            embeddings = expert.model.encode(net_input["audio"], net_input["video"], mask)
            lengths = generation.max_len_a, generation.max_len_b, generation.min_len
            return greedy(expert.model.decode, embeddings, mask, *lengths)

        return search
    return _beam_search(expert, generation)


def _beam_search(expert: Reader, generation: Generation) -> Search:
    # fairseq costs seconds to import, and greedy reading does not need it.
    from omegaconf import OmegaConf

    from synctalklip.avsyncnet.task import AVSyncNetTask, AVSyncNetTaskConfig

    task = AVSyncNetTask(OmegaConf.structured(AVSyncNetTaskConfig))
    task.load_state_dict({"tokenizer": require_tokenizer(expert).model, "roi_mode": expert.roi_mode, "label_sizes": []})
    generator = task.build_generator([expert.model], generation)

    def search(net_input: dict[str, Any]) -> list[list[int]]:
        found = task.inference_step(generator, [expert.model], {"net_input": net_input})
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]

    return search


@dataclass
class Reading:
    """What was read of one clip."""

    id: str
    reference: str
    hypothesis: str
    counts: EditCounts = field(repr=False)

    def record(self) -> dict[str, Any]:
        """A line of hypotheses.jsonl."""
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "substitutions": self.counts.substitutions,
            "deletions": self.counts.deletions,
            "insertions": self.counts.insertions,
            "words": self.counts.length,
        }


def read_clips(
    expert: Reader,
    clips: Sequence[Clip],
    generation: Generation,
    modalities: Sequence[str],
    batch_frames: int,
) -> Iterator[Reading]:
    """Read prepared clips in batches of similar length, in that order.

    Raises:
        SyncTalklipError: the clips' ROIs were cut in another way than the model was trained on.
    """
    foreign = sorted({clip.roi_mode for clip in clips} - {expert.roi_mode})
    if foreign:
        raise SyncTalklipError(
            f"the clips' mouth ROIs are {', '.join(foreign)}, the reader was trained on {expert.roi_mode}; "
            "prepare the clips with that ROI mode"
        )
    dataset = ClipDataset(clips, limits=ANY_LENGTH, modalities=modalities)
    search = build_search(expert, generation)
    device, tokenizer = next(expert.model.parameters()).device, require_tokenizer(expert)
    for batch, sample in clip_batches(dataset, dataset.order(1, 0), batch_frames, "read"):
        for index, tokens in zip(batch, search(move(sample["net_input"], device))):
            clip, hypothesis = dataset.clips[index], tokenizer.decode(tokens)
            yield Reading(clip.id, clip.text, hypothesis, word_counts(clip.text, hypothesis))


def write_hypotheses(path: str | Path, readings: Sequence[Reading]) -> dict[str, float]:
    """Write one line a clip, sorted by id, and return WER in percent with its counts."""
    ordered = sorted(readings, key=lambda reading: reading.id)
    write_jsonl(path, (reading.record() for reading in ordered))
    total = sum((reading.counts for reading in ordered), EditCounts())
    return {
        "wer": 100 * total.rate,
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
        "words": total.length,
        "clips": len(ordered),
    }


class LipReader:
    """Reads silent mouth ROIs; what evaluation uses. Hypotheses do not depend on the order or number of clips.

    Args:
        path: fine-tuned AV-SyncNet, public AV-HuBERT or Conformer.
        generation: search settings, greedy by default; without meaning where decoding is forced.
        batch_frames: padded frames of one forward pass.
        decoding: `free`, or `forced`: the reference is given up to each place, the most likely symbol taken there,
            and no more of them than the reference has. It is what the published WER3 does, and flatters: the length
            is always right, and a wrong word misleads no other.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device = "cpu",
        generation: Generation | None = None,
        batch_frames: int = 2000,
        decoding: str = "free",
    ) -> None:
        assert_choice("decoding", decoding, DECODINGS)
        self.expert = load_reader(path, device)
        self.tokenizer = require_tokenizer(self.expert)
        self.device, self.batch_frames, self.decoding = torch.device(device), batch_frames, decoding
        self._search = build_search(self.expert, (decoding == "free" and generation) or Generation())

    @property
    def roi_mode(self) -> str:
        """How the ROIs have to be cut."""
        return self.expert.roi_mode

    def read(self, rois: Sequence[np.ndarray | Tensor], references: Sequence[str] | None = None) -> list[str]:
        """One sentence for each clip.

        Args:
            rois: (T,96,96) each, grey, uint8 0..255 or float 0..1.
            references: transcript of each clip, needed and used only where decoding is forced.

        Raises:
            SyncTalklipError: forced decoding without a transcript for each clip.
        """
        targets = self._targets(rois, references) if self.decoding == "forced" else None
        sizes = np.array([len(roi) for roi in rois], dtype=np.int64)
        texts = [""] * len(rois)
        for batch in frame_budget_batches(sizes, np.argsort(sizes, kind="stable"), self.batch_frames):
            items: list[dict[str, Any]] = [
                {"id": index, "frames": len(rois[index]), "audio": None, "labels": []}
                | {"video": normalize_roi(rois[index])}
                for index in batch
            ]
            net_input = move(collate(items)["net_input"], self.device)
            if targets is None:
                rows = self._search(net_input)
            else:
                rows = self._forced(net_input, [targets[index] for index in batch])
            for index, tokens in zip(batch, rows):
                texts[index] = self.tokenizer.decode(tokens)
        return texts

    def _targets(self, rois: Sequence[Any], references: Sequence[str] | None) -> list[list[int]]:
        if references is None or len(references) != len(rois):
            given = "none" if references is None else len(references)
            raise SyncTalklipError(
                f"forced decoding needs the transcript of each of {len(rois)} clips, {given} given: give them, or "
                "read with decoding=free"
            )
        return [self.tokenizer.encode(normalize_text(text)) for text in references]

    def _forced(self, net_input: dict[str, Any], references: list[list[int]]) -> list[list[int]]:
        model, mask = self.expert.model, net_input["padding_mask"]
        return forced(model.decode, model.encode(None, net_input["video"], mask), mask, references)


def open_reader(
    path: str | Path, device: str | torch.device = "cpu", beam: int = 1, decoding: str = "free"
) -> LipReader:
    """A lip reader for evaluation, of whichever kind the checkpoint is; see `LipReader`.

    Raises:
        CheckpointError: a checkpoint of another kind, damaged or incomplete.
        SyncTalklipError: a beam below 1, or a decoding that there is not.
    """
    return LipReader(path, device, Generation(beam=beam), decoding=decoding)

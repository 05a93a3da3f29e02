"""fairseq's view of the data: task, dictionary, batches, beam search."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, MISSING, DictConfig, OmegaConf

from synctalklip.avsyncnet.launch import average_statistics, passes, seed_draws
from synctalklip.data.augment import Augmentation
from synctalklip.data.dataset import MODALITIES, ClipDataset, Limits, frame_budget_batches, split_to_multiple
from synctalklip.data.manifest import Clip, DatasetError, FrameLabels, read_labels, read_manifest
from synctalklip.data.text import Tokenizer
from synctalklip.errors import SyncTalklipError


@dataclass
class AVSyncNetTaskConfig(FairseqDataclass):
    """Data of stage 1; see `Augmentation` and `Limits` for the nested fields."""

    prepared: str = field(default=MISSING, metadata={"help": "folder that holds manifest.jsonl"})
    corpora: dict[str, str] | None = field(
        default=None, metadata={"help": "of several corpora read as one, the folder of each; labels lie in `prepared`"}
    )
    weights: dict[str, float] | None = field(default=None, metadata={"help": "how often clips of a corpus come"})
    tokenizer: str | None = field(default=None, metadata={"help": "sentencepiece model; null to pre-train"})
    labels: list[str] = field(
        default_factory=list, metadata={"help": "folders under <prepared>/labels to predict; [] to fine-tune"}
    )
    modalities: list[str] = field(default_factory=lambda: list(MODALITIES))
    augmentation: Augmentation = field(default_factory=Augmentation)
    limits: Limits = field(default_factory=Limits)
    bucket_frames: int = field(default=10, metadata={"help": "clips whose length differs less share batches"})
    batch_frames: int | None = field(
        default=None,
        metadata={"help": "frames of one update over all devices; sets optimization.update_freq. null: as given there"},
    )
    cache: bool = field(default=False, metadata={"help": "keep decoded clips in memory, in every worker its own"})
    disk_cache: bool = field(default=False, metadata={"help": "keep decoded ROIs in <prepared>/cache, 0.8 GB an hour"})
    resplit: int | None = field(
        default=None, metadata={"help": "a seed: clips of train and valid are dealt anew between the two"}
    )
    seed: int = II("common.seed")
    # fairseq reads this name from the task: batches are drawn anew every epoch, which resumes exactly.
    rebuild_batches: bool = True


class FairseqClips(FairseqDataset):
    """`ClipDataset` batched by frame budget (`dataset.max_tokens` counts padded frames).

    Attributes:
        passes: forward passes of one update over all devices; an epoch has a multiple of them.
    """

    def __init__(self, clips: ClipDataset, bucket_frames: int, shuffle: bool) -> None:
        self.clips, self.bucket_frames, self.shuffle = clips, bucket_frames, shuffle
        self.sizes = clips.sizes
        self.epoch, self.passes = 1, 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.clips[index]

    def __len__(self) -> int:
        return len(self.clips)

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """See `ClipDataset.collate`; `draws` names the batch for the random draws of its pass."""
        # fairseq evens out the shards of several GPUs with empty batches.
        return {**self.clips.collate(samples), "draws": samples[0]["id"]} if samples else {}

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.sizes[indices]

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        return self.clips.order(self.bucket_frames, self.epoch if self.shuffle else 0)

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> tuple[np.ndarray, list[int]]:
        """All of them: `limits` leaves clips out, and `batch_by_size` names what does not fit."""
        return indices, []

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[list[int]]:
        """Batches of at most `max_tokens` padded frames; unlike fairseq's they hold every clip.

        Raises:
            DatasetError: a clip is longer than `max_tokens`.
        """
        longest = int(self.sizes[indices].max(initial=0))
        if max_tokens is not None and longest > max_tokens:
            raise DatasetError(
                f"a clip has {longest} frames, and one pass may hold fairseq.dataset.max_tokens={max_tokens}: raise "
                "it, or lower fairseq.task.limits.max_frames"
            )
        budget = max_tokens or longest * len(indices)
        made = frame_budget_batches(self.sizes, indices, budget, max_sentences, required_batch_size_multiple)
        return split_to_multiple(made, self.passes)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.clips.set_epoch(epoch)


def _one_roi_mode(clips: list[Clip], prepared: str) -> str:
    modes = sorted({clip.roi_mode for clip in clips})
    if len(modes) != 1:
        raise SyncTalklipError(f"{prepared}: clips were cut in different ways ({', '.join(modes)}); prepare them again")
    return modes[0]


def _source(cfg: AVSyncNetTaskConfig) -> dict[str, Any]:
    """What `read_manifest` takes."""
    corpora = {name: {"prepared": folder} for name, folder in (cfg.corpora or {}).items()}
    return {"prepared": cfg.prepared, "corpora": corpora, "weights": cfg.weights}


def _clips_of(source: dict[str, Any], split: str, seed: int | None) -> list[Clip]:
    """Clips of a split; with a seed those of train and valid are dealt anew, as many to each as before."""
    if seed is None or split not in ("train", "valid"):
        return read_manifest(source, split, draw=True)
    clips = [clip for clip in read_manifest(source) if clip.split in ("train", "valid")]
    held_out = sum(clip.split == "valid" for clip in clips)
    order = np.random.default_rng(seed).permutation(len(clips))
    chosen = order[:held_out] if split == "valid" else order[held_out:]
    return [replace(clips[index], split=split) for index in sorted(chosen)]


@register_task("avsyncnet", dataclass=AVSyncNetTaskConfig)
class AVSyncNetTask(FairseqTask):
    """Pre-training (frame labels) and fine-tuning (transcripts) of AV-SyncNet.

    `state` holds plain containers only (fairseq loads checkpoints with `weights_only`): the bytes of the
    tokenizer or None, the ROI mode of the clips, and the number of classes of every label set.
    """

    def __init__(self, cfg: AVSyncNetTaskConfig, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        self.state.add_factory("tokenizer", self._tokenizer_bytes)
        self.state.add_factory("roi_mode", lambda: _one_roi_mode(self._manifest(), cfg.prepared))
        self.state.add_factory("label_sizes", lambda: [labels.classes for labels in self._label_sets()])
        self._cached: dict[str, Any] = {}

    def _tokenizer_bytes(self) -> bytes | None:
        return Tokenizer.load(self.cfg.tokenizer).model if self.cfg.tokenizer else None

    def _manifest(self) -> list[Clip]:
        if "manifest" not in self._cached:
            self._cached["manifest"] = read_manifest(_source(self.cfg))
        return self._cached["manifest"]

    def _label_sets(self) -> list[FrameLabels]:
        if "labels" not in self._cached:
            folder = Path(self.cfg.prepared) / "labels"
            self._cached["labels"] = [read_labels(folder / name) for name in self.cfg.labels]
        return self._cached["labels"]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, whether it was asked for before or not."""
        return {name: getattr(self.state, name) for name in ("tokenizer", "roi_mode", "label_sizes")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._cached.clear()

    @property
    def label_sizes(self) -> list[int]:
        """Softmax sizes of the label sets; empty when fine-tuning from nothing."""
        return list(self.state.label_sizes)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the transcripts, None when pre-training."""
        if "tokenizer" not in self._cached:
            model = self.state.tokenizer
            self._cached["tokenizer"] = None if model is None else Tokenizer(model)
        return self._cached["tokenizer"]

    @property
    def source_dictionary(self) -> None:
        return None

    @property
    def target_dictionary(self) -> Dictionary | None:
        """The tokenizer's symbols; ids are equal because both begin with bos, pad, eos, unk."""
        if self.tokenizer is None:
            return None
        if "dictionary" not in self._cached:
            dictionary = Dictionary()
            for symbol in self.tokenizer.symbols[len(dictionary) :]:
                dictionary.add_symbol(symbol)
            self._cached["dictionary"] = dictionary
        return self._cached["dictionary"]

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Make `datasets[split]`; only the split called train is augmented."""
        cfg = task_cfg or self.cfg
        training = split == "train"
        clips = _clips_of(_source(cfg), split, cfg.resplit)
        _one_roi_mode(clips, cfg.prepared)
        limits = _plain(cfg.limits)
        inner = ClipDataset(
            clips,
            tokenizer=self.tokenizer,
            labels=self._label_sets(),
            augmentation=_plain(cfg.augmentation) if training else None,
            limits=limits if training or self.tokenizer else replace(limits, pad=True),
            modalities=cfg.modalities,
            seed=cfg.seed,
            cache=cfg.cache,
            disk_cache=cfg.disk_cache,
        )
        self.datasets[split] = FairseqClips(inner, cfg.bucket_frames, shuffle=training)

    def get_batch_iterator(
        self, dataset: FairseqClips, max_tokens: int | None = None, num_shards: int = 1, **kwargs: Any
    ) -> Any:
        """fairseq's iterator; a training epoch fills whole updates, so that no device gets an empty batch."""
        if dataset.shuffle and max_tokens is not None:
            dataset.passes = num_shards * passes(self.cfg.batch_frames, max_tokens, num_shards)
        return super().get_batch_iterator(dataset, max_tokens=max_tokens, num_shards=num_shards, **kwargs)

    def train_step(
        self, sample: dict[str, Any], model: Any, criterion: Any, optimizer: Any, update_num: int, **kwargs: Any
    ) -> tuple:
        """One pass; its draws follow from seed, update and batch, whichever device makes it."""
        seed_draws(self.cfg.seed, update_num, sample["draws"])
        return super().train_step(sample, model, criterion, optimizer, update_num, **kwargs)

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple:
        """One pass; its masks follow from seed and batch."""
        seed_draws(self.cfg.seed, sample["draws"])
        return super().valid_step(sample, model, criterion)

    def optimizer_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """An update; afterwards all processes hold the same weights and batch statistics."""
        # fairseq gives unreached parameters (a dropped modality) zero gradients with several devices or fp16, and
        # leaves them out otherwise, which Adam's momentum and weight decay tell apart.
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        super().optimizer_step(optimizer, model, update_num)
        average_statistics(model)

    def max_positions(self) -> None:
        """Lengths are limited by `limits`, which also says how many clips were left out."""
        return None

    def build_generator(self, models: list, args: Any, **kwargs: Any) -> torch.nn.Module:
        """fairseq's beam search; lengths count a clip's own video frames (`max_len_a` tokens a frame)."""
        from synctalklip.avsyncnet.search import SearchModel

        lengths = args.max_len_a, args.max_len_b, args.min_len
        return super().build_generator([SearchModel(model, *lengths) for model in models], args, **kwargs)

    def inference_step(
        self,
        generator: torch.nn.Module,
        models: list,
        sample: dict[str, Any],
        prefix_tokens: torch.Tensor | None = None,
        constraints: torch.Tensor | None = None,
    ) -> list[list[dict[str, torch.Tensor]]]:
        """Hypotheses of a batch, best first."""
        net_input = dict(sample["net_input"])
        # The search takes batch size and source length from the shape of `source`: frames, not features.
        net_input["source"] = net_input["padding_mask"].long()
        return super().inference_step(generator, models, {**sample, "net_input": net_input}, prefix_tokens, constraints)


def _plain(node: Any) -> Any:
    return OmegaConf.to_object(node) if isinstance(node, DictConfig) else node

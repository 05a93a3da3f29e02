"""Frame labels of eq. 3: k-means over MFCC (iteration 1) or over a layer of the previous model.

B clips, T frames, D feature size, C clusters. Features are computed on clean input in batches, used and
dropped: once to fit in one streaming pass, once to label. Labels go to the disk as they are made: memory does not
grow with the hours of speech, and machines can share the labelling.
"""

import hashlib
import heapq
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from synctalklip.checkpoint import write_atomically
from synctalklip.data.clips import ClipReader
from synctalklip.data.dataset import ANY_LENGTH, ClipDataset, clip_batches, move
from synctalklip.data.features import cluster_mfcc
from synctalklip.data.manifest import Clip, label_line, write_labels, write_lines
from synctalklip.data.workers import part_of
from synctalklip.errors import SyncTalklipError

logger = logging.getLogger(__name__)

MFCC_RATE, MODEL_RATE = 100, 25
FIT = "fit"

Features = Callable[[Sequence[Clip], str], Iterator[tuple[Clip, np.ndarray]]]


class ClusterError(SyncTalklipError):
    """Settings or data that no clustering can be made of."""


@dataclass
class KMeansSettings:
    """MiniBatchKMeans. Published: batch 10000, no reassignment, up to 100 passes over features kept on the disk.

    Attributes:
        clusters: C.
        batch_frames: features of one k-means step.
        passes: over the training clips.
        fraction: share of the training clips that is used to fit; published 0.1.
    """

    clusters: int
    batch_frames: int
    passes: int
    fraction: float


class _Mfcc(Dataset):
    def __init__(self, clips: Sequence[Clip]):
        self._reader = ClipReader(clips)

    def __len__(self) -> int:
        return len(self._reader.clips)

    def __getitem__(self, index: int) -> np.ndarray:
        return cluster_mfcc(self._reader.wave(index)).numpy()


def mfcc_features(clips: Sequence[Clip], progress: str, workers: int = 0) -> Iterator[tuple[Clip, np.ndarray]]:
    """MFCC with two differences, (4T-1, 39) at 100 Hz; `workers` processes compute them, 0 for this one."""
    rows: DataLoader = DataLoader(_Mfcc(clips), batch_size=1, num_workers=workers, collate_fn=itemgetter(0))
    yield from zip(tqdm(clips, desc=progress, unit="clip", disable=None), rows, strict=True)


def model_features(
    encode: Callable[..., torch.Tensor], layer: int, batch_frames: int, device: torch.device, workers: int = 0
) -> Features:
    """Features of a layer on sound and lips together, (T, D) at 25 Hz.

    Args:
        encode: `AVHubert.encode` of a model in eval mode.
        layer: counted from 1.
        batch_frames: padded frames of one batch.
        workers: processes that read clips, 0 for this one.
    """

    def extract(clips: Sequence[Clip], progress: str) -> Iterator[tuple[Clip, np.ndarray]]:
        dataset = ClipDataset(clips, limits=ANY_LENGTH)
        # Clips come in the caller's order, so that a shuffled order stays shuffled.
        for batch, sample in clip_batches(dataset, np.arange(len(clips)), batch_frames, progress, workers):
            with torch.inference_mode():
                features = encode(**move(sample["net_input"], device), layer=layer).float().cpu().numpy()
            for row, index in zip(features, batch):
                yield clips[index], row[: clips[index].frames]

    return extract


def _blocks(rows: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join features of clips into blocks of at least `size` rows; the rest joins the last block."""
    held: list[np.ndarray] = []
    ready: np.ndarray | None = None
    for row in rows:
        held.append(row)
        if sum(map(len, held)) >= size:
            if ready is not None:
                yield ready
            ready, held = np.concatenate(held), []
    last = ([ready] if ready is not None else []) + held
    if last:
        yield np.concatenate(last)


def fit(features: Features, clips: Sequence[Clip], settings: KMeansSettings, seed: int) -> MiniBatchKMeans:
    """Fit k-means without holding the features of the corpus.

    Raises:
        ClusterError: fewer frames than clusters.
    """
    rng = np.random.default_rng(seed)
    count = max(1, round(settings.fraction * len(clips)))
    model = MiniBatchKMeans(
        settings.clusters,
        init="k-means++",
        batch_size=settings.batch_frames,
        compute_labels=False,
        reassignment_ratio=0.0,
        random_state=seed,
        n_init=1,
    )
    for number in range(settings.passes):
        chosen = [clips[index] for index in rng.permutation(len(clips))[:count]]
        rows = (row for _, row in features(chosen, f"fit {number + 1}/{settings.passes}"))
        for block in _blocks(rows, max(settings.batch_frames, settings.clusters)):
            if len(block) < settings.clusters:
                raise ClusterError(
                    f"{len(block)} frames cannot make {settings.clusters} clusters; use more clips or fewer clusters"
                )
            model.partial_fit(block)
    return model


def cluster(
    features: Features,
    clips: Sequence[Clip],
    settings: KMeansSettings,
    rate: int,
    folder: str | Path,
    seed: int,
    source: str = "",
    shard: str | None = None,
) -> dict[str, float] | None:
    """Fit on the training clips, label all clips with the same model, write labels and centroids.

    Args:
        features: `mfcc_features` or what `model_features` returns.
        clips: of all splits.
        rate: labels per second, `MFCC_RATE` or `MODEL_RATE`.
        folder: `<prepared>/labels/<name>`.
        source: what the features are of, for the record of the centroids.
        shard: `FIT` fits only; "3/16" labels the third of sixteen parts, once that is done; the run without it labels
            what is left and writes the labels of all.

    Returns:
        Clusters, frames, clusters in use, the perplexity of their distribution, and the share of the largest; None of a
        shard.

    Raises:
        ClusterError: no clip to fit on, or a part before the fit.
    """
    folder = Path(folder)
    clips = sorted(clips, key=lambda clip: clip.id)
    facts = [asdict(settings), rate, seed, source, [(clip.id, clip.split, clip.frames) for clip in clips]]
    made_of = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    centroids = _stored(folder, made_of)
    if centroids is None:
        if shard not in (None, FIT):
            raise ClusterError(f"{folder}: no centroids of these clips and settings there; run shard={FIT} first")
        centroids = _fitted(features, clips, settings, seed)
        _store(folder, centroids, made_of)
    if shard == FIT:
        return None
    parts = sorted(folder.glob(f"part.{made_of[:8]}.*.txt")) if shard is None else []
    done = {line.partition("\t")[0] for part in parts for line in part.open(encoding="utf-8")}
    mine = [clip for clip in part_of(clips, shard) if clip.id not in done]
    own = folder / f"part.{made_of[:8]}.{(shard or 'rest').replace('/', '-of-')}.txt"
    lines = (label_line(clip.id, pairwise_distances_argmin(row, centroids)) for clip, row in features(mine, "label"))
    write_lines(own, lines)
    if shard is not None:
        return None
    counts = np.zeros(settings.clusters, np.int64)
    with ExitStack() as stack:
        files = [stack.enter_context(part.open(encoding="utf-8")) for part in [*parts, own]]
        merged = heapq.merge(*files, key=lambda line: line.partition("\t")[0])
        write_labels(folder, _counted(merged, counts), settings.clusters, rate)
    for part in folder.glob("part.*.txt"):
        part.unlink()
    return _facts(counts)


def _fitted(features: Features, clips: Sequence[Clip], settings: KMeansSettings, seed: int) -> np.ndarray:
    training = [clip for clip in clips if clip.split == "train"]
    if not training:
        raise ClusterError("no training clip to fit on; check the split rule of the data config")
    return fit(features, training, settings, seed).cluster_centers_.astype(np.float32)


def _stored(folder: Path, made_of: str) -> np.ndarray | None:
    """Centroids that an earlier run fitted on the same clips with the same settings."""
    try:
        with np.load(folder / "kmeans.npz") as file:
            return file["centroids"] if str(file["made_of"]) == made_of else None
    except (OSError, KeyError, ValueError):
        return None


def _store(folder: Path, centroids: np.ndarray, made_of: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, centroids=centroids, made_of=made_of)

    write_atomically(folder / "kmeans.npz", write)


def _counted(lines: Iterable[str], counts: np.ndarray) -> Iterator[str]:
    for line in lines:
        counts += np.bincount(np.array(line.partition("\t")[2].split(), np.int64), minlength=len(counts))
        yield line


def _facts(counts: np.ndarray) -> dict[str, float]:
    share = counts[counts > 0] / counts.sum()
    return {
        "clusters": len(counts),
        "frames": int(counts.sum()),
        "used_clusters": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "largest": float(share.max()),
    }


def features_of(
    iteration: int, path: str | None, layer: int | None, batch_frames: int, workers: int = 0
) -> tuple[Features, int]:
    """Features of an iteration and their rate: MFCC for the first, a layer of a checkpoint afterwards.

    Raises:
        ClusterError: checkpoint and layer do not go with the iteration.
    """
    if iteration == 1:
        if path is not None or layer is not None:
            raise ClusterError("iteration=1 clusters MFCC: leave checkpoint and layer out, or give iteration=2")
        return partial(mfcc_features, workers=workers), MFCC_RATE
    if iteration < 1 or path is None or layer is None:
        raise ClusterError(f"iteration={iteration} clusters a model: give checkpoint=... and layer=...")
    from synctalklip.avsyncnet.expert import load_encoder

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_encoder(path).to(device).eval()
    return model_features(encoder.encode, layer, batch_frames, device, workers), MODEL_RATE

"""Frame labels of eq. 3: k-means over MFCC (iteration 1) or over a layer of the previous model.

B clips, T frames, D feature size, C clusters. Features are computed on clean input in batches, used and
dropped: once to fit in one streaming pass, once to label.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from tqdm import tqdm

from synctalklip.checkpoint import write_atomically
from synctalklip.data.clips import ClipReader
from synctalklip.data.dataset import ANY_LENGTH, ClipDataset, clip_batches, move
from synctalklip.data.features import cluster_mfcc
from synctalklip.data.manifest import Clip, write_labels
from synctalklip.errors import SyncTalklipError

logger = logging.getLogger(__name__)

MFCC_RATE, MODEL_RATE = 100, 25

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


def mfcc_features(clips: Sequence[Clip], progress: str) -> Iterator[tuple[Clip, np.ndarray]]:
    """MFCC with two differences, (4T-1, 39) at 100 Hz."""
    reader = ClipReader(clips)
    for index, clip in enumerate(tqdm(clips, desc=progress, unit="clip", disable=None)):
        yield clip, cluster_mfcc(reader.wave(index)).numpy()


def model_features(
    encode: Callable[..., torch.Tensor], layer: int, batch_frames: int, device: torch.device
) -> Features:
    """Features of a layer on sound and lips together, (T, D) at 25 Hz.

    Args:
        encode: `AVHubert.encode` of a model in eval mode.
        layer: counted from 1.
        batch_frames: padded frames of one batch.
    """

    def extract(clips: Sequence[Clip], progress: str) -> Iterator[tuple[Clip, np.ndarray]]:
        dataset = ClipDataset(clips, limits=ANY_LENGTH)
        # Clips come in the caller's order, so that a shuffled order stays shuffled.
        for batch, sample in clip_batches(dataset, np.arange(len(clips)), batch_frames, progress):
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
) -> dict[str, float]:
    """Fit on the training clips, label all clips with the same model, write labels and centroids.

    Args:
        features: `mfcc_features` or what `model_features` returns.
        clips: of all splits.
        rate: labels per second, `MFCC_RATE` or `MODEL_RATE`.
        folder: `<prepared>/labels/<name>`.

    Returns:
        Clusters, frames, clusters in use, the perplexity of their distribution, and the share of the largest.
    """
    training = [clip for clip in clips if clip.split == "train"]
    if not training:
        raise ClusterError("no training clip to fit on; check the split rule of the data config")
    model = fit(features, training, settings, seed)
    labels = {clip.id: model.predict(row).astype(np.int32) for clip, row in features(clips, "label")}
    folder = Path(folder)
    write_labels(folder, labels, settings.clusters, rate)
    centroids = model.cluster_centers_.astype(np.float32)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, centroids=centroids)

    write_atomically(folder / "kmeans.npz", write)
    counts = np.bincount(np.concatenate(list(labels.values())), minlength=settings.clusters)
    share = counts[counts > 0] / counts.sum()
    return {
        "clusters": settings.clusters,
        "frames": int(counts.sum()),
        "used_clusters": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        "largest": float(share.max()),
    }


def features_of(iteration: int, path: str | None, layer: int | None, batch_frames: int) -> tuple[Features, int]:
    """Features of an iteration and their rate: MFCC for the first, a layer of a checkpoint afterwards.

    Raises:
        ClusterError: checkpoint and layer do not go with the iteration.
    """
    if iteration == 1:
        if path is not None or layer is not None:
            raise ClusterError("iteration=1 clusters MFCC: leave checkpoint and layer out, or give iteration=2")
        return mfcc_features, MFCC_RATE
    if iteration < 1 or path is None or layer is None:
        raise ClusterError(f"iteration={iteration} clusters a model: give checkpoint=... and layer=...")
    from synctalklip.avsyncnet.expert import load_encoder

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_encoder(path).to(device).eval()
    return model_features(encoder.encode, layer, batch_frames, device), MODEL_RATE

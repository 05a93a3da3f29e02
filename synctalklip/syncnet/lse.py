"""SyncNets in use: the lip-sync scores LSE-D and LSE-C, the checkpoints behind them, and Wav2Lip's frozen expert, which
says whether painted windows fit their sound.

Legend: N painted frames, W windows of 5 frames of a clip, E embedding.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synctalklip import checkpoint
from synctalklip.checkpoint import file_hash
from synctalklip.data.features import STACK, SYNC_FRAMES
from synctalklip.errors import MetricError
from synctalklip.syncnet.network import SAMPLES_PER_FRAME, SmallSyncNet, StackedSyncNet, SyncNet

AnySyncNet = SyncNet | SmallSyncNet | StackedSyncNet
DISTANCE_EPS = 1e-6  # F.pairwise_distance adds it to each coordinate, as the public script does


@dataclass(frozen=True)
class LSE:
    """Lip-sync error of one clip.

    Attributes:
        distance: LSE-D, the smallest mean distance over the shifts; lower is better.
        confidence: LSE-C, the median over the shifts minus the smallest; higher is better.
        offset: frames by which the lips must be delayed to meet the sound; a sound that comes 3 frames
            late gives -3.
        distance_at_zero: the mean distance without a shift. LSE-D cannot see a constant delay, this can.
        curve: the mean distance at every shift of `shifts`. At shift s the lips are compared with the sound s
            frames later, so the smallest one lies at -offset.
    """

    distance: float
    confidence: float
    offset: int
    distance_at_zero: float
    curve: tuple[float, ...]

    @property
    def shifts(self) -> range:
        """The shifts of `curve` in frames, symmetric about 0."""
        reach = len(self.curve) // 2
        return range(-reach, reach + 1)


def lse(video: Tensor, audio: Tensor, max_shift: int = 15, ends: str = "zeros") -> LSE:
    """LSE-D and LSE-C (Chung and Zisserman 2016; Prajwal et al. 2020).

    Each video window is compared with the sound windows at shifts -max_shift..max_shift.

    Args:
        video: (W,E) embeddings of the lips.
        audio: (W,E) embeddings of the sound, of the same length.
        max_shift: largest shift in frames; ends="overlap" lowers it on clips of fewer than 2 max_shift windows.
        ends: "zeros" compares the windows that are shifted past the ends with zero vectors, as the public
            script does. "overlap" leaves them out, and a shift keeps at least half of the windows: unit
            embeddings lie nearer to zero than to a wrong window, so zeros would favour large shifts.

    Returns:
        The scores, in the unit of the embeddings' Euclidean distance.

    Raises:
        MetricError: the shapes differ, there is no window, or `ends` is unknown.
    """
    if video.ndim != 2 or video.shape != audio.shape or len(video) == 0:
        raise MetricError(
            f"lse needs two (W,E) embeddings of one shape, got {tuple(video.shape)} and {tuple(audio.shape)}"
        )
    if ends not in ("zeros", "overlap"):
        raise MetricError(f"lse ends={ends!r}: choose zeros or overlap")
    count = len(video)
    if ends == "overlap":
        max_shift = min(max_shift, count // 2)
    curve = torch.stack([_distance_at(video, audio, s, ends) for s in range(-max_shift, max_shift + 1)])
    best = int(curve.argmin())
    return LSE(
        distance=float(curve[best]),
        confidence=float(curve.median() - curve[best]),
        offset=max_shift - best,
        distance_at_zero=float(curve[max_shift]),
        curve=tuple(curve.tolist()),
    )


def _distance_at(video: Tensor, audio: Tensor, shift: int, ends: str) -> Tensor:
    """Mean distance of video window w to sound window w + shift."""
    count = len(video)
    first, last = max(0, -shift), min(count, count - shift)
    if ends == "overlap":
        return (
            F.pairwise_distance(video[first:last], audio[first + shift : last + shift], eps=DISTANCE_EPS)
            .double()
            .mean()
        )
    shifted = torch.zeros_like(audio)
    if last > first:
        shifted[first:last] = audio[first + shift : last + shift]
    return F.pairwise_distance(video, shifted, eps=DISTANCE_EPS).double().mean()


PROTOCOLS = ("face_crop", "whole_frame")
"""Which pixels a SyncNet sees: the 96x96 face crop, or, as the published scripts do with clips that were cut around the
face (LRS), the whole frame. Either is resized to what the network takes."""


def assert_protocol(model: AnySyncNet, protocol: str) -> None:
    """Refuse a protocol that is unknown, or that was not the one of the network's training.

    Raises:
        MetricError: see above.
    """
    if protocol not in PROTOCOLS:
        raise MetricError(f"syncnet protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    if protocol == "whole_frame" and not model.any_size:
        raise MetricError(
            "syncnet protocol 'whole_frame' needs a SyncNet of the public structure, this one was trained on face "
            "crops; choose face_crop"
        )


def score_clip(
    model: AnySyncNet,
    frames: np.ndarray | Tensor,
    mfcc: np.ndarray | Tensor,
    max_shift: int = 15,
    samples: int | None = None,
) -> LSE:
    """`lse` of a clip, its ends treated as its network wants it (`model.ends`, `model.windows`).

    Args:
        model: of `load_syncnet`.
        frames: (T,H,W,3) uint8 BGR in the protocol of the evaluation: face crops, or whole frames.
        mfcc: (4T,13), see `model.embed_clip`.
        max_shift: largest shift in frames.
        samples: of the sound at 16 kHz, before its MFCC were cut or padded to the video; None for as long as the video.

    Raises:
        MetricError: too short for a window, no sound, or frames of a size that the network does not take.
    """
    samples = len(frames) * SAMPLES_PER_FRAME if samples is None else samples
    count = model.windows(len(frames), samples)
    if count < 1:
        raise MetricError(
            f"sync scores need a window of {SYNC_FRAMES} frames and their sound (one more frame with the public "
            f"SyncNet), got {len(frames)} frames and {samples} samples"
        )
    last = count + SYNC_FRAMES - 1
    embedded = model.embed_clip(frames[:last], mfcc[: STACK * last])
    return lse(*embedded, max_shift=max_shift, ends=model.ends)


STRUCTURES = {"public": SyncNet, "small": SmallSyncNet, "stacked": StackedSyncNet}


def build_syncnet(structure: str, **settings: float | str) -> AnySyncNet:
    """A fresh SyncNet from a config node.

    Raises:
        MetricError: unknown structure.
    """
    if structure not in STRUCTURES:
        raise MetricError(f"syncnet structure {structure!r} is unknown; choose one of {sorted(STRUCTURES)}")
    return STRUCTURES[structure](**settings)


@dataclass(frozen=True)
class SyncNetInfo:
    """What a table says about the SyncNet behind its LSE columns.

    Attributes:
        structure: see `STRUCTURES`.
        corpus: name of the corpus that it was trained on.
        steps: of its training.
        split: of the corpus, that it was trained on.
    """

    structure: str
    corpus: str
    steps: int
    split: str = "train"

    @property
    def name(self) -> str:
        if self.structure == "public":
            return f"SyncNet (public structure, {self.corpus})"
        split = "" if self.split == "train" else f", {self.split} split"
        return f"SyncNet ({self.structure}, trained on {self.corpus}{split})"

    def is_twin_of(self, other: "SyncNetInfo") -> bool:
        """Whether both learned the same clips in the same structure: what pleases one pleases the other."""
        return all(getattr(self, key) == getattr(other, key) for key in ("structure", "corpus", "split"))


def save_syncnet(path: str | Path, model: nn.Module, config: dict, info: SyncNetInfo) -> None:
    """Write `model` so that `load_syncnet` rebuilds it; `config` are the arguments of `build_syncnet`."""
    state = {"kind": "syncnet", "model": model.state_dict(), "config": config, "info": asdict(info)}
    checkpoint.save(path, state)


def load_syncnet(path: str | Path, device: str | torch.device = "cpu") -> tuple[AnySyncNet, SyncNetInfo]:
    """A trained SyncNet, frozen and in eval mode.

    Args:
        path: `syncnet.pt` of `scripts/train_syncnet.py`, or the plain state dict of the public `syncnet_v2.model`.
        device: where to put it.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or of another size.
    """
    state = checkpoint.load(path)
    if "netcnnaud.0.weight" in state:
        state = {
            "model": state,
            "config": {"structure": "public"},
            "info": asdict(SyncNetInfo("public", "public weights", 0)),
        }
    elif state.get("kind") != "syncnet":
        raise checkpoint.CheckpointError(
            f"{path}: is a {state.get('kind', 'foreign')!r} checkpoint; give the syncnet.pt of "
            "scripts/train_syncnet.py or the public syncnet_v2.model"
        )
    model = build_syncnet(**state["config"])
    checkpoint.load_weights(model, state["model"], path)
    return model.to(device).eval().requires_grad_(False), SyncNetInfo(**state["info"])


class SyncExpert(nn.Module):
    """A SyncNet that never learns; gradients reach the painted faces.

    Args:
        path: `syncnet.pt` of scripts/train_syncnet.py, or the public `syncnet_v2.model`. The LSE columns of a table
            must come from another file: an expert would flatter the generator that it trained.

    Attributes:
        sha256: of the file.
        info: structure and training clips.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.syncnet, self.info = load_syncnet(path)
        self.sha256 = file_hash(path)
        self.train(False)

    def train(self, mode: bool = True) -> "SyncExpert":
        """Stay in eval mode whatever `mode` says."""
        return super().train(False)

    def embed(self, faces: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Embed painted windows and their sound.

        Args:
            faces: (N,3,96,96) in 0..1 BGR, N = 5 W, the frames of a window one after the other.
            sound: (W,13,20) MFCC.

        Returns:
            video (W,E) and audio (W,E).
        """
        # SyncNet reads stored pictures: values 0..255, channels last.
        pixels = self.syncnet.pixels((faces.float() * 255).permute(0, 2, 3, 1))
        windows = pixels.unflatten(1, (-1, SYNC_FRAMES)).transpose(0, 1)
        with torch.no_grad():
            audio = self.syncnet.embed_audio(sound.unsqueeze(1).float())
        return self.syncnet.embed_video(windows), audio

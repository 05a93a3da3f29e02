"""The audio-visual distance of eqs. 5 and 11, which stage 1 learns and stage 2 uses.

B clips, T video frames at 25 Hz, N sounds and M mouths to compare, D embedding, W projected embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from synctalklip.errors import SyncTalklipError

LEARNED = ("linear", "conv")
HEADS = ("identity", "audio_linear", "positive", *LEARNED)


class FrameProjection(nn.Module):
    """A learned F: a convolution over the frames of a clip, D to W; kernel 1 is a linear layer.

    Args:
        dim: D.
        width: W.
        kernel: frames that an output sees, odd.
        layers: 1 for a single convolution; each further one is a GELU and a linear layer.
    """

    def __init__(self, dim: int, width: int, kernel: int, layers: int):
        super().__init__()
        if kernel < 1 or kernel % 2 == 0 or layers < 1:
            raise SyncTalklipError(
                f"distance kernel {kernel}, layers {layers}: an odd kernel and 1 layer or more are needed"
            )
        rest = [nn.Sequential(nn.GELU(), nn.Conv1d(width, width, 1)) for _ in range(layers - 1)]
        self.layers = nn.Sequential(nn.Conv1d(dim, width, kernel, padding=kernel // 2), *rest)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B,T,D) -> (B,T,W); padding, (B,T) true where padded, counts as zeros, as what lies beyond a clip does."""
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[..., None], 0)
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


class AVDistance(nn.Module):
    """theta of eqs. 5 and 11: |F(a) - F(v)|_1 * tau, one class for both stages, so that they share a metric.

    The paper writes F(|a - v|_1 * tau) and calls F a linear layer. On a scalar distance that is degenerate: eq. 12
    drives its weight to infinity, eq. 5 to minus infinity. F acts on the embeddings here, as in the authors' code.

    Args:
        dim: D.
        head: F. `linear`, a linear layer D to W. `conv`, a convolution over time D to W, our extension: on the
            front-ends' output, where embeddings know of no neighbours, it gives each frame its context.
            `audio_linear`, a linear layer on the audio embedding (the authors' code). `positive`, a linear layer over
            the coordinate distances whose weights are positive and sum to D. `identity`. A free scalar is refused.
        width: W as a share of D, of linear and conv.
        shared: linear and conv have one F for sound and lips, else one a modality.
        kernels: frames that conv sees of sound and of lips.
        layers: depth of linear and conv, see `FrameProjection`.
        normalize: F takes (linear, conv: gives) embeddings of unit L2 length; without it eq. 12 has no lower bound.
        tau: scale of the distance.
        learn_tau: linear and conv learn the scale, beginning at tau.
    """

    def __init__(
        self,
        dim: int,
        head: str = "identity",
        normalize: bool = True,
        tau: float = 1.0,
        width: float = 1.0,
        shared: bool = True,
        kernels: Sequence[int] = (1, 1),
        layers: int = 1,
        learn_tau: bool = False,
    ):
        super().__init__()
        if head not in HEADS:
            raise SyncTalklipError(
                f"distance head {head!r} is none of {', '.join(HEADS)} (a free scalar head is degenerate: its "
                "weight grows without bound)"
            )
        if learn_tau and head not in LEARNED:
            raise SyncTalklipError(f"distance learn_tau: only {' and '.join(LEARNED)} heads learn their scale")
        self.head, self.normalize, self.tau = head, normalize, tau
        if head == "audio_linear":
            self.audio_linear = nn.Linear(dim, dim)
        if head == "positive":
            self.coordinate_logits = nn.Parameter(torch.zeros(dim))
        if head in LEARNED:
            self._build_projections(dim, round(width * dim), shared, (1, 1) if head == "linear" else kernels, layers)
        if learn_tau:
            self.log_tau = nn.Parameter(torch.tensor(float(tau)).log())

    def _build_projections(self, dim: int, width: int, shared: bool, kernels: Sequence[int], layers: int) -> None:
        if len(kernels) != 2 or (shared and kernels[0] != kernels[1]):
            raise SyncTalklipError(
                f"distance kernels {list(kernels)}: give one for sound and one for lips, equal where shared is true"
            )
        self.audio_projection = FrameProjection(dim, width, kernels[0], layers)
        self.video_projection = None if shared else FrameProjection(dim, width, kernels[1], layers)

    @property
    def learned(self) -> bool:
        """F could map everything to one point; eq. 5 without negatives would teach it to."""
        return self.head in LEARNED

    @property
    def scale(self) -> Tensor | float:
        """tau, learned or not."""
        return self.log_tau.exp() if hasattr(self, "log_tau") else self.tau

    def _unit(self, x: Tensor) -> Tensor:
        return functional.normalize(x.float(), dim=-1) if self.normalize else x.float()

    def project(self, x: Tensor, modality: str, padding_mask: Tensor | None = None) -> Tensor:
        """F of the embeddings of one modality, float32, outside autocast: half precision blurs the distances.

        Args:
            x: (B,T,D), whole clips, which conv looks at over time; (...,D) for the other heads.
            modality: audio or video.
            padding_mask: (B,T) bool, true where padded.

        Returns:
            (B,T,W), what `between` and `table` compare.
        """
        with torch.autocast(x.device.type, enabled=False):
            if self.head in LEARNED:
                own = self.video_projection if modality == "video" else None
                module = own or self.audio_projection
                return self._unit(module(x.to(next(module.parameters()).dtype), padding_mask))
            x = self._unit(x)
            if self.head == "audio_linear" and modality == "audio":
                return self._unit(self.audio_linear(x.to(self.audio_linear.weight.dtype)))
            if self.head == "positive":
                return x * self.coordinate_logits.softmax(0) * len(self.coordinate_logits)
            return x

    def between(self, audio: Tensor, video: Tensor) -> Tensor:
        """Distance of each pair of projected embeddings, (...,W), (...,W) -> (...)."""
        return (audio - video).abs().sum(-1) * self.scale

    def table(self, audio: Tensor, video: Tensor) -> Tensor:
        """Distance of every projected sound to every projected mouth, (...,N,W), (...,M,W) -> (...,N,M)."""
        return torch.cdist(audio, video, p=1) * self.scale

    def forward(self, audio: Tensor, video: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Distance of the sound and lips of each frame, (B,T,D) each -> (B,T)."""
        return self.between(self.project(audio, "audio", padding_mask), self.project(video, "video", padding_mask))

    def matrix(self, audio: Tensor, video: Tensor) -> Tensor:
        """`table` of embeddings, whole clips for conv: (...,N,D), (...,M,D) -> (...,N,M)."""
        return self.table(self.project(audio, "audio"), self.project(video, "video"))

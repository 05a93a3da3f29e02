"""AV-HuBERT in plain torch, with the structure and the state-dict names of the public models.

Legend: B clips, T video frames at 25 Hz, A = 104 sound values a frame, D embedding, R rows (frames) that
count in a loss, V classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synctalklip.avsyncnet import masking
from synctalklip.avsyncnet.config import FRONT_END, LAST, AVHubertConfig, assert_choice
from synctalklip.avsyncnet.frontend import AudioFrontend, VideoFrontend, scale_gradient
from synctalklip.avsyncnet.masking import FrameMasks
from synctalklip.avsyncnet.transformer import TransformerEncoder
from synctalklip.losses import cosine_logits


class PretrainOutput(NamedTuple):
    """What eq. 3 needs; lists have one entry a label set, rows are in (clip, frame) order."""

    logits_masked: list[Tensor]  # (R, V)
    targets_masked: list[Tensor] | None  # (R,)
    logits_unmasked: list[Tensor] | None  # (R', V)
    targets_unmasked: list[Tensor] | None  # (R',)
    features_pen: Tensor  # mean square of the fused features
    mask: Tensor  # (B, T) bool, True where hidden, padding excluded

    def label_sets(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Arguments of `losses.masked_prediction` for each label set; needs targets."""
        none: list[None] = [None] * len(self.logits_masked)
        assert self.targets_masked is not None
        yield from zip(
            self.logits_masked, self.targets_masked, self.logits_unmasked or none, self.targets_unmasked or none
        )


class AVHubert(nn.Module):
    """Audio-visual encoder with the heads of masked cluster prediction.

    Args:
        config: structure.
        num_classes: softmax size of each label set (clusters + 4); () builds no pre-training heads.
        final_projection: False leaves out `final_proj`, as the public fine-tuned models do.
    """

    def __init__(self, config: AVHubertConfig, num_classes: Sequence[int] = (), final_projection: bool = True):
        super().__init__()
        assert_choice("modality_fuse", config.modality_fuse, ("concat", "add"))
        assert_choice("masking_type", config.masking_type, ("input", "feature"))
        assert_choice("selection_type", config.selection_type, ("same_seq", "same_other_seq"))
        assert_choice("modality_dropout_per", config.modality_dropout_per, ("batch", "sample"))
        self.config = config
        self.num_classes = list(num_classes)
        dim = config.encoder_embed_dim
        self.feature_extractor_audio = AudioFrontend(config.audio_feat_dim, dim)
        self.feature_extractor_video = VideoFrontend(
            config.resnet_width, config.resnet_blocks, config.resnet_relu_type, dim
        )
        fused = 2 * dim if config.modality_fuse == "concat" else dim
        self.post_extract_proj = nn.Linear(fused, dim) if fused != dim else None
        self.layer_norm = nn.LayerNorm(fused)
        self.encoder = TransformerEncoder(
            config.encoder_layers,
            dim,
            config.encoder_ffn_embed_dim,
            config.encoder_attention_heads,
            conv_pos=config.conv_pos,
            conv_pos_groups=config.conv_pos_groups,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
            layerdrop=config.encoder_layerdrop,
        )
        hidden = config.audio_feat_dim if config.masking_type == "input" else dim
        self.mask_emb = nn.Parameter(torch.empty(hidden).uniform_())
        if self.num_classes:
            self.label_embs_concat = nn.Parameter(torch.empty(sum(num_classes), config.final_dim).uniform_())
        if self.num_classes and final_projection:
            heads = len(num_classes) if config.untie_final_proj else 1
            self.final_proj = nn.Linear(dim, config.final_dim * heads)

    def encode(
        self,
        audio: Tensor | None = None,
        video: Tensor | None = None,
        padding_mask: Tensor | None = None,
        layer: int | None = None,
    ) -> Tensor:
        """Embed frames; a missing modality counts as zeros behind its projection and costs nothing.

        Args:
            audio: (B, A, T) from `audio_features`, or None.
            video: (B, 1, T, 88, 88) from `normalize_roi`, or None.
            padding_mask: (B, T) bool, True where padded, or None.
            layer: 1-based; the output of this transformer layer, without the last norm.

        Returns:
            (B, T, D).
        """
        return self.encoder(self._project(self.fuse(audio, video)), padding_mask, layer)

    def encode_features(
        self,
        features: Tensor,
        padding_mask: Tensor | None = None,
        hidden: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> Tensor:
        """`encode` of video whose ResNet features, (B, T, 8 W), are known -> (B, T, D).

        Args:
            hidden: (B, T) bool, frames whose lips are hidden as in pre-training: by the mask embedding where features
                were masked, else, as that embedding is of the sound, by the zeros of a missing modality.
            windows: (B, T) int64; a frame attends to the frames of its own number alone.
        """
        lips = self.feature_extractor_video.proj(features)
        masks_features = self.config.masking_type == "feature"
        if hidden is not None and not masks_features:
            lips = lips.masked_fill(hidden[..., None], 0)
        x = self._fill(1, lips)
        if hidden is not None and masks_features:
            x = masking.mask_features(x, hidden, self.mask_emb)
        return self.encoder(x, padding_mask, windows=windows)

    def view(
        self,
        audio: Tensor | None = None,
        video: Tensor | None = None,
        padding_mask: Tensor | None = None,
        view: str = LAST,
    ) -> Tensor:
        """One modality at one place of the encoder -> (B, T, D); arguments as of `encode`.

        Args:
            view: `front_end`, the output of the modality's front-end, before the transformer; `last`, what `encode`
                returns; or the number of a layer.
        """
        return self._view(*self._one(audio, video), padding_mask, view)

    def view_of_features(self, features: Tensor, padding_mask: Tensor | None, view: str) -> Tensor:
        """`view` of video whose ResNet features, (B, T, 8 W), are known -> (B, T, D)."""
        return self._view(1, self.feature_extractor_video.proj(features), padding_mask, view)

    def views(
        self, audio: Tensor | None, video: Tensor | None, padding_mask: Tensor | None, view: str
    ) -> tuple[Tensor, Tensor]:
        """`encode` and `view` of one modality in one pass."""
        modality, features = self._one(audio, video)
        x = self._fill(modality, features)
        if view in (FRONT_END, LAST):
            last = self.encoder(x, padding_mask)
            return last, features if view == FRONT_END else last
        return self.encoder.with_layer(x, padding_mask, int(view))

    def _one(self, audio: Tensor | None, video: Tensor | None) -> tuple[int, Tensor]:
        """Which modality is there, 0 sound and 1 video, and its front-end's output (B, T, D)."""
        if audio is not None and video is None:
            return 0, self._features(self.feature_extractor_audio, audio)
        if video is not None and audio is None:
            return 1, self._features(self.feature_extractor_video, video)
        raise ValueError("a view is of sound or of video: give one of them")

    def _view(self, modality: int, features: Tensor, padding_mask: Tensor | None, view: str) -> Tensor:
        if view == FRONT_END:
            return features
        x = self._fill(modality, features)
        return self.encoder(x, padding_mask, None if view == LAST else int(view))

    def _fill(self, modality: int, features: Tensor) -> Tensor:
        """The transformer's input of one modality, the other one missing."""
        parts: list[Tensor | None] = [None, None]
        parts[modality] = features
        return self._project(self._join(parts, *features.shape[:2]))

    def forward(
        self,
        audio: Tensor | None = None,
        video: Tensor | None = None,
        padding_mask: Tensor | None = None,
        targets: Sequence[Tensor] | None = None,
        mask: bool | FrameMasks = True,
        need_unmasked: bool = False,
        generator: torch.Generator | None = None,
    ) -> PretrainOutput:
        """Pre-training pass of eq. 3: hide frames, encode, predict their clusters.

        Args:
            audio: (B, A, T) or None.
            video: (B, 1, T, 88, 88) or None; not modified.
            padding_mask: (B, T) bool, True where padded, or None.
            targets: for each label set (B, T) class ids, or None.
            mask: True draws masks, False hides nothing, or masks drawn before.
            need_unmasked: predict the frames in sight too (alpha of eq. 3 is not 0).
            generator: CPU generator of masks and modality dropout; None is torch's global one.
        """
        shape = _frame_shape(audio, video)
        if mask is True:
            mask = masking.draw_masks(self.config, shape, padding_mask, generator)
        hidden = torch.zeros(shape, dtype=torch.bool, device=self.mask_emb.device)
        if mask is not False:
            source = None if mask.source is None else mask.source.to(hidden.device)
            mask = FrameMasks(mask.audio.to(hidden.device), mask.video.to(hidden.device), source)
            hidden = masking.union(mask, audio is not None, video is not None)
            if self.config.masking_type == "input":
                audio, video = self._mask_input(audio, video, mask, generator)
        features = self.fuse(audio, video, self._draw_modalities(shape[0], generator))
        features_pen = features.float().square().mean()
        x = self._project(features)
        if mask is not False and self.config.masking_type == "feature":
            x = masking.mask_features(x, hidden, self.mask_emb)
        x = self.encoder(x, padding_mask)
        counted = torch.ones_like(hidden) if padding_mask is None else ~padding_mask
        masked = hidden & counted
        in_sight = counted & ~hidden if need_unmasked else None
        return PretrainOutput(
            self._logits(x[masked]),
            None if targets is None else [labels[masked] for labels in targets],
            None if in_sight is None else self._logits(x[in_sight]),
            None if in_sight is None or targets is None else [labels[in_sight] for labels in targets],
            features_pen,
            masked,
        )

    def fuse(self, audio: Tensor | None, video: Tensor | None, kept: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Front-ends and fusion -> (B, T, 2D), or (B, T, D) when the modalities are added.

        Args:
            kept: which clips keep their sound and their video, (B,) bool each on the CPU; None keeps all.
        """
        batch, frames = _frame_shape(audio, video)
        keep_audio, keep_video = kept if kept is not None else (None, None)
        parts = [
            self._front_end(self.feature_extractor_audio, audio, keep_audio),
            self._front_end(self.feature_extractor_video, video, keep_video),
        ]
        return self._join(parts, batch, frames)

    def _join(self, parts: Sequence[Tensor | None], batch: int, frames: int) -> Tensor:
        present = next((part for part in parts if part is not None), self.mask_emb)
        zeros = present.new_zeros(batch, frames, self.config.encoder_embed_dim)
        whole = [zeros if part is None else part for part in parts]
        return torch.cat(whole, -1) if self.config.modality_fuse == "concat" else whole[0] + whole[1]

    def _front_end(self, module: nn.Module, x: Tensor | None, keep: Tensor | None) -> Tensor | None:
        """Features (B, T, D) of the kept clips, zeros for the others; None when no clip is left."""
        if x is None or (keep is not None and not keep.any()):
            return None
        if keep is None or keep.all():
            return self._features(module, x)
        rows = keep.nonzero()[:, 0].to(x.device)
        features = self._features(module, x[rows])
        return features.new_zeros(len(x), *features.shape[1:]).index_copy(0, rows, features)

    def _features(self, module: nn.Module, x: Tensor) -> Tensor:
        """(B, T, D) of a front-end, its gradient scaled."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.feature_grad_mult > 0):
            features = module(x)
        return scale_gradient(features, self.config.feature_grad_mult) if features.requires_grad else features

    def _project(self, features: Tensor) -> Tensor:
        x = self.layer_norm(features)
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        return F.dropout(x, self.config.dropout_input, self.training)

    def _mask_input(
        self, audio: Tensor | None, video: Tensor | None, mask: FrameMasks, generator: torch.Generator | None
    ) -> tuple[Tensor | None, Tensor | None]:
        if audio is not None:
            audio = masking.mask_audio(audio, mask.audio, self.mask_emb)
        if video is not None and mask.source is not None:
            video = masking.mask_video(video, mask.source)
        elif video is not None:
            video = masking.mask_video_from_other(video, mask.video, generator)
        return audio, video

    def _draw_modalities(self, batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor] | None:
        """Modality dropout: which clips keep their sound, and which their video."""
        if not self.training or not self.config.modality_dropout:
            return None
        draws = torch.rand(2, 1 if self.config.modality_dropout_per == "batch" else batch, generator=generator)
        drop = draws[0] < self.config.modality_dropout
        drop_audio = drop & (draws[1] < self.config.audio_dropout)
        return (~drop_audio).expand(batch), (drop_audio | ~drop).expand(batch)

    def _logits(self, rows: Tensor) -> list[Tensor]:
        """Cosines over the temperature of (R, D) rows with the classes of each label set."""
        projected = self.final_proj(rows).float()
        sets = len(self.num_classes)
        parts = projected.chunk(sets, -1) if self.config.untie_final_proj else [projected] * sets
        codebooks = self.label_embs_concat.float().split(self.num_classes)
        # Cosines divided by 0.1 need more digits than half precision has.
        with torch.autocast(rows.device.type, enabled=False):
            return [cosine_logits(*pair, self.config.logit_temp) for pair in zip(parts, codebooks)]


def _frame_shape(audio: Tensor | None, video: Tensor | None) -> tuple[int, int]:
    """(B, T) of the input that is there."""
    shapes = {(len(x), x.shape[2]) for x in (audio, video) if x is not None}
    if len(shapes) != 1:
        raise ValueError(f"clips x frames of sound and video are {sorted(shapes) or 'both missing'}: one is needed")
    return shapes.pop()

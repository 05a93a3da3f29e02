"""AV-SyncNet: AV-HuBERT as encoder, a text decoder, and the audio-visual distance, in plain torch.

Legend: B clips, T video frames at 25 Hz, D embedding, L tokens, V symbols.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn

from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig, assert_view
from synctalklip.avsyncnet.decoder import DecoderState, TextDecoder
from synctalklip.avsyncnet.hubert import AVHubert, PretrainOutput
from synctalklip.distance import AVDistance
from synctalklip.errors import SyncTalklipError

__all__ = ["AVHubert", "AVHubertConfig", "AVSyncNet", "AVSyncNetConfig", "PretrainOutput", "prepare_for_training"]


class SpeechEncoder(nn.Module):
    """Holds the encoder under its public name, `encoder.w2v_model`."""

    def __init__(self, config: AVSyncNetConfig):
        super().__init__()
        self.w2v_model = AVHubert(config, config.num_classes, final_projection=False)

    def forward(
        self, audio: Tensor | None = None, video: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        return self.w2v_model.encode(audio, video, padding_mask)


class AVSyncNet(nn.Module):
    """Lip reader (and listener) whose audio and video embeddings of one clip are drawn together.

    `encoder_class` and `decoder_class` can be replaced in a subclass that adds an interface to them.
    """

    encoder_class: type[SpeechEncoder] = SpeechEncoder
    decoder_class: type[TextDecoder] = TextDecoder

    def __init__(self, config: AVSyncNetConfig):
        super().__init__()
        dim = config.encoder_embed_dim
        self.config = config
        self.encoder = self.encoder_class(config)
        self.decoder = self.decoder_class.from_config(config, dim)
        assert_view(config.distance_view, config.encoder_layers)
        self.distance = AVDistance(dim, **config.distance())

    def encode(
        self,
        audio: Tensor | None = None,
        video: Tensor | None = None,
        padding_mask: Tensor | None = None,
        layer: int | None = None,
    ) -> Tensor:
        """Embed frames -> (B, T, D); see `AVHubert.encode`."""
        return self.encoder.w2v_model.encode(audio, video, padding_mask, layer)

    def decode(
        self,
        prev_tokens: Tensor,
        embeddings: Tensor,
        padding_mask: Tensor | None = None,
        state: DecoderState | None = None,
    ) -> Tensor:
        """Logits (B, L, V) of the next token; see `TextDecoder.forward`."""
        return self.decoder(prev_tokens, embeddings, padding_mask, state)

    def metric_view(
        self, audio: Tensor | None = None, video: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """What the distance sees of one modality, (B, T, D), with no more of the encoder than that takes."""
        return self.encoder.w2v_model.view(audio, video, padding_mask, self.config.distance_view)

    def heard(self, audio: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The sound (B, 104, T) as the distance compares it, (B, T, W)."""
        return self.distance.project(self.metric_view(audio=audio, padding_mask=padding_mask), "audio", padding_mask)

    def seen(self, video: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The lips (B, 1, T, 88, 88) as the distance compares them, (B, T, W)."""
        return self.distance.project(self.metric_view(video=video, padding_mask=padding_mask), "video", padding_mask)


def prepare_for_training(model: Any, channels_last: bool, compiled: bool, backend: str = "inductor") -> None:
    """Memory layout and compilation of an encoder, in place; no parameter changes its name or value.

    Args:
        model: an encoder with `feature_extractor_video.resnet` and `encoder.layers`.
        channels_last: keep the ResNet's weights in the layout in which its images are anyway, instead of
            bringing them into it at every step.
        compiled: `torch.compile` of the ResNet's trunk and of each transformer layer, for any number of frames.
        backend: of `torch.compile`.

    Raises:
        SyncTalklipError: `compiled` is asked for on a machine without a C++ compiler.
    """
    trunk = model.feature_extractor_video.resnet.trunk
    if channels_last:
        trunk.to(memory_format=torch.channels_last)
        if distributed.is_available() and distributed.is_initialized():
            # fairseq's legacy_ddp exchanges flat views of the gradients, which this layout has not.
            for parameter in trunk.parameters():
                parameter.register_post_accumulate_grad_hook(_flatten_gradient)
    if not compiled:
        return
    if backend == "inductor":
        _assert_compiler()
    trunk.compile(backend=backend, dynamic=True)
    for layer in model.encoder.layers:
        layer.compile(backend=backend, dynamic=True)


def _flatten_gradient(parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad = parameter.grad.contiguous()


def _assert_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise SyncTalklipError(
            "compile needs a C++ compiler: install g++ or clang++, or set compile to false"
        ) from None

"""AV-SyncNet: AV-HuBERT as encoder, a text decoder, and the audio-visual distance, in plain torch.

Legend: B clips, T video frames at 25 Hz, D embedding, L tokens, V symbols.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig, assert_choice
from synctalklip.avsyncnet.decoder import DecoderState, TextDecoder
from synctalklip.avsyncnet.hubert import AVHubert, PretrainOutput
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import AVDistance

__all__ = ["AVHubert", "AVHubertConfig", "AVSyncNet", "AVSyncNetConfig", "PretrainOutput", "prepare_for_training"]


class EmbeddingAlign(nn.Module):
    """Convolutions over time before the distance; (B, T, D) -> (B, T, D).

    A large kernel lets the distance look at long stretches, a small one at single frames. Only L_av trains
    these weights, and free ones would answer it with a constant: each coordinate has taps of its own that
    are positive and sum to 1, which can smooth over time but not erase.
    """

    def __init__(self, dim: int, kernel: int, layers: int):
        super().__init__()
        self.taps = nn.ParameterList(nn.Parameter(torch.zeros(dim, 1, kernel)) for _ in range(layers))

    def forward(self, embeddings: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        x = embeddings.transpose(1, 2)
        for taps in self.taps:
            if padding_mask is not None:
                x = x.masked_fill(padding_mask[:, None], 0)
            x = F.conv1d(x, taps.softmax(-1).to(x.dtype), padding="same", groups=x.shape[1])
        return x.transpose(1, 2)


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
        assert_choice("align", config.align, ("identity", "conv"))
        dim = config.encoder_embed_dim
        self.config = config
        self.encoder = self.encoder_class(config)
        self.decoder = self.decoder_class.from_config(config, dim)
        self.distance = AVDistance(dim, config.distance_head, config.distance_normalize, config.distance_tau)
        self.align = EmbeddingAlign(dim, config.align_kernel, config.align_layers) if config.align == "conv" else None

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

    def aligned(self, embeddings: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """What the distance sees of embeddings (B, T, D): they themselves, or the convolved ones."""
        return embeddings if self.align is None else self.align(embeddings, padding_mask)

    def av_distance(self, audio: Tensor, video: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Eq. 5 before its mean: distance (B, T) of the embeddings (B, T, D) of sound and video."""
        return self.distance(self.aligned(audio, padding_mask), self.aligned(video, padding_mask))


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

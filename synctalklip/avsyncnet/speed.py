"""Options that change how fast the encoder trains and nothing else: memory layout and compilation.

Neither changes a parameter's name or value, so checkpoints are the same with and without them.
"""

import torch
from torch import Tensor, distributed, nn

from synctalklip.errors import SyncTalklipError


def prepare_for_training(model: nn.Module, channels_last: bool, compiled: bool, backend: str = "inductor") -> None:
    """Set a model up in place.

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

"""The discriminator: is the lower half of a face real? (equations 8 to 10; Sxjdwang/TalkLip, models/talklip.py)

Layers and state-dict names are those of Wav2Lip's and TalkLip's. It returns logits: a sigmoid followed by a binary
cross-entropy has no gradient left once a logit passes 17, which is how the published training diverged.

Legend: N images, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from synctalklip.generator.unet import UPPER_ROWS, scale_channels

_SLOPE = 0.01

# (channels, kernel, stride, padding) of the convolutions of each block; sizes 48x96, 48x48, 24, 12, 6, 3, 1.
_LAYERS: tuple[tuple[tuple, ...], ...] = (
    ((32, 7, 1, 3),),
    ((64, 5, (1, 2), 2), (64, 5, 1, 2)),
    ((128, 5, 2, 2), (128, 5, 1, 2)),
    ((256, 5, 2, 2), (256, 5, 1, 2)),
    ((512, 3, 2, 1), (512, 3, 1, 1)),
    ((512, 3, 2, 1), (512, 3, 1, 1)),
    ((512, 3, 1, 0), (512, 1, 1, 0)),
)


class PlainConv(nn.Module):
    """Convolution and leaky ReLU, no normalisation; (N,C,H,W) -> (N,C',H',W')."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int | tuple[int, int], padding: int):
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return F.leaky_relu(self.conv_block(x), _SLOPE, inplace=True)


class Discriminator(nn.Module):
    """Logits of "real" from the lower half of each face.

    Args:
        width: factor on the number of channels; 1.0 is the public structure.
        pairs: whether each size keeps its second convolution, as in the public structure; without them a step
            on a CPU is about twice as fast.
        spectral_norm: divide every weight by its largest singular value (Miyato et al. 2018), which bounds how
            steep the logits can get. The state dict then has the names of torch's parametrisation.
    """

    def __init__(self, width: float = 1.0, pairs: bool = True, spectral_norm: bool = False):
        super().__init__()
        blocks = []
        cin = 3
        for i, layers in enumerate(_LAYERS):
            kept = layers if pairs or i == len(_LAYERS) - 1 else layers[:1]
            convolutions = []
            for channels, kernel, stride, padding in kept:
                cout = scale_channels(channels, width)
                convolutions.append(PlainConv(cin, cout, kernel, stride, padding))
                cin = cout
            blocks.append(nn.Sequential(*convolutions))
        self.face_encoder_blocks = nn.ModuleList(blocks)
        self.binary_pred = nn.Sequential(nn.Conv2d(cin, 1, 1))
        if spectral_norm:
            for layer in [module for module in self.modules() if isinstance(module, nn.Conv2d)]:
                parametrizations.spectral_norm(layer)

    def forward(self, faces: Tensor) -> Tensor:
        """Faces (N,3,96,96) in 0..1 -> logits (N,1); the upper half is not looked at."""
        return self.score(faces)

    def score(self, faces: Tensor) -> Tensor:
        """`forward` without what may be wrapped around it (mixed precision, a compiler), for second derivatives."""
        x = faces[:, :, UPPER_ROWS:]
        for block in self.face_encoder_blocks:
            x = block(x)
        return self.binary_pred(x).flatten(1)


@contextmanager
def readonly(module: nn.Module) -> Iterator[None]:
    """Nothing of `module` changes inside: no gradients, no buffers; gradients still pass through it to its input."""
    states, mode = [parameter.requires_grad for parameter in module.parameters()], module.training
    module.requires_grad_(False)
    # Spectral norm refines its singular vectors in every training pass.
    module.train(False)
    try:
        yield
    finally:
        module.train(mode)
        for parameter, state in zip(module.parameters(), states, strict=True):
            parameter.requires_grad_(state)

"""What a run is judged by while it trains: the same frames of every validation clip, each clip once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from synctalklip import losses
from synctalklip.generator.objective import Painted
from synctalklip.generator.unet import UPPER_ROWS
from synctalklip.metrics.image import psnr, ssim

Batch = Mapping[str, Any]


@torch.no_grad()
def validate(
    batches: Iterable[Batch],
    paint: Callable[[Batch], Painted],
    terms: Callable[[Painted], dict[str, Tensor]],
    show: Callable[[Batch, Painted], None],
) -> dict[str, float]:
    """Terms and picture scores, means over the painted frames.

    Args:
        batches: of the validation clips.
        paint: runs the generator.
        terms: the terms of the objective.
        show: is given the first batch.
    """
    sums: dict[str, float] = defaultdict(float)
    frames = 0
    for number, batch in enumerate(batches):
        painted = paint(batch)
        # The limit is for training; validation looks at every clip.
        painted.clips = None
        scalars = terms(painted)
        # Inference pastes the painted half alone, so pictures are measured as it shows them.
        shown = torch.cat([painted.target[:, :, :UPPER_ROWS], painted.generated[:, :, UPPER_ROWS:]], dim=2)
        scalars["l1"] = losses.reconstruction(shown, painted.target)
        scalars["psnr"] = psnr(shown, painted.target).mean()
        scalars["ssim"] = ssim(shown, painted.target).mean()
        count = len(painted.target)
        frames += count
        for name, value in scalars.items():
            sums[name] += float(value) * count
        if number == 0:
            show(batch, painted)
    return {name: value / frames for name, value in sums.items()}

"""Pictures of a training: each column shows what its name says."""

import numpy as np
import torch

from synctalklip.generator.validation import AMPLIFIED, sample_panel


def test_columns_of_a_panel():
    target = torch.full((3, 96, 96, 3), 100, dtype=torch.uint8)
    identity = torch.full((3, 96, 96, 3), 30, dtype=torch.uint8)
    generated = torch.full((3, 3, 96, 96), 110 / 255)
    panel = sample_panel(target, identity, generated, count=2)
    assert panel.shape == (2 * 96, 5 * 96, 3)
    columns = np.split(panel, 5, axis=1)
    shown = [(int(column[10, 10, 0]), int(column[90, 10, 0])) for column in columns]
    # Target, target without its lower half, identity, generated, and ten grey levels of difference enlarged.
    assert shown == [(100, 100), (100, 0), (30, 30), (110, 110), (10 * AMPLIFIED, 10 * AMPLIFIED)]

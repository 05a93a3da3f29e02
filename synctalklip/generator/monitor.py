"""What is measured of a training of stage 2, where it is written, and warnings when it has stopped to learn.

Legend: N painted frames.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from synctalklip import losses
from synctalklip.errors import SyncTalklipError
from synctalklip.progress import Stopwatch

log = logging.getLogger(__name__)


class Meters:
    """Sums of scalars and how often each came.

    Args:
        device: where the scalars are.
        join: means over the processes of a vector, so that all of them decide alike.
    """

    def __init__(self, device: torch.device, join: Callable[[Tensor], Tensor] = lambda values: values):
        self.device, self._join = device, join
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Take in the scalars of a step; not every step has them all."""
        for name, value in scalars.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means since the last `clear`; the one point where the device is waited for."""
        if not self._sums:
            return {}
        values = self._join(torch.stack(list(self._sums.values()))).tolist()
        return {name: value / self._counts[name] for name, value in zip(self._sums, values)}

    def clear(self) -> None:
        """Start anew."""
        self._sums, self._counts = {}, {}

    def state(self) -> dict[str, tuple[float, int]]:
        """Plain values for `restore`, exact."""
        return {name: (float(value), self._counts[name]) for name, value in self._sums.items()}

    def restore(self, state: Mapping[str, tuple[float, int]]) -> None:
        """Go on from what `state` gave."""
        self._sums = {name: torch.tensor(value, device=self.device) for name, (value, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}


class RunLog:
    """Values of a run in TensorBoard, in the log and beside the progress bar.

    Args:
        tensorboard: where scalars and pictures go.
        bar: progress in steps.
    """

    def __init__(self, tensorboard: SummaryWriter, bar: tqdm):
        self.tensorboard, self.bar = tensorboard, bar

    def values(self, split: str, step: int, values: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Note values of "train" or "valid"; those of terms also times the weight of the term."""
        for name, value in values.items():
            self.tensorboard.add_scalar(f"{split}/{name}", value, step)
            if name in weights:
                self.tensorboard.add_scalar(f"{split}_weighted/{name}", weights[name] * value, step)
        for name, weight in weights.items():
            self.tensorboard.add_scalar(f"weights/{name}", weight, step)
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.info("step %d %s: %s", step, split, text)
        self.bar.set_postfix_str(text[:80])

    def speed(self, step: int, watch: Stopwatch, images: int) -> None:
        """Note images a second, and the share of the time in which the steps waited for their clips.

        Args:
            step: updates so far.
            watch: whose phase "pause" does not count, and whose phase "data" is waiting.
            images: painted since it was started.
        """
        spent = watch.seconds()
        steps = watch.total() - spent.get("pause", 0.0)
        rate, share = images / steps, spent["data"] / steps
        self.tensorboard.add_scalar("speed/images_per_second", rate, step)
        self.tensorboard.add_scalar("speed/data_share", share, step)
        log.info("step %d: %.1f images/s, %.0f %% of the time waiting for data", step, rate, 100 * share)

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Show a picture (H,W,3) uint8 RGB."""
        self.tensorboard.add_image(name, pixels, step, dataformats="HWC")


def chance_loss(form: str) -> float:
    """Loss of a discriminator that gives every face the same, best logit."""
    candidates = (torch.full((1, 1), value) for value in (0.0, 0.5))
    return min(float(losses.adversarial_discriminator(logit, logit, form)) for logit in candidates)


def discriminator_scalars(real: Tensor, fake: Tensor, form: str) -> dict[str, Tensor]:
    """What is watched of the discriminator's logits, (N,1) of real and of generated faces."""
    # Least squares draws them to 1 and 0, every other form apart from 0.
    boundary = 0.5 if form == "lsgan" else 0.0
    right_real, right_fake = (real > boundary).float().mean(), (fake < boundary).float().mean()
    both = torch.cat([real, fake]).detach()
    return {
        "d_accuracy": (right_real + right_fake) / 2,
        "d_accuracy_real": right_real,
        "d_accuracy_fake": right_fake,
        "d_logit_real": real.mean(),
        "d_logit_fake": fake.mean(),
        "d_logit_min": both.amin(),
        "d_logit_max": both.amax(),
    }


@torch.no_grad()
def mouth_motion(faces: Tensor, clip: Tensor, frame: Tensor, counted: Tensor) -> Tensor:
    """Mean change of the mouth from one painted frame to the next of the same window.

    Args:
        faces: (N,3,H,W) in 0..1.
        clip: (N,) row of each frame in the batch.
        frame: (N,) its place in the clip.
        counted: (N,) bool, frames that count.

    Returns:
        Scalar; 0 where no two frames follow each other.
    """
    follows = (clip[1:] == clip[:-1]) & (frame[1:] == frame[:-1] + 1) & counted[1:] & counted[:-1]
    mouth = losses.cut(faces, "mouth").float()
    change = (mouth[1:] - mouth[:-1]).abs().flatten(1).mean(1)
    return (change * follows).sum() / follows.sum().clamp(min=1)


class CollapseMonitor:
    """Warns, once a kind, when a run has stopped to learn; says when it should go back to a good state.

    Args:
        patience: a condition must hold at so many looks in a row; None switches the monitor off.
        chance: the discriminator sees no difference when its loss is within this share of guessing.
        margin: it is perfect and saturated when it is always right by more than this many logits.
        motion: the painted mouth stands still when it moves less than this share of what the real one does.
        rewinds: so many times at most a run goes back to its last good state.
        d_lr_factor: factor on the discriminator's learning rate, each time it does.
        form: of the adversarial loss.
    """

    def __init__(
        self,
        patience: int | None,
        chance: float,
        margin: float,
        motion: float,
        rewinds: int,
        d_lr_factor: float,
        form: str,
    ):
        if patience is not None and patience < 1:
            raise SyncTalklipError(f"trainer.monitor.patience is {patience}; at least 1, or null for no monitor")
        if rewinds and patience is None:
            raise SyncTalklipError("trainer.monitor.rewinds needs a monitor; set trainer.monitor.patience")
        self.patience, self.chance, self.margin, self.motion = patience, chance, margin, motion
        self.rewinds, self.d_lr_factor = rewinds, d_lr_factor
        self._guessing = chance_loss(form)
        self._held: dict[str, int] = {}
        self._warned: list[str] = []
        self.rewound = 0

    @property
    def healthy(self) -> bool:
        """No condition held at the last look."""
        return not any(self._held.values())

    @property
    def may_rewind(self) -> bool:
        """Whether the run may go back once more."""
        return self.rewound < self.rewinds

    @property
    def d_lr_scale(self) -> float:
        """Factor on the discriminator's learning rate."""
        return self.d_lr_factor**self.rewound

    def look(self, means: Mapping[str, float]) -> list[str]:
        """Take in the means since the last look.

        Returns:
            A sentence for each alarm that is new.
        """
        if self.patience is None:
            return []
        found = self._conditions(means)
        self._held = {kind: self._held.get(kind, 0) + 1 for kind in found}
        due = [kind for kind in found if self._held[kind] >= self.patience and kind not in self._warned]
        self._warned += due
        return [found[kind] for kind in due]

    def _conditions(self, means: Mapping[str, float]) -> dict[str, str]:
        get = {name: means.get(name, math.nan) for name in ("d_loss", "motion", "motion_target")}
        found = {}
        if get["d_loss"] >= (1 - self.chance) * self._guessing:
            found["no_signal"] = (
                f"the discriminator's loss is that of guessing ({get['d_loss']:.3f} of {self._guessing:.3f}), so the "
                "adversarial term teaches nothing: raise optim.discriminator.lr, or lower loss.lambda_adv"
            )
        right = min(means.get("d_accuracy_real", math.nan), means.get("d_accuracy_fake", math.nan))
        apart = means.get("d_logit_real", math.nan) - means.get("d_logit_fake", math.nan)
        if right >= 0.999 and apart > self.margin:
            found["saturated"] = (
                f"the discriminator is always right, by {apart:.1f} logits, and the generator cannot follow it: lower "
                "optim.discriminator.lr, or set loss.adversarial.r1 or discriminator.spectral_norm"
            )
        if get["motion"] < self.motion * get["motion_target"]:
            found["frozen"] = (
                f"the painted mouth stands still (it moves by {get['motion']:.2g} a frame, the real one by "
                f"{get['motion_target']:.2g}): the speech does not reach it; raise loss.lambda_lip or loss.lambda_cav"
            )
        return found

    def rewind(self) -> None:
        """Note that the run goes back to its last good state."""
        self.rewound += 1
        self._held, self._warned = {}, []

    def state(self) -> dict[str, Any]:
        """Plain values for `restore`."""
        return {"held": self._held, "warned": self._warned, "rewound": self.rewound}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._held, self._warned = dict(state["held"]), list(state["warned"])
        self.rewound = state["rewound"]

"""The two players of stage 2 and one step of each (paper section 3.3, equations 7 to 13).

Legend: B clips, T video frames at 25 Hz, N painted frames, D embedding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import set_seed
from torch import Tensor, nn

from synctalklip import checkpoint, losses
from synctalklip.avsyncnet.expert import Expert, load_expert
from synctalklip.device import Precision, choose_device, choose_precision, record_precision
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.discriminator import readonly
from synctalklip.generator.frozen import Frozen
from synctalklip.generator.guard import FiniteGuard
from synctalklip.generator.monitor import CollapseMonitor, critic_scalars
from synctalklip.generator.networks import build_networks
from synctalklip.generator.objective import Objective, Painted
from synctalklip.generator.optim import learning_rate_factor, set_learning_rate
from synctalklip.generator.schedule import EncoderSwitch
from synctalklip.generator.state import StateFolder
from synctalklip.generator.unet import generator_input, to_unit
from synctalklip.syncnet.expert import SyncExpert

Batch = dict[str, Any]


class Players:
    """Generator and discriminator with their optimisers, the frozen experts, and the rules of the game.

    Args:
        config: the composed config of scripts/train_generator.py, in plain containers.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.config, self.options = config, config["trainer"]
        self.output = Path(config["run"]["dir"])
        if self.options["threads"]:
            torch.set_num_threads(self.options["threads"])
        set_seed(config["seed"])
        self.switch = EncoderSwitch(**config["audio_encoder"]["unfreeze"])
        self.folder = StateFolder(self.output / "checkpoints" / "last")
        self.precision = self._precision()
        self.accelerator = self._accelerator()
        device = self.accelerator.device
        self.expert: Expert = load_expert(config["expert"]["path"]).to(device)
        self.expert_sha256 = checkpoint.file_hash(config["expert"]["path"])
        _assert_align(self.expert, config["expert"])
        networks = build_networks(config, self.expert, self.accelerator)
        self.generator, self.painter, self.average = networks.generator, networks.painter, networks.average
        self.critic, self.discriminator = networks.critic, networks.discriminator
        self.g_optimizer, self.d_optimizer = networks.g_optimizer, networks.d_optimizer
        self.sync_expert = self._load_sync_expert(device)
        self.objective = Objective(config["loss"], self.expert, self.critic, self.sync_expert)
        self.frozen = Frozen(self.expert, self.options["frozen_mb"]) if self.options["frozen_mb"] else None
        self.monitor = CollapseMonitor(**self.options["monitor"], form=config["loss"]["adversarial"]["form"])
        advice = f"Lower optim.*.lr or set optim.*.clip; the last save is in {self.output / 'checkpoints'}"
        self.guard = FiniteGuard(at_once=device.type == "cpu", advice=advice)
        self.step = 0

    def _precision(self) -> Precision:
        """Chosen by the device at the beginning; a run that goes on keeps it."""
        begun = (self.folder.read() or {}).get("precision")
        device = choose_device("cpu" if self.options["cpu"] else "auto")
        chosen = choose_precision(self.options["precision"], device, begun)
        if PartialState(cpu=self.options["cpu"]).is_main_process:
            record_precision(chosen, "trainer.precision", self.output)
        return chosen

    def _accelerator(self) -> Accelerator:
        # Steps before the encoder learns do not use its parameters, nor those of a layer that is dropped.
        trainable = self.config["audio_encoder"]["trainable"]
        unused = trainable == "all" or (trainable != "none" and not self.switch.reach(0))
        distributed = DistributedDataParallelKwargs(find_unused_parameters=unused)
        return Accelerator(
            mixed_precision=self.precision.mixed_precision, cpu=self.options["cpu"], kwargs_handlers=[distributed]
        )

    def _load_sync_expert(self, device: torch.device) -> SyncExpert | None:
        if self.config["loss"]["lambda_sync"] == 0:
            return None
        path = self.config["syncnet"]["path"]
        if path is None:
            raise SyncTalklipError("loss.lambda_sync needs a SyncNet that no table judges by; give syncnet.path=...")
        return SyncExpert(path).to(device)

    def paint(self, batch: Batch, painter: nn.Module | None = None) -> Painted:
        """Run the generator, or another `painter`, on a batch that is on the device."""
        faces = generator_input(batch["target"], batch["identity"])
        if self.options["channels_last"]:
            faces = faces.contiguous(memory_format=torch.channels_last)
        generated, speech = (painter or self.painter)(
            faces, batch["audio"], batch["padding_mask"], batch["clip"], batch["frame"], self._known_speech(batch)
        )
        clips = self.options["expert_clips"]
        return Painted(generated.float(), to_unit(batch["target"]), speech, batch, self.expert, clips, self.frozen)

    def _known_speech(self, batch: Batch) -> Tensor | None:
        """Embeddings of the generator's own encoder while it does not learn, (B,T,D)."""
        encoder = self.generator.audio_encoder
        if self.frozen is None or not (encoder.held or encoder.learns_nothing):
            return None
        with self.accelerator.autocast():
            return self.frozen.own_sound(encoder, batch)

    def generator_step(self, batch: Batch) -> tuple[Painted, dict[str, Tensor]]:
        """Update the generator (equation 13); the discriminator gets no gradient."""
        encoder = self.generator.audio_encoder
        if encoder.held == self.switch.reach(self.step):
            encoder.hold(not encoder.held)
            if self.frozen is not None:
                self.frozen.forget_own_sound()
        painted = self.paint(batch)
        weights = self.objective.weights_at(self.step)
        with readonly(self.critic), self.accelerator.autocast():
            terms = self.objective.terms(painted, weights)
        total = losses.weighted_sum(terms, weights)
        norm = self._update(self.g_optimizer, self.painter, "generator", total, terms)
        if self.average is not None:
            self.average.update(self.step + 1)
        return painted, {**terms, "total": total, "g_grad_norm": norm}

    def discriminator_step(self, painted: Painted) -> dict[str, Tensor]:
        """Update the discriminator (equation 9) on real faces and on fakes that are cut from their graph."""
        options = self.config["loss"]["adversarial"]
        if "adv" not in self.objective.weights or self.step < options["critic_start"]:
            return {}
        faces = torch.cat([painted.target, painted.generated.detach()])
        real, fake = self.discriminator(faces).float().chunk(2)
        loss = losses.adversarial_discriminator(real, fake, options["form"])
        scalars = {"d_loss": loss}
        if options["r1"] and self.step % options["r1_every"] == 0:
            scalars["d_r1"] = self._gradient_penalty(painted.target)
            # Paid for the steps in between, too (Karras et al. 2020).
            loss = loss + options["r1"] / 2 * options["r1_every"] * scalars["d_r1"]
        norm = self._update(self.d_optimizer, self.discriminator, "discriminator", loss, scalars)
        return scalars | critic_scalars(real, fake, options["form"]) | {"d_grad_norm": norm}

    def _gradient_penalty(self, faces: Tensor) -> Tensor:
        faces = faces.detach().requires_grad_()
        with torch.autocast(faces.device.type, enabled=False):
            return losses.gradient_penalty(self.critic.score(faces), faces)

    def _update(
        self, optimizer: Any, model: nn.Module, player: str, loss: Tensor, terms: Mapping[str, Tensor]
    ) -> Tensor:
        """Step one player; returns the length of its gradient before clipping."""
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        clip = self.config["optim"][player]["clip"]
        if clip:
            norm = self.accelerator.clip_grad_norm_(model.parameters(), clip)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        self.guard.admit(optimizer.optimizer, self.step, loss, norm, terms)
        factor = learning_rate_factor(self.step, self.options["steps"], **self.config["optim"]["schedule"])
        set_learning_rate(optimizer, factor * (self.monitor.d_lr_scale if player == "discriminator" else 1.0))
        optimizer.step()
        return norm


def _assert_align(expert: Expert, options: Mapping[str, Any]) -> None:
    align = expert.model.config.align
    if align != options["align"]:
        raise SyncTalklipError(
            f"{options['path']}: was trained with align '{align}', this variant is about '{options['align']}' "
            "(expert.align); variant=conv goes with AV-SyncNet(conv), the others with one without a convolution"
        )

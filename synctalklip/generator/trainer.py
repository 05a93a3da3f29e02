"""Training of the generator (stage 2, paper section 3.3) on Hugging Face accelerate.

One linear loop: the generator steps with the discriminator read-only, then the discriminator steps on the detached
fakes. Every batch is a function of (seed, step), so the step number is the whole position of a run.

Legend: B clips, T video frames at 25 Hz, N painted frames, D embedding.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from synctalklip import checkpoint, losses
from synctalklip.avsyncnet.expert import Expert, load_expert
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.discriminator import Discriminator, readonly
from synctalklip.generator.loaders import StageTwoData
from synctalklip.generator.model import TalkingFaceGenerator, save_generator
from synctalklip.generator.objective import Objective, Painted
from synctalklip.generator.optim import adam, learning_rate_factor, set_learning_rate, set_settings, settings_of
from synctalklip.generator.panels import sample_panel, write_panel
from synctalklip.generator.state import StateFolder
from synctalklip.generator.unet import UPPER_ROWS, generator_input, to_unit
from synctalklip.metrics.image import psnr, ssim

log = logging.getLogger(__name__)

Batch = dict[str, Any]
PRECISIONS = {"fp32": "no", "bf16": "bf16"}


class PaintStep(nn.Module):
    """Sound and faces of a batch to painted faces, in one forward call, as mixed precision and DDP want it."""

    def __init__(self, generator: TalkingFaceGenerator):
        super().__init__()
        self.generator = generator

    def forward(
        self, faces: Tensor, audio: Tensor, padding_mask: Tensor, clip: Tensor, frame: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Paint the frames (`clip`, `frame`), (N,) each.

        Returns:
            Painted faces (N,3,96,96) and speech embeddings of all frames (B,T,D).
        """
        speech = self.generator.encode_speech(audio, padding_mask)
        return self.generator(faces, speech[clip, frame]), speech


class Trainer:
    """A run of stage 2.

    Args:
        config: the composed config of scripts/train_generator.py, in plain containers.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.config, self.options = config, config["trainer"]
        self.output = Path(config["run"]["dir"])
        if self.options["threads"]:
            torch.set_num_threads(self.options["threads"])
        set_seed(config["seed"])
        precision = self.options["precision"]
        if precision not in PRECISIONS:
            raise SyncTalklipError(f"trainer.precision is '{precision}'; use one of {', '.join(PRECISIONS)}")
        self.accelerator = Accelerator(mixed_precision=PRECISIONS[precision], cpu=self.options["cpu"])
        self.expert: Expert = load_expert(config["expert"]["path"]).to(self.accelerator.device)
        self.expert_sha256 = checkpoint.file_hash(config["expert"]["path"])
        self.data = StageTwoData(config, self.expert, self.accelerator.process_index, self.accelerator.num_processes)
        self._build_models()
        self.objective = Objective(config["loss"], self.expert, self.critic)
        self.folder = StateFolder(self.output / "checkpoints" / "last")
        self.step = 0

    # -- building --------------------------------------------------------------------------------------------------

    def _build_models(self) -> None:
        config, options = self.config, self.options
        encoder = config["audio_encoder"]
        generator = TalkingFaceGenerator(
            self.expert.encoder_config, **config["generator"], roi_mode=self.expert.roi_mode
        )
        generator.audio_encoder.w2v_model.load_state_dict(self.expert.encoder.state_dict())
        generator.audio_encoder.freeze(encoder["trainable"], encoder["layers"])
        critic = Discriminator(**config["discriminator"])
        layout = torch.channels_last if options["channels_last"] else torch.contiguous_format
        self.generator, self.critic = generator, critic.to(memory_format=layout)
        for name, module in generator.named_children():
            if name != "audio_encoder":
                module.to(memory_format=layout)
        optim = config["optim"]
        heard = [p for p in generator.audio_encoder.parameters() if p.requires_grad]
        drawn = [p for name, p in generator.named_parameters() if not name.startswith("audio_encoder.")]
        groups = [{"params": drawn, "scale": 1.0}, {"params": heard, "scale": encoder["lr_scale"]}]
        g_optimizer = adam([group for group in groups if group["params"]], optim["generator"])
        d_optimizer = adam(critic.parameters(), optim["discriminator"])
        prepared = self.accelerator.prepare(PaintStep(generator), critic, g_optimizer, d_optimizer)
        self.painter, self.discriminator, self.g_optimizer, self.d_optimizer = prepared

    # -- one step --------------------------------------------------------------------------------------------------

    def paint(self, batch: Batch) -> Painted:
        """Run the generator on a batch that is on the device."""
        faces = generator_input(batch["target"], batch["identity"])
        if self.options["channels_last"]:
            faces = faces.contiguous(memory_format=torch.channels_last)
        generated, speech = self.painter(faces, batch["audio"], batch["padding_mask"], batch["clip"], batch["frame"])
        return Painted(
            generated.float(), to_unit(batch["target"]), speech, batch, self.expert, self.options["expert_clips"]
        )

    def generator_step(self, batch: Batch) -> tuple[Painted, dict[str, Tensor]]:
        """Update the generator (equation 13); the discriminator gets no gradient."""
        painted = self.paint(batch)
        with readonly(self.critic), self.accelerator.autocast():
            terms = self.objective.terms(painted)
        total = losses.weighted_sum(terms, self.objective.weights)
        self._assert_finite(total, terms)
        self.g_optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        self._update(self.g_optimizer, self.painter, self.config["optim"]["generator"]["clip"])
        return painted, {**terms, "total": total}

    def discriminator_step(self, painted: Painted) -> dict[str, Tensor]:
        """Update the discriminator (equation 9) on real faces and on fakes that are cut from their graph."""
        if "adv" not in self.objective.weights:
            return {}
        faces = torch.cat([painted.target, painted.generated.detach()])
        logits = self.discriminator(faces).float()
        real, fake = logits.chunk(2)
        loss = losses.adversarial_discriminator(real, fake, self.config["loss"]["adversarial"]["form"])
        self._assert_finite(loss, {"discriminator": loss})
        self.d_optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self._update(self.d_optimizer, self.discriminator, self.config["optim"]["discriminator"]["clip"])
        correct = torch.cat([real > 0, fake < 0]).float().mean()
        return {"d_loss": loss, "d_accuracy": correct}

    def _update(self, optimizer: Any, model: nn.Module, clip: float | None) -> None:
        schedule = self.config["optim"]["schedule"]
        factor = learning_rate_factor(self.step, self.options["steps"], **schedule)
        set_learning_rate(optimizer, factor)
        if clip:
            self.accelerator.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()

    def _assert_finite(self, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        if torch.isfinite(loss):
            return
        values = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
        raise SyncTalklipError(
            f"step {self.step}: the loss is not finite ({values}); the update was not made. Lower optim.*.lr or set "
            f"optim.*.clip; the state of the last save is in {self.folder.path}"
        )

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the last step, going on from a saved state where there is one.

        Returns:
            The checkpoint of the generator.
        """
        options = self.options
        self.resume()
        self.painter.train()
        self.discriminator.train()
        logger = SummaryWriter(str(self.output / "tensorboard"), purge_step=self.step + 1)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.accelerator.device))
        since = 0
        bar = tqdm(total=options["steps"], initial=self.step, unit="step", mininterval=1.0, dynamic_ncols=True)
        with logger, bar:
            for batch in self._batches():
                painted, scalars = self.generator_step(batch)
                scalars |= self.discriminator_step(painted)
                self.step += 1
                since += 1
                for name, value in scalars.items():
                    sums[name] += value.detach()
                bar.update()
                last = self.step == options["steps"]
                if last or self.step % options["log_every"] == 0:
                    self._log(logger, bar, "train", {name: float(value) / since for name, value in sums.items()})
                    sums.clear()
                    since = 0
                if last or self.step % options["valid_every"] == 0:
                    self._log(logger, bar, "valid", self.validate(logger))
                if last or self.step % options["save_every"] == 0:
                    self.save()
        return self.output / "checkpoints" / "generator.pt"

    def _batches(self) -> Iterator[Batch]:
        if self.step >= self.options["steps"]:
            log.info("the run has all its %d steps already", self.step)
            return
        for done, batch in enumerate(self.data.loader("train", skip=self.step), start=self.step + 1):
            yield self._to_device(batch)
            if done >= self.options["steps"]:
                return

    def _to_device(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    @torch.no_grad()
    def validate(self, logger: SummaryWriter | None = None) -> dict[str, float]:
        """Pictures and terms on the validation clips, each once, the same frames every time; means over frames."""
        self.painter.eval()
        self.discriminator.eval()
        sums: dict[str, float] = defaultdict(float)
        frames = 0
        for number, cpu_batch in enumerate(self.data.loader("valid")):
            batch = self._to_device(cpu_batch)
            painted = self.paint(batch)
            # The limit is for training; validation looks at every clip.
            painted.clips = None
            with self.accelerator.autocast():
                scalars = self.objective.terms(painted)
            # Inference pastes the painted half alone, so pictures are measured as it shows them.
            shown = torch.cat([painted.target[:, :, :UPPER_ROWS], painted.generated[:, :, UPPER_ROWS:]], dim=2)
            scalars["l1"] = losses.reconstruction(shown, painted.target)
            scalars["psnr"] = psnr(shown, painted.target).mean()
            scalars["ssim"] = ssim(shown, painted.target).mean()
            count = len(painted.target)
            frames += count
            for name, value in scalars.items():
                sums[name] += float(value) * count
            if number == 0 and logger is not None:
                panel = sample_panel(batch["target"], batch["identity"], painted.generated, self.options["samples"])
                logger.add_image("valid/target_masked_identity_generated", panel, self.step, dataformats="HWC")
                write_panel(self.output / "samples" / f"step_{self.step:07d}.png", panel)
        self.painter.train()
        self.discriminator.train()
        return {name: value / frames for name, value in sums.items()}

    def _log(self, logger: SummaryWriter, bar: tqdm, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            logger.add_scalar(f"{split}/{name}", value, self.step)
            if name in self.objective.weights:
                weighted = self.objective.weights[name] * value
                logger.add_scalar(f"{split}_weighted/{name}", weighted, self.step)
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.info("step %d %s: %s", self.step, split, text)
        bar.set_postfix_str(text[:80])

    # -- state -----------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What a state must agree with to be gone on from."""
        sizes = {key: dict(self.config[key]) for key in ("generator", "discriminator")}
        trainable = {key: self.config["audio_encoder"][key] for key in ("trainable", "layers")}
        return {"data": self.data.key(), "expert": self.expert_sha256, "audio_encoder": trainable, **sizes}

    def save(self) -> None:
        """Write the state for resuming and the generator for use."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = {"step": self.step, "run": self._identity()}
            path = self.output / "checkpoints" / "generator.pt"
            save_generator(path, self.generator, self.step, self.expert_sha256)
            # Last: a finished state promises that the generator stands.
            self.folder.write(lambda path: self.accelerator.save_state(str(path)), state)

    def resume(self) -> None:
        """Go on from the saved state where there is one."""
        state = self.folder.read()
        if state is None:
            return
        if state["run"] != self._identity():
            differing = [key for key, value in self._identity().items() if state["run"].get(key) != value]
            raise SyncTalklipError(
                f"{self.folder.path}: belongs to a run with another {' and '.join(differing)} (or seed); choose "
                "another run.name, or delete the folder to start anew"
            )
        optimizers = (self.g_optimizer, self.d_optimizer)
        configured = [settings_of(optimizer) for optimizer in optimizers]
        self.accelerator.load_state(str(self.folder.path))
        for optimizer, settings in zip(optimizers, configured):
            set_settings(optimizer, settings)
        self.step = state["step"]
        log.info("going on from step %d of %s", self.step, self.folder.path)

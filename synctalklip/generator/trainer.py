"""Training of the generator (stage 2, paper section 3.3) on Hugging Face accelerate.

One linear loop: the generator steps with the discriminator read-only, then the discriminator steps on the detached
fakes. Every batch is a function of (seed, step), so the step number is the whole position of a run.

Legend: B clips, T video frames at 25 Hz, N painted frames, D embedding.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from synctalklip.errors import SyncTalklipError
from synctalklip.generator.loaders import StageTwoData
from synctalklip.generator.meters import Meters
from synctalklip.generator.model import TalkingFaceGenerator, save_generator
from synctalklip.generator.monitor import mouth_motion
from synctalklip.generator.networks import PaintStep
from synctalklip.generator.objective import Painted
from synctalklip.generator.optim import set_settings, settings_of
from synctalklip.generator.panels import sample_panel, write_panel, write_sample_video
from synctalklip.generator.players import Batch, Players
from synctalklip.generator.state import StateFolder
from synctalklip.generator.stopwatch import Stopwatch
from synctalklip.generator.validation import validate

log = logging.getLogger(__name__)


class Trainer(Players):
    """A run of stage 2.

    Args:
        config: the composed config of scripts/train_generator.py, in plain containers.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__(config)
        self.data = StageTwoData(config, self.expert, self.accelerator.process_index, self.accelerator.num_processes)
        self.good = StateFolder(self.output / "checkpoints" / "good")
        self.meters = Meters(self.accelerator.device, partial(self.accelerator.reduce, reduction="mean"))

    def advance(self, batch: Batch) -> None:
        """One step of both players, with everything that is measured."""
        painted, scalars = self.generator_step(batch)
        scalars |= self.discriminator_step(painted)
        if self.monitor.patience is not None:
            places = batch["clip"], batch["frame"], ~batch["silent"]
            scalars["motion"] = mouth_motion(painted.generated, *places)
            scalars["motion_target"] = mouth_motion(painted.target, *places)
        self.meters.add(scalars)
        self.step += 1

    # -- the run ---------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the last step, going on from a saved state where there is one.

        Returns:
            The checkpoint of the generator.
        """
        steps = self.options["steps"]
        self.resume()
        self.painter.train()
        self.discriminator.train()
        if self.step >= steps:
            log.info("the run has all its %d steps already", self.step)
        with tqdm(total=steps, initial=self.step, unit="step", mininterval=1.0, dynamic_ncols=True) as bar:
            while self.step < steps:
                # Once more after every rewind.
                with SummaryWriter(str(self.output / "tensorboard"), purge_step=self.step + 1) as logger:
                    self._train(logger, bar)
        return self.output / "checkpoints" / "generator.pt"

    def _train(self, logger: SummaryWriter, bar: tqdm) -> None:
        """Train to the last step, or to a rewind."""
        options, watch, images = self.options, Stopwatch(), 0
        for batch in watch.watch(self._batches(), "data"):
            self.advance(batch)
            bar.update()
            images += len(batch["target"])
            last = self.step == options["steps"]
            if last or self.step % options["log_every"] == 0:
                alarms = self._report(logger, bar)
                self._log_speed(logger, watch, images)
                watch.restart()
                images = 0
                if alarms and self.monitor.may_rewind and self.rewind():
                    bar.reset()
                    bar.update(self.step)
                    return
            with watch.phase("pause"):
                if last or self.step % options["valid_every"] == 0:
                    values = self.validate(logger)
                    self._log(logger, bar, "valid", values)
                    self.switch.observe(values)
                if last or self.step % options["save_every"] == 0:
                    self.save()

    def _batches(self) -> Iterator[Batch]:
        for done, batch in enumerate(self.data.loader("train", skip=self.step), start=self.step + 1):
            yield self._to_device(batch)
            if done >= self.options["steps"]:
                return

    def _to_device(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def validate(self, logger: SummaryWriter | None = None) -> dict[str, float]:
        """Pictures and terms on the validation clips, painted by the moving average where there is one."""
        painter = self.painter if self.average is None else PaintStep(self.average.model)
        self.painter.eval()
        self.discriminator.eval()
        batches = (self._to_device(batch) for batch in self.data.loader("valid"))
        mixed = self.accelerator.autocast
        paint, terms = mixed()(partial(self.paint, painter=painter)), mixed()(self.objective.terms)
        values = validate(batches, paint, terms, partial(self._show, logger))
        if logger is not None and self.accelerator.is_main_process:
            self._write_videos(self.generator if self.average is None else self.average.model)
        self.painter.train()
        self.discriminator.train()
        return values

    def _show(self, logger: SummaryWriter | None, batch: Batch, painted: Painted) -> None:
        if logger is None:
            return
        panel = sample_panel(batch["target"], batch["identity"], painted.generated, self.options["samples"])
        logger.add_image("valid/target_masked_identity_generated_difference", panel, self.step, dataformats="HWC")
        write_panel(self.output / "samples" / f"step_{self.step:07d}.png", panel)

    def _write_videos(self, model: TalkingFaceGenerator) -> None:
        """The first validation clips, each beside what is painted for its sound."""
        reader = self.data.sets["valid"].reader
        model.eval()
        for index in range(min(self.options["sample_videos"], len(reader))):
            name = f"step_{self.step:07d}_{reader.clips[index].id.replace('/', '_')}.mp4"
            write_sample_video(self.output / "samples" / name, model, reader, index)

    def _report(self, logger: SummaryWriter, bar: tqdm) -> bool:
        """Write the means since the last report and look at them; whether an alarm is new."""
        self.guard.settle()
        means = self.meters.means()
        self.meters.clear()
        self._log(logger, bar, "train", means)
        alarms = self.monitor.look(means)
        for sentence in alarms:
            log.warning("step %d: %s", self.step, sentence)
        return bool(alarms)

    def _log_speed(self, logger: SummaryWriter, watch: Stopwatch, images: int) -> None:
        """Images a second, and the share of the time in which the steps waited for their clips."""
        spent = watch.seconds()
        steps = watch.total() - spent.get("pause", 0.0)
        rate, share = images * self.accelerator.num_processes / steps, spent["data"] / steps
        logger.add_scalar("speed/images_per_second", rate, self.step)
        logger.add_scalar("speed/data_share", share, self.step)
        log.info("step %d: %.1f images/s, %.0f %% of the time waiting for data", self.step, rate, 100 * share)

    def _log(self, logger: SummaryWriter, bar: tqdm, split: str, values: Mapping[str, float]) -> None:
        weights = self.objective.weights_at(self.step - 1)
        for name, value in values.items():
            logger.add_scalar(f"{split}/{name}", value, self.step)
            if name in self.objective.weights:
                logger.add_scalar(f"{split}_weighted/{name}", weights.get(name, 0.0) * value, self.step)
        for name in self.objective.weights:
            logger.add_scalar(f"weights/{name}", weights.get(name, 0.0), self.step)
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
        self.guard.settle()
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        parts = {"encoder": self.switch.state(), "monitor": self.monitor.state(), "meters": self.meters.state()}
        state = {"step": self.step, "precision": self.precision.name, "run": self._identity(), **parts}
        shown = self.generator if self.average is None else self.average.model
        teacher = (self.sync_expert.sha256, asdict(self.sync_expert.info)) if self.sync_expert else (None, None)
        save_generator(self.output / "checkpoints" / "generator.pt", shown, self.step, self.expert_sha256, *teacher)
        fill = self._fill
        if self.monitor.may_rewind and self.monitor.healthy:
            # Before the other: a run that is killed between the two comes here again, and would not if it were after.
            self.good.write(fill, state)
            fill = partial(shutil.copytree, self.good.path, dirs_exist_ok=True)
        # Last: a finished state promises that the generator stands.
        self.folder.write(fill, state)

    def _fill(self, path: Path) -> None:
        self.accelerator.save_state(str(path))
        if self.average is not None:
            self.average.write(path)

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
        self._load(self.folder, state)
        self.monitor.restore(state["monitor"])
        log.info("going on from step %d of %s", self.step, self.folder.path)

    def rewind(self) -> bool:
        """Go back to the last state in which all was well; False where there is none."""
        state = self.good.read()
        # One that another run, or a deleted attempt at this one, left in the folder is not gone back to.
        if state is None or state["run"] != self._identity() or state["step"] > self.step:
            log.warning("step %d: there is no good state to go back to yet", self.step)
            return False
        self._load(self.good, state)
        self.monitor.rewind()
        log.warning("back to step %d, learning rate of the discriminator x %g", self.step, self.monitor.d_lr_scale)
        self.save()
        return True

    def _load(self, folder: StateFolder, state: Mapping[str, Any]) -> None:
        optimizers = (self.g_optimizer, self.d_optimizer)
        configured = [settings_of(optimizer) for optimizer in optimizers]
        self.accelerator.load_state(str(folder.path))
        for optimizer, settings in zip(optimizers, configured):
            set_settings(optimizer, settings)
        if self.average is not None and not self.average.read(folder.path):
            log.info("%s has no moving average of the generator; it begins here", folder.path)
            self.average.begin()
        self.switch.restore(state["encoder"])
        self.meters.restore(state["meters"])
        self.step = state["step"]

"""Training of the generator (stage 2, paper section 3.3, equations 7 to 13) on Hugging Face accelerate.

One linear loop: the generator steps with the discriminator read-only, then the discriminator steps on the detached
fakes. Every batch is a function of (seed, step), so the step number is the whole position of a run.

Legend: B clips, T video frames at 25 Hz, N painted frames, D embedding.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from synctalklip import checkpoint, losses
from synctalklip.avsyncnet.config import LAST
from synctalklip.checkpoint import StateFolder
from synctalklip.device import Precision, choose_device, choose_precision, record_precision
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.balance import BATCHES, Balance, gradient_norms
from synctalklip.generator.batches import FeatureCache, StageTwoData
from synctalklip.generator.discriminator import readonly
from synctalklip.generator.model import TalkingFaceGenerator, save_generator
from synctalklip.generator.monitor import CollapseMonitor, Meters, RunLog, discriminator_scalars, mouth_motion
from synctalklip.generator.networks import TrainStep, build_networks, load_average, save_average, update_average
from synctalklip.generator.objective import Objective, Painted
from synctalklip.generator.optim import (
    EncoderSwitch,
    FiniteGuard,
    learning_rate_factor,
    set_learning_rate,
    set_settings,
    settings_of,
)
from synctalklip.generator.unet import generator_input, to_unit
from synctalklip.generator.validation import COLUMNS, Samples, validate
from synctalklip.progress import Stopwatch

log = logging.getLogger(__name__)

Batch = dict[str, Any]


class Trainer:
    """A run of stage 2: generator, discriminator, their optimisers, the frozen experts and the data.

    Args:
        config: the composed config of scripts/train_generator.py, in plain containers.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.config, self.options, self.step = config, config["trainer"], 0
        self.output = Path(config["run"]["dir"])
        if self.options["threads"]:
            torch.set_num_threads(self.options["threads"])
        set_seed(config["seed"])
        self.switch = EncoderSwitch(**config["audio_encoder"]["unfreeze"])
        self.folder, self.good = (StateFolder(self.output / "checkpoints" / name) for name in ("last", "good"))
        self.precision = self._precision()
        self.accelerator = self._accelerator()
        networks = build_networks(config, self.accelerator)
        self.expert, self.sync_expert = networks.expert, networks.sync_expert
        self.expert_sha256 = checkpoint.file_hash(config["expert"]["path"])
        self.expert_made_of = sorted(checkpoint.origins(config["expert"]["path"]) - {self.expert_sha256})
        self.generator, self.train_step, self.average = networks.generator, networks.train_step, networks.average
        self.discriminator, self.wrapped_discriminator = networks.discriminator, networks.wrapped_discriminator
        self.g_optimizer, self.d_optimizer = networks.g_optimizer, networks.d_optimizer
        self.objective = Objective(config["loss"], self.expert, self.discriminator, self.sync_expert)
        self.balance = Balance(config["loss"], self.objective, self.output)
        megabytes = self.options["feature_cache_mb"]
        self.feature_cache = FeatureCache(self.expert, megabytes) if megabytes else None
        self.monitor = CollapseMonitor(**self.options["monitor"], form=config["loss"]["adversarial"]["form"])
        advice = f"Lower optim.*.lr or set optim.*.clip; the last save is in {self.output / 'checkpoints'}"
        self.guard = FiniteGuard(at_once=self.accelerator.device.type == "cpu", advice=advice)
        self.meters = Meters(self.accelerator.device, partial(self.accelerator.reduce, reduction="mean"))
        self.data = StageTwoData(config, self.expert, self.accelerator.process_index, self.accelerator.num_processes)

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

    # -- one step --------------------------------------------------------------------------------------------------

    def paint(self, batch: Batch, train_step: nn.Module | None = None) -> Painted:
        """Run the generator, or that of another `train_step`, on a batch that is on the device."""
        faces = generator_input(batch["target"], batch["identity"])
        if self.options["channels_last"]:
            faces = faces.contiguous(memory_format=torch.channels_last)
        generated, sound = (train_step or self.train_step)(
            faces, batch["audio"], batch["padding_mask"], batch["clip"], batch["frame"], self._known_speech(batch)
        )
        target, clips = to_unit(batch["target"]), self.options["expert_clips"]
        neighbours = self.config["loss"]["lip"]["neighbours"]
        return Painted(generated.float(), target, sound, batch, self.expert, clips, self.feature_cache, neighbours)

    def _known_speech(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Embeddings and the metric's view of the generator's own encoder while it does not learn, (B,T,D) each."""
        encoder, cache, view = self.generator.audio_encoder, self.feature_cache, self.expert.metric_view
        if cache is None or not (encoder.held or encoder.learns_nothing):
            return None
        with self.accelerator.autocast():
            speech = cache.own_sound(encoder, batch)
            if view == LAST:
                return speech, speech
            return speech, cache.own_sound(partial(encoder.w2v_model.view, view=view), batch, view)

    def generator_step(self, batch: Batch) -> tuple[Painted, dict[str, Tensor]]:
        """Update the generator (equation 13); the discriminator gets no gradient."""
        encoder = self.generator.audio_encoder
        if encoder.held == self.switch.reach(self.step):
            encoder.hold(not encoder.held)
            if self.feature_cache is not None:
                self.feature_cache.forget_own_sound()
        self._measure_weights()
        painted = self.paint(batch)
        weights = self.objective.weights_at(self.step)
        with readonly(self.discriminator), self.accelerator.autocast():
            terms = self.objective.terms(painted, weights)
        total = losses.weighted_sum(terms, weights)
        norm = self._update(self.g_optimizer, self.train_step, "generator", total, terms)
        if self.average is not None:
            update_average(self.average, self.generator, copy=self.step < self.options["ema"]["start"])
        return painted, {**terms, "total": total, "g_grad_norm": norm}

    def _measure_weights(self) -> None:
        """Before a term with a share begins to count: its weight, on the batches of this step and of those after it."""
        due = self.balance.due(self.step)
        if not due:
            return
        training, norms = self.train_step.training, []
        self.train_step.eval()
        with torch.random.fork_rng(), readonly(self.discriminator), self.accelerator.autocast():
            for batch in islice(self.data.loader("train", skip=self.step), BATCHES):
                with torch.no_grad():
                    painted = self.paint(self._to_device(batch))
                painted = replace(painted, generated=painted.generated.detach().requires_grad_())
                norms.append(gradient_norms(self.objective, painted, due))
        self.train_step.train(training)
        self.balance.measure(self.step, norms, partial(self.accelerator.reduce, reduction="mean"))

    def discriminator_step(self, painted: Painted) -> dict[str, Tensor]:
        """Update the discriminator (equation 9) on real faces and on fakes that are cut from their graph."""
        options = self.config["loss"]["adversarial"]
        if "adv" not in self.objective.weights or self.step < options["discriminator_start"]:
            return {}
        faces = torch.cat([painted.target, painted.generated.detach()])
        real, fake = self.wrapped_discriminator(faces).float().chunk(2)
        loss = losses.adversarial_discriminator(real, fake, options["form"])
        scalars = {"d_loss": loss}
        if options["r1"] and self.step % options["r1_every"] == 0:
            scalars["d_r1"] = self._gradient_penalty(painted.target)
            # Paid for the steps in between, too (Karras et al. 2020).
            loss = loss + options["r1"] / 2 * options["r1_every"] * scalars["d_r1"]
        norm = self._update(self.d_optimizer, self.wrapped_discriminator, "discriminator", loss, scalars)
        return scalars | discriminator_scalars(real, fake, options["form"]) | {"d_grad_norm": norm}

    def _gradient_penalty(self, faces: Tensor) -> Tensor:
        faces = faces.detach().requires_grad_()
        with torch.autocast(faces.device.type, enabled=False):
            return losses.gradient_penalty(self.discriminator.score(faces), faces)

    def _update(
        self, optimizer: Any, model: nn.Module, network: str, loss: Tensor, terms: Mapping[str, Tensor]
    ) -> Tensor:
        """Step one network; returns the length of its gradient before clipping."""
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        clip = self.config["optim"][network]["clip"]
        if clip:
            norm = self.accelerator.clip_grad_norm_(model.parameters(), clip)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        self.guard.admit(optimizer.optimizer, self.step, loss, norm, terms)
        factor = learning_rate_factor(self.step, self.options["steps"], **self.config["optim"]["schedule"])
        set_learning_rate(optimizer, factor * (self.monitor.d_lr_scale if network == "discriminator" else 1.0))
        optimizer.step()
        return norm

    def advance(self, batch: Batch) -> None:
        """One step of both networks, with everything that is measured."""
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
        self.train_step.train()
        self.wrapped_discriminator.train()
        if self.step >= steps:
            log.info("the run has all its %d steps already", self.step)
        with tqdm(total=steps, initial=self.step, unit="step", mininterval=1.0, dynamic_ncols=True) as bar:
            while self.step < steps:
                # Once more after every rewind.
                with SummaryWriter(str(self.output / "tensorboard"), purge_step=self.step + 1) as tensorboard:
                    self._train(RunLog(tensorboard, bar))
        return self.output / "checkpoints" / "generator.pt"

    def _train(self, run_log: RunLog) -> None:
        """Train to the last step, or to a rewind."""
        options, watch, images = self.options, Stopwatch(), 0
        for batch in watch.watch(self._batches(), "data"):
            self.advance(batch)
            run_log.bar.update()
            images += len(batch["target"])
            last = self.step == options["steps"]
            if last or self.step % options["log_every"] == 0:
                alarms = self._report(run_log)
                run_log.speed(self.step, watch, images * self.accelerator.num_processes)
                watch.restart()
                images = 0
                if alarms and self.monitor.may_rewind and self.rewind():
                    run_log.bar.reset()
                    run_log.bar.update(self.step)
                    return
            with watch.phase("pause"):
                if last or self.step % options["valid_every"] == 0:
                    values = self.validate(run_log)
                    run_log.values("valid", self.step, values, self._weights())
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

    def validate(self, run_log: RunLog | None = None) -> dict[str, float]:
        """Terms and picture scores of the validation clips, painted by the moving average where there is one.

        With a `run_log`, sample pictures and videos are written too.
        """
        train_step = self.train_step if self.average is None else TrainStep(self._shown, self.expert.metric_view)
        self.train_step.eval()
        self.wrapped_discriminator.eval()
        batches = (self._to_device(batch) for batch in self.data.loader("valid"))
        mixed = self.accelerator.autocast
        paint, terms = mixed()(partial(self.paint, train_step=train_step)), mixed()(self.objective.terms)
        samples = Samples(self.output / "samples", self.options["samples"], self.options["sample_videos"], self.step)

        def show(batch: Mapping[str, Any], painted: Painted) -> None:
            if run_log is not None:
                run_log.picture(f"valid/{'_'.join(COLUMNS)}", self.step, samples.panel(batch, painted))

        values = validate(batches, paint, terms, show)
        if run_log is not None and self.accelerator.is_main_process:
            samples.write_videos(self._shown, self.data.sets["valid"].reader)
        self.train_step.train()
        self.wrapped_discriminator.train()
        return values

    def _report(self, run_log: RunLog) -> bool:
        """Write the means since the last report and look at them; whether an alarm is new."""
        self.guard.settle()
        means = self.meters.means()
        self.meters.clear()
        run_log.values("train", self.step, means, self._weights())
        alarms = self.monitor.look(means)
        for sentence in alarms:
            log.warning("step %d: %s", self.step, sentence)
        return bool(alarms)

    def _weights(self) -> dict[str, float]:
        """The weight of each term in the last step, 0 where it did not count."""
        held = self.objective.weights_at(self.step - 1)
        return {name: held.get(name, 0.0) for name in self.objective.weights}

    @property
    def _shown(self) -> TalkingFaceGenerator:
        """What is saved and shown: the moving average where there is one."""
        return self.generator if self.average is None else cast(TalkingFaceGenerator, self.average.module)

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
        parts["balance"] = self.balance.state()
        state = {"step": self.step, "precision": self.precision.name, "run": self._identity(), **parts}
        sync = self.sync_expert
        experts = [
            self.expert_sha256,
            *((sync.sha256, asdict(sync.info)) if sync else (None, None)),
            self.expert_made_of,
        ]
        path = self.output / "checkpoints" / "generator.pt"
        save_generator(path, self._shown, self.step, *experts)
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
            save_average(self.average, path)

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
        if self.average is not None and not load_average(self.average, folder.path):
            log.info("%s has no moving average of the generator; it begins here", folder.path)
            update_average(self.average, self.generator, copy=True)
        self.switch.restore(state["encoder"])
        self.meters.restore(state["meters"])
        self.balance.restore(state.get("balance", {}))
        self.step = state["step"]

"""The networks of a run of stage 2 from its config: what learns, with its optimisers, and the frozen experts.

Legend: B clips, T video frames at 25 Hz, N painted frames, D embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from synctalklip import checkpoint
from synctalklip.avsyncnet.expert import Expert, load_expert
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.discriminator import Discriminator
from synctalklip.generator.model import DISCRIMINATOR_KIND, KIND, TalkingFaceGenerator, start_from
from synctalklip.generator.optim import adam
from synctalklip.syncnet.lse import SyncExpert

AVERAGE_FILE, AVERAGE_KIND = "ema.pt", "ema"


class TrainStep(nn.Module):
    """Sound and faces of a batch to painted faces, in one forward call, as mixed precision and DDP want it."""

    def __init__(self, generator: TalkingFaceGenerator, view: str):
        super().__init__()
        self.generator, self.view = generator, view

    def forward(
        self,
        faces: Tensor,
        audio: Tensor,
        padding_mask: Tensor,
        clip: Tensor,
        frame: Tensor,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Paint the frames (`clip`, `frame`), (N,) each.

        Args:
            known: the speech embeddings and the `view` of all frames, (B,T,D) each, where they are known already.

        Returns:
            Painted faces (N,3,96,96) and the view of the generator's own encoder that contrasts are about (B,T,D).
        """
        speech, view = known or self.generator.audio_encoder.views(audio, padding_mask, self.view)
        return self.generator(faces, speech[clip, frame]), view


@dataclass
class Networks:
    """What learns, and what makes it learn.

    Attributes:
        expert: frozen AV-SyncNet. sync_expert: frozen SyncNet; None without its term.
        generator: as built. train_step: its step, prepared for precision and processes.
        discriminator: as built. wrapped_discriminator: prepared.
        g_optimizer: of the generator, its audio encoder in the last group. d_optimizer: of the discriminator.
        average: exponential moving average of the generator, in eval mode; None when it is off.
    """

    expert: Expert
    sync_expert: SyncExpert | None
    generator: TalkingFaceGenerator
    train_step: nn.Module
    discriminator: Discriminator
    wrapped_discriminator: nn.Module
    g_optimizer: Any
    d_optimizer: Any
    average: AveragedModel | None


def build_networks(config: Mapping[str, Any], accelerator: Accelerator) -> Networks:
    """Build what the config of scripts/train_generator.py names; the expert gives the audio encoder its weights.

    Raises:
        SyncTalklipError: a choice that does not exist, or an expert that does not go with the variant.
    """
    options, encoder, optim = config["trainer"], config["audio_encoder"], config["optim"]
    expert = load_expert(config["expert"]["path"]).to(accelerator.device)
    _assert_distance(expert, config["expert"])
    generator = TalkingFaceGenerator(expert.encoder_config, **config["generator"], roi_mode=expert.roi_mode)
    generator.audio_encoder.w2v_model.load_state_dict(expert.encoder.state_dict())
    generator.audio_encoder.freeze(encoder["trainable"], encoder["layers"])
    discriminator = Discriminator(**config["discriminator"])
    models: tuple[tuple[nn.Module, str], ...] = ((generator, KIND), (discriminator, DISCRIMINATOR_KIND))
    for module, kind in models:
        if config["init"][kind] is not None:
            start_from(module, config["init"][kind], kind)
    layout = torch.channels_last if options["channels_last"] else torch.contiguous_format
    discriminator.to(memory_format=layout)  # type: ignore[call-overload]
    for name, module in generator.named_children():
        if name != "audio_encoder":
            module.to(memory_format=layout)  # type: ignore[call-overload]
    generator.to(accelerator.device)
    average = moving_average(generator, **options["ema"]) if options["ema"]["decay"] else None
    encoder_parameters = [p for p in generator.audio_encoder.parameters() if p.requires_grad]
    unet_parameters = [p for name, p in generator.named_parameters() if not name.startswith("audio_encoder.")]
    groups = [
        {"params": unet_parameters, "scale": 1.0},
        {"params": encoder_parameters, "scale": encoder["lr_scale"]},
    ]
    g_optimizer = adam([group for group in groups if group["params"]], optim["generator"])
    d_optimizer = adam(discriminator.parameters(), optim["discriminator"])
    train_step, wrapped, g_optimizer, d_optimizer = accelerator.prepare(
        TrainStep(generator, expert.metric_view), discriminator, g_optimizer, d_optimizer
    )
    if options["compile"]:
        compile_networks(options["compile"], generator, discriminator)
    sync_expert = _load_sync_expert(config, accelerator.device)
    return Networks(
        expert, sync_expert, generator, train_step, discriminator, wrapped, g_optimizer, d_optimizer, average
    )


def _assert_distance(expert: Expert, options: Mapping[str, Any]) -> None:
    if options["distance"] not in (None, expert.distance.head):
        raise SyncTalklipError(
            f"{options['path']}: its distance is '{expert.distance.head}', this variant is about "
            f"'{options['distance']}' (expert.distance): learn it with scripts/learn_distance.py"
        )


def _load_sync_expert(config: Mapping[str, Any], device: torch.device) -> SyncExpert | None:
    if config["loss"]["lambda_sync"] == 0:
        return None
    path = config["syncnet"]["path"]
    if path is None:
        raise SyncTalklipError("loss.lambda_sync needs a SyncNet that no table judges by; give syncnet.path=...")
    return SyncExpert(path).to(device)


def moving_average(model: nn.Module, decay: float, start: int) -> AveragedModel:
    """A copy of a model for the exponential mean of its weights over the updates; see `update_average`.

    Running means and variances of batch normalisation are averaged with the weights: they describe what the averaged
    layers see better than those of the last step do. Counters are copied.

    Args:
        model: what learns, on its device, before it is wrapped or compiled.
        decay: share of the average that an update keeps, below 1.
        start: updates before the mean begins.
    """
    if not 0 < decay < 1 or start < 0:
        raise SyncTalklipError(f"trainer.ema: decay is {decay}, start {start}; give 0 < decay < 1 and start >= 0")
    mean = get_ema_multi_avg_fn(decay)

    def take_in(own: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        if own[0].is_floating_point():
            mean(list(own), list(values), count)
        else:
            torch._foreach_copy_(list(own), list(values))

    average = AveragedModel(model, multi_avg_fn=take_in, use_buffers=True).eval().requires_grad_(False)
    # The weights before the first update count as the first of the mean.
    average.update_parameters(model)
    return average


def update_average(average: AveragedModel, model: nn.Module, copy: bool) -> None:
    """Take the weights of an update into the mean; with `copy` the mean begins anew at them."""
    if copy:
        average.n_averaged.zero_()
    average.update_parameters(model)


def save_average(average: AveragedModel, folder: Path) -> None:
    """Add the average to the folder of a state."""
    checkpoint.save(folder / AVERAGE_FILE, {"kind": AVERAGE_KIND, "model": average.module.state_dict()})


def load_average(average: AveragedModel, folder: Path) -> bool:
    """Take the average from the folder of a state; False where it was saved without one."""
    path = folder / AVERAGE_FILE
    if not path.is_file():
        return False
    checkpoint.load_weights(average.module, checkpoint.load(path, kind=AVERAGE_KIND)["model"], path)
    return True


def compile_networks(backend: str, *modules: nn.Module) -> None:
    """Compile modules in place with a backend of torch.compile.

    Raises:
        SyncTalklipError: there is no such backend.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise SyncTalklipError(f"trainer.compile is '{backend}'; use null or a backend of torch: {', '.join(known)}")
    for module in modules:
        # In place, so that no name of the state dict changes. The number of images differs from step to step.
        module.compile(backend=backend, dynamic=True)

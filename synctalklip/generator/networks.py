"""The networks and optimisers of a run of stage 2 from its config.

Legend: B clips, T video frames at 25 Hz, N painted frames, D embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from synctalklip.avsyncnet.expert import Expert
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.discriminator import Discriminator
from synctalklip.generator.ema import MovingAverage
from synctalklip.generator.model import DISCRIMINATOR_KIND, KIND, TalkingFaceGenerator, start_from
from synctalklip.generator.optim import adam


class PaintStep(nn.Module):
    """Sound and faces of a batch to painted faces, in one forward call, as mixed precision and DDP want it."""

    def __init__(self, generator: TalkingFaceGenerator):
        super().__init__()
        self.generator = generator

    def forward(
        self,
        faces: Tensor,
        audio: Tensor,
        padding_mask: Tensor,
        clip: Tensor,
        frame: Tensor,
        speech: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Paint the frames (`clip`, `frame`), (N,) each; `speech` (B,T,D) where it is known already.

        Returns:
            Painted faces (N,3,96,96) and speech embeddings of all frames (B,T,D).
        """
        if speech is None:
            speech = self.generator.encode_speech(audio, padding_mask)
        return self.generator(faces, speech[clip, frame]), speech


@dataclass
class Networks:
    """What learns, and what makes it learn.

    Attributes:
        generator: as built. painter: its step, prepared for precision and processes.
        critic: the discriminator as built. discriminator: prepared.
        g_optimizer: of the generator, its speech part in the last group. d_optimizer: of the discriminator.
        average: moving average of the generator; None when it is off.
    """

    generator: TalkingFaceGenerator
    painter: nn.Module
    critic: Discriminator
    discriminator: nn.Module
    g_optimizer: Any
    d_optimizer: Any
    average: MovingAverage | None


def build_networks(config: Mapping[str, Any], expert: Expert, accelerator: Accelerator) -> Networks:
    """Build what the config of scripts/train_generator.py names; the expert gives the audio encoder its weights.

    Raises:
        SyncTalklipError: a choice that does not exist.
    """
    options, encoder, optim = config["trainer"], config["audio_encoder"], config["optim"]
    generator = TalkingFaceGenerator(expert.encoder_config, **config["generator"], roi_mode=expert.roi_mode)
    generator.audio_encoder.w2v_model.load_state_dict(expert.encoder.state_dict())
    generator.audio_encoder.freeze(encoder["trainable"], encoder["layers"])
    critic = Discriminator(**config["discriminator"])
    for module, kind in ((generator, KIND), (critic, DISCRIMINATOR_KIND)):
        if config["init"][kind] is not None:
            start_from(module, config["init"][kind], kind)
    layout = torch.channels_last if options["channels_last"] else torch.contiguous_format
    critic.to(memory_format=layout)
    for name, module in generator.named_children():
        if name != "audio_encoder":
            module.to(memory_format=layout)
    generator.to(accelerator.device)
    average = MovingAverage(generator, **options["ema"]) if options["ema"]["decay"] else None
    heard = [p for p in generator.audio_encoder.parameters() if p.requires_grad]
    drawn = [p for name, p in generator.named_parameters() if not name.startswith("audio_encoder.")]
    groups = [{"params": drawn, "scale": 1.0}, {"params": heard, "scale": encoder["lr_scale"]}]
    g_optimizer = adam([group for group in groups if group["params"]], optim["generator"])
    d_optimizer = adam(critic.parameters(), optim["discriminator"])
    painter, discriminator, g_optimizer, d_optimizer = accelerator.prepare(
        PaintStep(generator), critic, g_optimizer, d_optimizer
    )
    if options["compile"]:
        compile_networks(options["compile"], generator, critic)
    return Networks(generator, painter, critic, discriminator, g_optimizer, d_optimizer, average)


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

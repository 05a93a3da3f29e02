"""The talking-face generator: an AV-HuBERT audio encoder before the U-Net (paper section 3.3).

State-dict names are those of the public TalkLip and SyncTalkLip files: the U-Net's own names at the top level,
the encoder under `audio_encoder.w2v_model.`.

Legend: B clips, T video frames at 25 Hz, N frames to paint, D embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synctalklip import checkpoint
from synctalklip.avsyncnet.model import AVHubert, AVHubertConfig
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.features import MEL_STEPS, MELS, mel_windows
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.unet import ConvBlock, UNetGenerator

KIND, DISCRIMINATOR_KIND = "generator", "discriminator"
WAV2LIP = "wav2lip"
TRAINABLE = ("none", "last", "all")


class AudioEncoder(nn.Module):
    """An AV-HuBERT encoder that is fed with sound only; frozen as a whole, in part or not at all.

    Args:
        config: sizes of the encoder.
    """

    def __init__(self, config: AVHubertConfig):
        super().__init__()
        self.w2v_model = AVHubert(config)
        self._trained: list[nn.Module] = []
        self._held = False
        self.freeze("none", 0)

    def freeze(self, trainable: str, layers: int) -> None:
        """Choose what learns.

        Args:
            trainable: "none"; "last", the last `layers` transformer layers, counted from the end, and the final
                norm; or "all" but the video front-end, which sound never reaches.
            layers: number of layers of "last".
        """
        if trainable not in TRAINABLE:
            raise SyncTalklipError(f"audio_encoder.trainable is '{trainable}'; use one of {', '.join(TRAINABLE)}")
        transformer = self.w2v_model.encoder
        if trainable == "last" and not 1 <= layers <= len(transformer.layers):
            raise SyncTalklipError(
                f"audio_encoder.layers is {layers}; the encoder has {len(transformer.layers)}, choose 1 to that"
            )
        last = [*transformer.layers[-layers:], transformer.layer_norm] if trainable == "last" else []
        self._trained = [self.w2v_model] if trainable == "all" else last
        self.w2v_model.requires_grad_(False)
        for module in self._trained:
            module.requires_grad_(True)
        self.w2v_model.feature_extractor_video.requires_grad_(False)
        # Of pre-training only; distributed training refuses parameters that no step uses.
        self.w2v_model.mask_emb.requires_grad_(False)
        self.train(self.training)

    @property
    def held(self) -> bool:
        """What may learn is frozen for the time being."""
        return self._held

    @property
    def learns_nothing(self) -> bool:
        """It was frozen as a whole."""
        return not self._trained

    def hold(self, held: bool) -> None:
        """Keep what may learn frozen for a while, or let it go.

        Its parameters still ask for gradients and get none, so that optimiser and distributed training know them
        from the start.
        """
        self._held = held
        self.train(self.training)

    def train(self, mode: bool = True) -> "AudioEncoder":
        """Training mode for what learns; the rest stays in eval mode, so that frozen means the same every step."""
        super().train(False)
        self.training = mode
        for module in self._trained:
            module.train(mode and not self._held)
        self.w2v_model.feature_extractor_video.eval()
        return self

    def forward(self, audio: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Sound (B,104,T) -> embeddings (B,T,D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._held):
            return self.w2v_model.encode(audio=audio, video=None, padding_mask=padding_mask)

    def views(self, audio: Tensor, padding_mask: Tensor | None, view: str) -> tuple[Tensor, Tensor]:
        """`forward`, and what a distance sees of the encoder, (B,T,D) each; see `AVHubert.view`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._held):
            return self.w2v_model.views(audio, None, padding_mask, view)


class TalkingFaceGenerator(UNetGenerator):
    """U-Net with its audio encoder.

    Args:
        encoder: sizes of the audio encoder; they set D.
        roi_mode: how the mouth ROIs of its training were cut, stored and compared on loading.
        width: this and the following, see `UNetGenerator`.
    """

    def __init__(
        self,
        encoder: AVHubertConfig,
        roi_mode: str,
        *,
        width: float,
        least_channels: int,
        residuals: str,
        output: str,
        speech: str,
    ):
        sizes: dict[str, Any] = {
            "width": width,
            "least_channels": least_channels,
            "residuals": residuals,
            "output": output,
            "speech": speech,
        }
        super().__init__(encoder.encoder_embed_dim, **sizes)
        self.audio_encoder = AudioEncoder(encoder)
        self.sizes = sizes
        self.roi_mode = roi_mode

    def encode_speech(self, audio: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Stacked log filterbanks to one embedding a frame.

        Args:
            audio: (B,104,T), from `synctalklip.data.features.audio_features`.
            padding_mask: (B,T) bool, true on padding.

        Returns:
            (B,T,D).
        """
        return self.audio_encoder(audio, padding_mask)

    def describe(self) -> dict[str, Any]:
        """Everything that `build_generator` needs, in plain containers."""
        return {
            **self.sizes,
            "roi_mode": self.roi_mode,
            "encoder": asdict(self.audio_encoder.w2v_model.config),
        }


class Wav2LipGenerator(UNetGenerator):
    """Wav2Lip's own generator (Rudrabha/Wav2Lip, models/wav2lip.py): the public U-Net, which hears by convolutions.

    State-dict names are those of `wav2lip.pth` and `wav2lip_gan.pth`. It is painted with, not trained here: the variant
    `wav2lip` trains in the harness of the others.
    """

    # It saw no mouth ROIs, so that it goes with clips of any mode.
    roi_mode = None

    def __init__(self) -> None:
        super().__init__(512)
        self.audio_map = nn.Identity()
        layers: list[nn.Module] = []
        cin = 1
        for cout, stride, residuals in ((32, 1, 2), (64, (3, 1), 2), (128, 3, 2), (256, (3, 2), 1)):
            layers.append(ConvBlock(cin, cout, 3, stride, 1))
            layers += [ConvBlock(cout, cout, 3, 1, 1, residual=True) for _ in range(residuals)]
            cin = cout
        self.audio_encoder = nn.Sequential(*layers, ConvBlock(256, 512, 3), ConvBlock(512, 512, 1))

    speech_features = staticmethod(mel_windows)

    def encode_speech(self, audio: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Mel windows to one embedding a frame; a frame hears nothing of the others, so that padding does no harm.

        Args:
            audio: (B,1280,T), from `synctalklip.data.features.mel_windows`.
            padding_mask: not looked at.

        Returns:
            (B,T,512).
        """
        windows = audio.transpose(1, 2).reshape(-1, 1, MELS, MEL_STEPS)
        return self.audio_encoder(windows).reshape(len(audio), audio.shape[2], -1)

    def describe(self) -> dict[str, Any]:
        """Everything that `build_generator` needs, in plain containers."""
        return {"structure": WAV2LIP}


AnyGenerator = TalkingFaceGenerator | Wav2LipGenerator


def build_generator(description: Mapping[str, Any]) -> AnyGenerator:
    """Inverse of `describe`; the weights are not set."""
    if description.get("structure") == WAV2LIP:
        return Wav2LipGenerator()
    sizes = {key: value for key, value in description.items() if key != "encoder"}
    return TalkingFaceGenerator(AVHubertConfig(**description["encoder"]), **sizes)


def save_generator(
    path: str | Path,
    generator: TalkingFaceGenerator,
    step: int,
    expert_sha256: str,
    syncnet_sha256: str | None = None,
    syncnet_info: Mapping[str, Any] | None = None,
    expert_made_of: Sequence[str] = (),
) -> None:
    """Write the checkpoint that `load_generator` reads.

    Args:
        path: `generator.pt`.
        generator: what is written.
        step: updates so far.
        expert_sha256: of the file of its expert, which must not be its judge too.
        syncnet_sha256: of the file of the SyncNet that was an expert too, if one was; the same holds for it.
        syncnet_info: its structure and training clips, so that tables can mark a judge of the same kind.
        expert_made_of: of the files that the expert was made from; they must not judge either.
    """
    checkpoint.save(
        path,
        {
            "kind": KIND,
            "model": generator.state_dict(),
            "config": generator.describe(),
            "step": step,
            "roi_mode": generator.roi_mode,
            "expert_sha256": expert_sha256,
            "expert_made_of": list(expert_made_of),
            "syncnet_sha256": syncnet_sha256,
            "syncnet_info": dict(syncnet_info) if syncnet_info else None,
        },
    )


def load_generator(path: str | Path, device: str | torch.device = "cpu", roi_mode: str | None = None) -> AnyGenerator:
    """Read a trained generator, in eval mode.

    Args:
        path: `generator.pt` of a run, or a public one that `scripts/convert_checkpoint.py` converted.
        device: where it goes.
        roi_mode: if given, the mode it must have been trained with.

    Raises:
        CheckpointError: no such file, damaged, of another kind, incomplete, of other sizes than it states, or
            trained with another ROI mode.
    """
    state = checkpoint.load(path, kind=KIND)
    try:
        generator = build_generator(state["config"])
        weights = state["model"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its description of the model does not fit this version ({error}); train it again"
        ) from error
    checkpoint.load_weights(generator, weights, path)
    if roi_mode is not None and generator.roi_mode not in (None, roi_mode):
        raise CheckpointError(
            f"{path}: was trained on '{generator.roi_mode}' mouth ROIs, these clips have '{roi_mode}' ones; "
            "prepare the clips with that mode or train on them"
        )
    return generator.to(device).eval().requires_grad_(False)


def start_from(module: nn.Module, path: str | Path, kind: str) -> None:
    """Give a model that is about to be trained the weights of a checkpoint.

    Args:
        module: a `TalkingFaceGenerator` or a `Discriminator`.
        path: `generator.pt` of a run, or a file that `scripts/convert_checkpoint.py` wrote.
        kind: `KIND` or `DISCRIMINATOR_KIND`, which the checkpoint must be.

    Raises:
        CheckpointError: as `load_generator`.
    """
    state = checkpoint.load(path, kind=kind)
    if not isinstance(state.get("model"), Mapping):
        raise CheckpointError(f"{path}: holds no weights; convert or train it again")
    checkpoint.load_weights(module, state["model"], path, "choose the sizes in its config, or another checkpoint")

"""Public generators and discriminators of TalkLip, SyncTalkLip and Wav2Lip as checkpoints of ours."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import AVHubertConfig, encoder_name, encoder_structure, heads_of
from synctalklip.checkpoint import CheckpointError
from synctalklip.cli import CONFIGS, to_dict
from synctalklip.generator.discriminator import Discriminator
from synctalklip.generator.model import DISCRIMINATOR_KIND, KIND, WAV2LIP, Wav2LipGenerator, build_generator

# TalkLip cuts the middle of the frame and does not look for the mouth.
PUBLIC_ROI_MODE = "center88"
_ENCODER = "audio_encoder.w2v_model."
# Of pre-training; the generator embeds sound and predicts no clusters.
_HEADS = (_ENCODER + "label_embs_concat", _ENCODER + "final_proj.")
_HINT = "it is no generator or discriminator of TalkLip's or Wav2Lip's structure"
_CROPS = (
    "it learned from face crops by S3FD: prepare and generate with crop_rule=s3fd detector=face_alignment "
    "detector.every=1 where its weights are; in crops by landmarks the mouth lies elsewhere"
)


def to_ours(
    state: Mapping[str, Any], source: Path, output: Path, roi_mode: str | None, heads: int | None = None
) -> list[str]:
    """Write the file that `load_generator` or `start_from` reads.

    Args:
        state: content of `source`, from `load_public`: `state_dict`, `optimizer`, `global_step`, `global_epoch`.
        source: the file.
        output: the `.pt` file to write.
        roi_mode: how the mouth regions of its training were cut; None is the public way.
        heads: attention heads of its audio encoder; None is those of the public encoder of its width.

    Returns:
        What to tell the user, line by line.

    Raises:
        CheckpointError: another structure, or incomplete.
    """
    if output.suffix != ".pt":
        raise CheckpointError(f"output={output}: a model of stage 2 becomes one file; give a name that ends in .pt")
    stored = state["state_dict"]
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise CheckpointError(f"{source}: its state_dict does not hold tensors; get the file from its authors")
    weights = {name.removeprefix("module."): value for name, value in stored.items()}
    if "face_encoder.0.conv_block.0.weight" in weights:
        raise CheckpointError(
            f"{source}: is Wav2Lip's lip-sync expert (a SyncNet of its own), which paints nothing and judges by mel "
            "windows that no metric here uses; convert wav2lip.pth or wav2lip_gan.pth"
        )
    if "binary_pred.0.weight" in weights:
        config, kept = _public("discriminator"), dict(weights)
        kind, told = DISCRIMINATOR_KIND, f"{DISCRIMINATOR_KIND} of Wav2Lip's structure"
        _assert_fits(Discriminator, config, kept, source)
    elif "audio_encoder.0.conv_block.0.weight" in weights:
        config, kept = {"structure": WAV2LIP}, dict(weights)
        kind, told = KIND, f"{KIND} of Wav2Lip"
        _assert_fits(Wav2LipGenerator, {}, kept, source)
    else:
        config, kept, about = read_generator(weights, source, roi_mode or PUBLIC_ROI_MODE, heads)
        kind, told = KIND, f"{KIND}, audio encoder {about}"
    left_out = sorted(set(weights) - set(kept)) + (["optimizer"] if state.get("optimizer") else [])
    step = state.get("global_step")
    written = {
        "kind": kind,
        "model": {name: value.detach().clone() for name, value in kept.items()},
        "config": config,
        "step": step if isinstance(step, int) else 0,
        "source": {"file": source.name, "sha256": checkpoint.file_hash(source)},
    }
    if kind == KIND:
        # Nothing is known of its expert.
        written |= {"roi_mode": config.get("roi_mode"), "expert_sha256": None}
    checkpoint.save(output, written)
    numbers = sum(value.numel() for name, value in kept.items() if "running_" not in name and "num_batches" not in name)
    lines = [
        f"read {source}: {told}, {numbers:,} parameters in {len(kept)} tensors, step {written['step']}",
        f"left out: {len(left_out)} ({', '.join(left_out[:8])}{', ...' if len(left_out) > 8 else ''})",
        f"wrote {output}",
    ]
    return [*lines, _CROPS] if kind == KIND else lines


def read_generator(
    weights: Mapping[str, Tensor], source: Path, roi_mode: str, heads: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """What `build_generator` needs for public weights, those weights that it takes, and the encoder's size in words.

    Raises:
        CheckpointError: another structure, or incomplete.
    """
    heard = {name.removeprefix(_ENCODER): value for name, value in weights.items() if name.startswith(_ENCODER)}
    if not heard:
        raise CheckpointError(f"{source}: has no {_ENCODER}* and no binary_pred.*: {_HINT}")
    structure = encoder_structure(heard, source)
    structure["encoder_attention_heads"] = heads or heads_of(structure["encoder_embed_dim"], source)
    config = {**_public("generator"), "roi_mode": roi_mode, "encoder": asdict(AVHubertConfig(**structure))}
    kept = {
        name: value
        for name, value in weights.items()
        if not name.startswith(("sync_net.", *_HEADS)) and (name.startswith(_ENCODER) or "audio_encoder." not in name)
    }
    _assert_fits(build_generator, {"description": config}, kept, source)
    name = encoder_name(structure)
    size = f"{structure['encoder_layers']} layers of {structure['encoder_embed_dim']}"
    return config, kept, f"{name} ({size})" if name else size


def _assert_fits(
    make: Callable[..., nn.Module], config: Mapping[str, Any], weights: Mapping[str, Tensor], source: Path
) -> None:
    with torch.device("meta"):
        model = make(**config)
    checkpoint.assert_fits(model, weights, source, _HINT)


def _public(group: str) -> dict[str, Any]:
    """The public structure is the one of the config `full`."""
    return to_dict(OmegaConf.load(CONFIGS / group / "full.yaml"))

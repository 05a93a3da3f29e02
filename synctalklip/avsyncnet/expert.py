"""Trained AV-SyncNets for others to use: the frozen expert of stage 2, and encoders to start from.

Legend: B clips, T video frames at 25 Hz, D embedding, L tokens, V symbols.

Reads fairseq checkpoints (ours, and public AV-HuBERT ones that hold plain containers) without fairseq, and the
folders of `scripts/convert_checkpoint.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import Tensor, nn

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig
from synctalklip.avsyncnet.hubert import AVHubert
from synctalklip.avsyncnet.model import AVSyncNet
from synctalklip.checkpoint import CheckpointError
from synctalklip.data.text import TextError, Tokenizer
from synctalklip.distance import AVDistance

Module = TypeVar("Module", bound=nn.Module)

PRETRAINED = ("avhubert", "av_hubert")
FINE_TUNED = ("avsyncnet", "av_hubert_seq2seq")
CONFORMER = "conformer"
ENCODER_PREFIX = "encoder.w2v_model."
# Needed to predict clusters only, or (the last) a number that older fairseq versions store and never read.
_UNUSED = ("label_embs_concat", "final_proj.weight", "final_proj.bias", "embed_positions._float_tensor")
# Public AV-HuBERT models were trained on landmark-aligned mouth crops.
PUBLIC_ROI_MODE = "landmark"
# The multiplier of pre-training would stay in a loaded model and shrink every gradient tenfold, unseen.
_AS_GIVEN: dict[str, Any] = {"feature_grad_mult": 1.0}


class Expert(nn.Module):
    """A frozen lip reader: always in eval mode, no parameter learns, gradients reach the pixels whole.

    Attributes:
        model: the AV-SyncNet.
        tokenizer: its symbols, None when the checkpoint has none.
        roi_mode: how the mouth regions of its training were cut.
    """

    def __init__(self, model: AVSyncNet, tokenizer: Tokenizer | None, roi_mode: str):
        super().__init__()
        self.model, self.tokenizer, self.roi_mode = model, tokenizer, roi_mode
        self.requires_grad_(False)
        self.train(False)

    @property
    def encoder(self) -> AVHubert:
        """The encoder alone."""
        return self.model.encoder.w2v_model

    @property
    def encoder_config(self) -> AVHubertConfig:
        """Structure of the encoder; `AVHubert(encoder_config)` takes its weights."""
        return AVHubertConfig.from_mapping(asdict(self.model.config))

    @property
    def metric_view(self) -> str:
        """What its distance sees of the encoder, see `AVHubert.view`."""
        return self.model.config.distance_view

    @property
    def distance(self) -> AVDistance:
        """The `distance.AVDistance` of stage 1."""
        return self.model.distance

    def encode(
        self, audio: Tensor | None = None, video: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Embed frames -> (B, T, D); see `AVHubert.encode`."""
        return self.model.encode(audio, video, padding_mask)

    def video_features(self, video: Tensor, chosen: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """ResNet features (B, T, F) of video, or (R, F) of the `chosen` frames; see `ResEncoder.forward`."""
        return self.encoder.feature_extractor_video.resnet(video, chosen)

    def encode_features(
        self,
        features: Tensor,
        padding_mask: Tensor | None = None,
        hidden: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> Tensor:
        """`encode` of video from its ResNet features (B, T, F), which are most of its cost -> (B, T, D).

        `hidden` and `windows`: see `AVHubert.encode_features`.
        """
        return self.encoder.encode_features(features, padding_mask, hidden, windows)

    def heard(self, audio: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The sound (B, 104, T) as the distance of stage 1 compares it, (B, T, W)."""
        return self.model.heard(audio, padding_mask)

    def seen(self, video: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The lips (B, 1, T, 88, 88) as the distance of stage 1 compares them, (B, T, W)."""
        return self.model.seen(video, padding_mask)

    def seen_features(self, features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """`seen` of lips from their ResNet features (B, T, F) -> (B, T, W)."""
        view = self.encoder.view_of_features(features, padding_mask, self.metric_view)
        return self.distance.project(view, "video", padding_mask)

    def lip_logits(self, prev_tokens: Tensor, embeddings: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) of the next token given (B, L) previous ones and (B, T, D) embeddings."""
        return self.model.decode(prev_tokens, embeddings, padding_mask)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever `mode` says: frozen means the same every step."""
        return super().train(False)


def load_expert(path: str | Path, roi_mode: str | None = None) -> Expert:
    """Read a fine-tuned AV-SyncNet, or a public AV-HuBERT seq2seq file of plain containers; converted or not.

    Args:
        path: fairseq checkpoint, or converted folder.
        roi_mode: if given, the mode it must have been trained with.

    Raises:
        CheckpointError: missing, damaged, carrying code, of another kind, incomplete, of other sizes than
            it states, or trained with another ROI mode.
    """
    return expert_of(read_checkpoint(path), path, roi_mode)


def expert_of(state: Mapping[str, Any], path: str | Path, roi_mode: str | None = None) -> Expert:
    """The expert in a checkpoint from `read_checkpoint`; `path` names it in messages. See `load_expert`."""
    name = _kind(state, path)
    if name not in FINE_TUNED:
        raise CheckpointError(
            f"{path}: is a pre-trained {name!r} model without a decoder; fine-tune it with "
            "scripts/train_avsyncnet.py first"
        )
    weights = _weights(state)
    task = task_state(state, path)
    stored_mode = PUBLIC_ROI_MODE if name == "av_hubert_seq2seq" and "roi_mode" not in task else roi_mode_of(task, path)
    if roi_mode is not None and roi_mode != stored_mode:
        raise CheckpointError(
            f"{path}: was trained on {stored_mode!r} mouth regions, {roi_mode!r} ones are given; prepare the "
            "clips with its mode"
        )
    settings = decoder_settings(state)
    if settings.get("align") == "conv":
        raise CheckpointError(
            f"{path}: its distance has the convolution of an earlier version; fine-tune with distance=identity and "
            "learn its distance with scripts/learn_distance.py"
        )
    config = AVSyncNetConfig.from_mapping(encoder_settings(state) | settings)
    vocabulary = _tensor(weights, "decoder.embed_tokens.weight", path).shape[0]
    config = replace(config, **_AS_GIVEN, vocab_size=vocabulary, num_classes=[])
    model = _build(lambda: AVSyncNet(config), path)
    own = ("encoder.", "decoder.", "distance.")
    checkpoint.load_weights(model, {key: value for key, value in weights.items() if key.startswith(own)}, path)
    return Expert(model, tokenizer_of(task, path), stored_mode)


def load_encoder(path: str | Path) -> AVHubert:
    """Read the encoder of a pre-trained or fine-tuned checkpoint, without its pre-training heads.

    Its gradient scale is 1, as in fine-tuning. `state_dict()` fits `AVHubert(encoder.config)`.

    Raises:
        CheckpointError: as `load_expert`, but both kinds are taken.
    """
    state = read_checkpoint(path)
    name = _kind(state, path)
    weights = _weights(state)
    if name in FINE_TUNED:
        weights = {
            key.removeprefix(ENCODER_PREFIX): value for key, value in weights.items() if key.startswith(ENCODER_PREFIX)
        }
    config = replace(AVHubertConfig.from_mapping(encoder_settings(state)), **_AS_GIVEN)
    model = _build(lambda: AVHubert(config), path)
    checkpoint.load_weights(model, weights, path)
    return model


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of stage 1 in the layout of fairseq's: `cfg`, `model` and `task_state`.

    Args:
        path: fairseq checkpoint without pickled objects, or folder of `scripts/convert_checkpoint.py`.

    Raises:
        CheckpointError: missing, damaged or carrying code.
    """
    state = checkpoint.load(path)
    if not Path(path).is_dir() or state.get("kind") not in (*PRETRAINED, *FINE_TUNED, CONFORMER):
        return state
    task = {name: state.get(name) for name in ("tokenizer", "roi_mode", "label_sizes")}
    cfg = {"model": (state.get("config") or {}) | {"_name": state["kind"]}}
    return {"cfg": cfg, "model": state["model"], "task_state": task}


def model_name(state: Mapping[str, Any]) -> str | None:
    """Under which name the model of a checkpoint is registered, None for one of another stage."""
    return ((state.get("cfg") or {}).get("model") or {}).get("_name")


def _kind(state: Mapping[str, Any], path: str | Path) -> str:
    name = model_name(state)
    if name not in PRETRAINED + FINE_TUNED or not isinstance(state.get("model"), Mapping):
        raise CheckpointError(
            f"{path}: is a {state.get('kind', name or 'foreign')!r} checkpoint, an AV-SyncNet or AV-HuBERT one "
            "of stage 1 is needed (checkpoints/checkpoint_best.pt of its run)"
        )
    return name


def _weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state["model"].items() if not key.endswith(_UNUSED)}


def encoder_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings of the encoder; public fine-tuned files keep them in the pre-training's configuration."""
    model = state["cfg"]["model"]
    stored = model.get("w2v_args")
    return dict(stored["model"] if stored else model)


def decoder_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the decoder and the distance only: those of the encoder may be fine-tuning overrides."""
    encoder = AVHubertConfig.__dataclass_fields__
    return {key: value for key, value in state["cfg"]["model"].items() if key not in encoder}


def task_state(state: Mapping[str, Any], path: str | Path) -> Mapping[str, Any]:
    """What the task of a training keeps: tokenizer, ROI mode, label sizes.

    Raises:
        CheckpointError: the checkpoint has none.
    """
    task = state.get("task_state")
    if not isinstance(task, Mapping):
        raise CheckpointError(f"{path}: holds no task state (tokenizer, ROI mode); train it with this version")
    return task


def roi_mode_of(task: Mapping[str, Any], path: str | Path) -> str:
    """How the mouth regions were cut, of a `task_state`.

    Raises:
        CheckpointError: it does not say.
    """
    if task.get("roi_mode") is None:
        raise CheckpointError(f"{path}: does not say how its mouth regions were cut; train it with this version")
    return task["roi_mode"]


def tokenizer_of(task: Mapping[str, Any], path: str | Path) -> Tokenizer | None:
    """The tokenizer of a `task_state`, None where it has none.

    Raises:
        CheckpointError: it is no tokenizer of this project.
    """
    if task.get("tokenizer") is None:
        return None
    try:
        return Tokenizer(task["tokenizer"])
    except TextError as error:
        raise CheckpointError(f"{path}: {error}; train it again") from None


def _tensor(weights: Mapping[str, Tensor], name: str, path: str | Path) -> Tensor:
    if name not in weights:
        raise CheckpointError(f"{path}: {name} is missing; the file is incomplete, train or copy it again")
    return weights[name]


def _build(make: Callable[[], Module], path: str | Path) -> Module:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be built ({error})") from error

"""The objectives of stage 1 under fairseq's trainer: eq. 3, and eqs. 4 to 6.

B clips, T video frames at 25 Hz, D embedding, L tokens, V symbols.

fairseq divides gradients by the sum of `sample_size`, and logs what `reduce_metrics` makes of the summed
logging outputs. Sums are logged, so that means are over the corpus and not over batches.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import MISSING
from torch import Tensor
from torch.nn import functional

from synctalklip.avsyncnet.config import assert_choice
from synctalklip.avsyncnet.search import greedy
from synctalklip.data.text import BOS, EOS, PAD
from synctalklip.device import Precision
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import CONTRASTS, alignment, frame_contrast, lip_reading, masked_prediction, weighted_sum
from synctalklip.metrics.avs import alignment_counts
from synctalklip.metrics.intelligibility import word_counts

Logging = dict[str, float]


class NonFiniteLoss(SyncTalklipError):
    """A loss is NaN or infinite; raised before the update, so that the last checkpoint stays good."""


def assert_finite(loss: Tensor, terms: dict[str, Tensor], sample: dict[str, Any]) -> None:
    """Raise `NonFiniteLoss` that names the terms and the clips unless `loss` is a number."""
    if bool(torch.isfinite(loss)):
        return
    values = ", ".join(f"{name}={float(value.detach()):g}" for name, value in terms.items())
    raise NonFiniteLoss(
        f"the loss is {float(loss.detach()):g} ({values}) on clips {sample['id'].tolist()}; lower the learning rate or "
        "clip gradients, and look at these clips"
    )


def ctc(logits: Tensor, target: Tensor, padding_mask: Tensor) -> Tensor:
    """Connectionist temporal classification (Graves et al. 2006) per token.

    The blank is the bos symbol, which no target holds.

    Args:
        logits: (B,T,V).
        target: (B,L) ending in eos, padded with pad.
        padding_mask: (B,T).
    """
    spoken = target.ne(PAD) & target.ne(EOS)
    return functional.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        target.masked_fill(~spoken, PAD),
        (~padding_mask).sum(1),
        spoken.sum(1),
        blank=BOS,
        # A clip shorter than its transcript has no path; it must not stop the run.
        zero_infinity=True,
    )


def _autocast(model: Any, sample: dict[str, Any], precision: str) -> torch.autocast:
    """`precision` for training only: validation computes what inference computes."""
    return Precision(precision, "").autocast(sample["net_input"]["padding_mask"].device, enabled=model.training)


def _log_means(logging_outputs: list[Logging], weights: dict[str, str], priority: int = 10) -> None:
    """Log `sum / sum of its weight` of every name that was counted."""
    totals: dict[str, float] = {}
    for output in logging_outputs:
        for name, value in output.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    for name, weight in weights.items():
        count = totals.get(weight, 0.0)
        if name in totals and count > 0:
            metrics.log_scalar(name, totals[name] / count, count, priority=priority, round=4)


@dataclass
class MaskedPredictionConfig(FairseqDataclass):
    """Weights of eq. 3."""

    alpha: float = field(default=MISSING, metadata={"help": "weight of the unmasked frames: 0 base, 1 large"})
    features_pen: float = field(default=MISSING, metadata={"help": "weight of the mean square of the features"})
    precision: str = field(default=MISSING, metadata={"help": "of training passes: fp32 or bf16"})


@register_criterion("masked_prediction", dataclass=MaskedPredictionConfig)
class MaskedPredictionCriterion(FairseqCriterion):
    """Eq. 3 and AV-HuBERT's feature penalty; the sample size is the number of frames that were predicted."""

    def __init__(self, cfg: MaskedPredictionConfig, task: Any) -> None:
        super().__init__(task)
        self.cfg = cfg

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, Logging]:
        """Loss summed over frames, its sample size, logged sums."""
        with _autocast(model, sample, self.cfg.precision):
            out = model(targets=sample["labels"], need_unmasked=self.cfg.alpha > 0, **sample["net_input"])
        terms: dict[str, Tensor] = {}
        log: Logging = {"ntokens": int(sample["frames"].sum()), "nsentences": len(sample["id"])}
        sample_size = 0
        loss = torch.zeros((), device=out.features_pen.device)
        for masked, masked_ids, unmasked, unmasked_ids in out.label_sets():
            loss = loss + masked_prediction(masked, masked_ids, unmasked, unmasked_ids, self.cfg.alpha)
            sample_size += len(masked_ids) + (len(unmasked_ids) if self.cfg.alpha else 0)
            log["masked_loss"] = log.get("masked_loss", 0.0) + float(
                functional.cross_entropy(masked.detach().float(), masked_ids, reduction="sum")
            )
            log["masked_correct"] = log.get("masked_correct", 0) + int(masked.argmax(-1).eq(masked_ids).sum())
            log["masked_count"] = log.get("masked_count", 0) + len(masked_ids)
        terms["prediction"], terms["features_pen"] = loss, out.features_pen.float()
        loss = weighted_sum(
            {"prediction": loss, "features_pen": out.features_pen.float() * sample_size},
            {"prediction": 1.0, "features_pen": self.cfg.features_pen},
        )
        assert_finite(loss, terms, sample)
        log |= {
            "loss": float(loss.detach()),
            "sample_size": sample_size,
            "features_pen": float(terms["features_pen"].detach()) * sample_size,
        }
        return loss, sample_size, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[Logging]) -> None:
        """Log means per predicted frame and the accuracy on masked frames."""
        for output in logging_outputs:
            output["masked_accuracy"] = output["masked_correct"]
        _log_means(
            logging_outputs,
            {
                "loss": "sample_size",
                "features_pen": "sample_size",
                "masked_loss": "masked_count",
                "masked_accuracy": "masked_count",
            },
        )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every logged value is a sum."""
        return True


@dataclass
class LipReadingAlignmentConfig(FairseqDataclass):
    """Weights and options of eqs. 4 to 6."""

    lambda_lip: float = field(default=MISSING, metadata={"help": "eq. 4, decoder on the video embedding"})
    lambda_av: float = field(default=MISSING, metadata={"help": "eq. 5, distance of the two embeddings"})
    lambda_audio: float = field(default=MISSING, metadata={"help": "eq. 4 on the audio embedding; not in the paper"})
    lambda_ctc: float = field(default=MISSING, metadata={"help": "CTC on the embeddings; not in the paper"})
    label_smoothing: float = MISSING
    reduction: str = field(default=MISSING, metadata={"help": "sum, token_mean or sentence_mean"})
    av_form: str = field(
        default=MISSING, metadata={"help": "distance: eq. 5; cross_entropy, margin: eq. 5 with negatives"}
    )
    av_min_gap: int = field(default=MISSING, metadata={"help": "frames nearer than this are no negatives"})
    av_margin: float = field(default=MISSING, metadata={"help": "of the form margin"})
    detach: str = field(default=MISSING, metadata={"help": "side that eq. 5 does not move: none, audio, video, both"})
    av_updates: list[int] = field(
        default=MISSING,
        metadata={"help": "[a, b]: L_av is off until update a, then grows linearly to lambda_av at update b"},
    )
    freeze_updates: int = field(default=MISSING, metadata={"help": "updates before the encoder learns"})
    precision: str = field(default=MISSING, metadata={"help": "of training passes: fp32 or bf16"})


@register_criterion("lip_reading_alignment", dataclass=LipReadingAlignmentConfig)
class LipReadingAlignmentCriterion(FairseqCriterion):
    """Eq. 6: lambda_lip L_lip + lambda_av L_av, on both encoder passes of each clip.

    The loss of a batch is the weighted sum times its number of clips, and the sample size is that number:
    accumulated and distributed batches are averaged by their clips.
    """

    def __init__(self, cfg: LipReadingAlignmentConfig, task: Any) -> None:
        super().__init__(task)
        assert_choice("criterion.detach", cfg.detach, ("none", "audio", "video", "both"))
        assert_choice("distance.loss.form", cfg.av_form, ("distance", *CONTRASTS))
        if len(cfg.av_updates) != 2 or not 0 <= cfg.av_updates[0] <= cfg.av_updates[1]:
            raise SyncTalklipError(f"criterion.av_updates {list(cfg.av_updates)}: give [a, b] with 0 <= a <= b")
        self.cfg, self.tokenizer = cfg, task.tokenizer

    def lambda_av(self, num_updates: int) -> float:
        """Weight of eq. 5 at an update. A model that reads nothing yet can only satisfy it by saying nothing."""
        start, full = self.cfg.av_updates
        if num_updates >= full:
            return self.cfg.lambda_av
        return self.cfg.lambda_av * max(0.0, (num_updates - start) / (full - start))

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, Logging]:
        """Loss times clips, clips, logged sums."""
        cfg, target, mask = self.cfg, sample["target"], sample["net_input"]["padding_mask"]
        clips, lambda_av = len(target), self.lambda_av(model.num_updates)
        has_audio = sample["net_input"]["audio"] is not None
        if not has_audio and (cfg.lambda_av or cfg.lambda_audio):
            raise SyncTalklipError("lambda_av and lambda_audio need sound: add audio to fairseq.task.modalities")
        with _autocast(model, sample, cfg.precision):
            out = model(
                **sample["net_input"],
                # Validation reports the distance whether it is trained or not.
                hear=has_audio and bool(lambda_av or cfg.lambda_audio or not model.training),
                decode_audio=cfg.lambda_audio > 0,
                freeze_encoder=model.training and model.num_updates < cfg.freeze_updates,
                detach=cfg.detach,
            )
        terms = self._terms(out, target, mask)
        weights = {
            "lip": cfg.lambda_lip,
            "av": lambda_av,
            "audio": cfg.lambda_audio,
            "ctc": cfg.lambda_ctc,
            "audio_ctc": cfg.lambda_audio * cfg.lambda_ctc,
        }
        used = {name: value for name, value in terms.items() if weights[name]}
        loss = weighted_sum(used, {name: weights[name] for name in used})
        assert_finite(loss, terms, sample)
        log: Logging = {
            "loss": float(loss.detach()) * clips,
            "ntokens": int((~mask).sum()),
            "nsentences": clips,
            "sample_size": clips,
            "target_tokens": int(target.ne(PAD).sum()),
            "correct_tokens": int((out.lip_logits.argmax(-1).eq(target) & target.ne(PAD)).sum()),
        }
        for name, value in terms.items():
            log[f"{name}_loss"] = float(value.detach()) * clips
            log[f"{name}_weighted"] = log[f"{name}_loss"] * weights[name]
        if not model.training:
            log |= self._report(model, out, target, mask)
        return loss * clips, clips, log

    def _terms(self, out: Any, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Raw values of the loss terms that this batch has."""
        cfg = self.cfg

        def read(logits: Tensor) -> Tensor:
            return lip_reading(logits, target, cfg.label_smoothing, cfg.reduction, PAD)

        terms = {"lip": read(out.lip_logits)}
        if out.distances is not None:
            terms["av"] = self._alignment(out.distances, mask)
        if out.audio_logits is not None:
            terms["audio"] = read(out.audio_logits)
        if out.ctc_logits is not None:
            terms["ctc"] = ctc(out.ctc_logits, target, mask)
        if out.audio_ctc_logits is not None:
            terms["audio_ctc"] = ctc(out.audio_ctc_logits, target, mask)
        return terms

    def _alignment(self, distances: Tensor, mask: Tensor) -> Tensor:
        """Eq. 5, or its form with negatives."""
        cfg = self.cfg
        if cfg.av_form == "distance":
            return alignment(distances.diagonal(dim1=1, dim2=2), mask)
        return frame_contrast(distances, mask, cfg.av_form, cfg.av_min_gap, cfg.av_margin)

    @torch.no_grad()
    def _report(self, model: Any, out: Any, target: Tensor, mask: Tensor) -> Logging:
        """Validation: word edits of greedy reading, distances, alignment accuracy."""
        rows = greedy(model.decode, out.video, mask)
        errors = words = 0
        for row, reference in zip(rows, target.tolist()):
            counts = word_counts(self.tokenizer.decode(reference), self.tokenizer.decode(row))
            errors, words = errors + counts.errors, words + counts.length
        log: Logging = {"word_errors": 100 * errors, "words": words}
        if out.distances is None:
            return log
        counted: Logging = dict.fromkeys(
            ("paired_sum", "unpaired_sum", "aligned0", "aligned1", "pairs", "unpaired_pairs"), 0.0
        )
        for distances, length in zip(out.distances, (~mask).sum(1).tolist()):
            for name, value in alignment_counts(distances[:length, :length]).items():
                counted[name] += value
        return log | counted

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[Logging]) -> None:
        """Log means per clip, token, word and frame."""
        terms = ("lip", "av", "audio", "ctc", "audio_ctc")
        names = {
            "paired": "paired_sum",
            "unpaired": "unpaired_sum",
            "alignment0": "aligned0",
            "alignment1": "aligned1",
            "accuracy": "correct_tokens",
            "wer": "word_errors",
        }
        for output in logging_outputs:
            output.update({name: output[source] for name, source in names.items() if source in output})
        _log_means(
            logging_outputs,
            {"loss": "nsentences", "accuracy": "target_tokens", "wer": "words"}
            | {f"{term}_{kind}": "nsentences" for term in terms for kind in ("loss", "weighted")}
            | {"paired": "pairs", "unpaired": "unpaired_pairs", "alignment0": "pairs", "alignment1": "pairs"},
        )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every logged value is a sum."""
        return True

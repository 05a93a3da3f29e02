"""The contrastive term over its candidates and negatives, against loops over frames; what the expert reads."""

from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from stage2_factory import first_batch, write_expert

from synctalklip.cli import CONFIGS
from synctalklip.data.features import REACH
from synctalklip.distance import AVDistance
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.contrastive import Contrastive
from synctalklip.generator.trainer import Trainer


def options_of(**changes) -> dict:
    return {**OmegaConf.to_container(OmegaConf.load(CONFIGS / "loss" / "synctalklip.yaml"))["contrastive"], **changes}


@pytest.fixture
def step() -> SimpleNamespace:
    """Clips of 7 and of 5 frames, of which frames 1, 2 and 5, and frame 3 are painted; W = 4."""
    generator = torch.Generator().manual_seed(0)
    seen, heard, expert_heard = torch.randn(3, 2, 7, 4, generator=generator)
    padding_mask = torch.arange(7)[None] >= torch.tensor([7, 5])[:, None]
    places = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 2, 5, 3])
    return SimpleNamespace(seen=seen, heard=heard, expert_heard=expert_heard, padding_mask=padding_mask, places=places)


def naive(step, heard, form: str, scope: str, min_gap: int, nearest: int | None) -> float:
    """Painted lips against the sounds of every frame, one after the other."""
    lengths, total = (~step.padding_mask).sum(1).tolist(), 0.0
    for clip, frame in zip(*(place.tolist() for place in step.places)):
        lips = step.seen[clip, frame]
        own, others = float((heard[clip, frame] - lips).abs().sum()), []
        for other, length in enumerate(lengths):
            if scope == "clip" and other != clip:
                continue
            for moment in range(length):
                if other != clip or abs(moment - frame) >= min_gap:
                    others.append(float((heard[other, moment] - lips).abs().sum()))
        others = torch.tensor(sorted(others)[:nearest])
        all_of_them = torch.cat([torch.tensor([own]), others])
        total += own - float(others.mean()) if form == "distance" else own + float(torch.logsumexp(-all_of_them, 0))
    return total / len(step.places[0])


@pytest.mark.parametrize("form", ["distance", "cross_entropy"])
@pytest.mark.parametrize("scope", ["clip", "batch"])
@pytest.mark.parametrize(("negatives", "count"), [("all", None), ("nearest", 2)])
@pytest.mark.parametrize("encoder", ["generator", "expert"])
def test_sounds_of_the_whole_clip_equal_a_loop(step, form, scope, negatives, count, encoder):
    kinds = {"form": form, "scope": scope, "negatives": negatives, "count": count, "encoder": encoder, "min_gap": 2}
    term = Contrastive(options_of(anchor="video", candidates="clip", **kinds), AVDistance(4, normalize=False))
    heard = step.heard if encoder == "generator" else step.expert_heard
    assert term(step).item() == pytest.approx(naive(step, heard, form, scope, 2, count), rel=1e-4)


def test_sampled_sounds_are_some_of_them(step):
    term = Contrastive(
        options_of(anchor="video", candidates="clip", negatives="sampled", count=3), AVDistance(4, normalize=False)
    )
    found = {round(term(step).item(), 4) for _ in range(8)}
    assert len(found) > 1
    nearest = naive(step, step.heard, "distance", "clip", 1, 3)
    assert min(found) > min(nearest, 0) - 20
    # No three negatives are nearer than the nearest three.
    assert max(found) <= nearest + 1e-4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"form": "triplet"}, "form is 'triplet'"),
        ({"candidates": "clip"}, "set anchor: video"),
        ({"form": "audio_infonce", "anchor": "video"}, "needs anchor: audio"),
        ({"negatives": "nearest"}, "need a count"),
        ({"count": 3}, "need a count, all none"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(changes, sentence):
    with pytest.raises(SyncTalklipError, match=sentence):
        Contrastive(options_of(**changes), AVDistance(4))


LOCAL = {
    "distance_view": "front_end",
    "distance_head": "conv",
    "distance_shared": False,
    "distance_kernels": [5, 3],
    "distance_learn_tau": True,
}


@pytest.mark.parametrize("view", ["front_end", "1", "last"])
@pytest.mark.parametrize("megabytes", [0, 64])
@pytest.mark.parametrize("trainable", ["all", "none"])
def test_stage_two_compares_what_stage_one_learned(configure, prepared, tmp_path, view, megabytes, trainable):
    """The same metric on the same view of either encoder, with the features kept or not."""
    path = write_expert(tmp_path / "e.pt", prepared, "landmark", **LOCAL | {"distance_view": view})
    kept = [f"trainer.feature_cache_mb={megabytes}", f"audio_encoder.trainable={trainable}"]
    trainer = Trainer(configure(f"expert.path={path}", *kept))
    trainer.generator.eval()  # an encoder that learns has dropout
    batch = first_batch(trainer)
    painted = trainer.paint(batch)
    mask = painted.padding_mask
    seen = trainer.expert.seen(painted.video, mask)
    heard = trainer.expert.heard(batch["audio"][: len(mask)], mask)
    for found, expected in ((painted.seen, seen), (painted.expert_heard, heard), (painted.heard, heard)):
        torch.testing.assert_close(found[~mask], expected[~mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("neighbours", ["shown", "hidden", "apart"])
@pytest.mark.parametrize("masking", ["input", "feature"])
def test_only_shown_neighbours_are_read(configure, prepared, tmp_path, neighbours, masking):
    path = write_expert(tmp_path / "e.pt", prepared, "landmark", masking_type=masking)
    trainer = Trainer(configure(f"expert.path={path}", f"loss.lip.neighbours={neighbours}"))
    batch = first_batch(trainer)
    painted = trainer.paint(batch)
    painted.generated = painted.generated.detach().requires_grad_()
    before = trainer.objective.lip_reading(painted)
    (gradient,) = torch.autograd.grad(before, painted.generated)
    assert (gradient[painted.shown].flatten(1).abs().sum(1) > 0).all()
    far = ~painted.padding_mask
    for clip, frame in zip(*painted.places):
        far[clip, max(0, frame - REACH) : frame + REACH + 1] = False
    assert far.any()
    batch["rois"] = batch["rois"].clone()
    batch["rois"][: len(far)][far] = 255 - batch["rois"][: len(far)][far]
    trainer.feature_cache = None
    after = trainer.objective.lip_reading(trainer.paint(batch))
    assert torch.isfinite(after)
    if neighbours == "shown":
        assert abs(after - before) > 1e-6
    else:
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_recipes_of_the_extensions_compose():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for variant, form in (("cross_entropy", "cross_entropy"), ("nearest", "distance")):
            cfg = compose("train_generator", overrides=[f"variant={variant}", "expert.path=x"])
            assert cfg.loss.contrastive.form == form
            Contrastive(OmegaConf.to_container(cfg.loss.contrastive), AVDistance(4))

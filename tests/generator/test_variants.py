"""Every variant is a config that goes with every size, takes a step, and says so when its expert does not fit."""

from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from stage2_factory import assert_equal_states, first_batch, write_expert

from synctalklip import checkpoint, losses
from synctalklip.cli import refuse_renamed
from synctalklip.data.windows import collate
from synctalklip.errors import MetricError, SyncTalklipError
from synctalklip.evaluation.judges import was_expert
from synctalklip.generator.trainer import Trainer
from synctalklip.syncnet.lse import SyncExpert, SyncNetInfo, build_syncnet, save_syncnet

pytestmark = pytest.mark.trains

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CONV = {"distance_view": "front_end", "distance_head": "conv", "distance_width": 0.5, "distance_shared": False}
VARIANTS = sorted(path.stem for path in (CONFIGS / "variant").glob("*.yaml"))
CLEAR = ["expert.path=e.pt", "syncnet.path=s.pt", "run.name=x", "run.dir=x"]


@cache
def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("train_generator", overrides=[*CLEAR, *overrides]), resolve=True)


def test_the_paper_and_the_baselines_are_all_there():
    paper = {"synctalklip", "conv", "freeze", "no_contrastive", "infonce", "no_lip", "avhubert_expert"}
    assert set(VARIANTS) == paper | {"talklip", "wav2lip"} | {"nearest", "cross_entropy"}


def test_an_experiment_may_choose_its_variant_and_the_command_line_wins(tmp_path):
    """The variant goes over the weights of the experiment, whoever chose it."""
    recipe = "# @package _global_\ndefaults: [override /variant: no_lip]\nloss: {lambda_lip: 0.5, lambda_cav: 0.25}\n"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(recipe)
    own = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=own"]
    for more, variant, lip, cav in (
        ([], "no_lip", 0.0, 0.25),
        (["variant=no_contrastive"], "no_contrastive", 0.5, 0.0),
        (["variant=synctalklip"], "synctalklip", 0.5, 0.25),
        (["loss.lambda_lip=0.125"], "no_lip", 0.125, 0.25),
    ):
        found = composed(*own, *more)
        assert (found["variant"], found["loss"]["lambda_lip"], found["loss"]["lambda_cav"]) == (variant, lip, cav)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_the_same_settings_at_every_size(variant):
    """What a variant changes is the same at full and tiny size, but for weights that belong to the size."""
    changes = []
    for size in ([], ["experiment=generator/tiny"]):
        base, other = composed(*size), composed(*size, f"variant={variant}")
        assert other["variant"] == variant
        changes.append({key for key in flat(base) if flat(base)[key] != flat(other)[key]} - {"syncnet.path"})
    assert changes[0] == changes[1]


@pytest.mark.parametrize("experiment", ["generator/tiny", "grid/generator"])
def test_weights_behind_the_results(experiment):
    """The weights of the short trainings, which are not the paper's, and what variants make of them."""
    loss = composed(f"experiment={experiment}")["loss"]
    weights = {"rec": 1.0, "rec_lower": 1.0, "rec_mouth": 3.0, "adv": 0.01, "lip": 2e-3, "cav": 5e-4, "sync": 0.0}
    assert {name: loss[f"lambda_{name}"] for name in weights} == weights
    changed = {"no_lip": {"lip": 0.0}, "infonce": {"cav": 5e-3}, "wav2lip": {"lip": 0.0, "cav": 0.0, "sync": 0.15}}
    for variant, expected in changed.items():
        loss = composed(f"experiment={experiment}", f"variant={variant}")["loss"]
        assert {name: loss[f"lambda_{name}"] for name in weights} == weights | expected


def flat(node: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_published_weights():
    assert composed("variant=wav2lip")["loss"]["lambda_sync"] == 0.03
    assert composed("variant=talklip")["loss"]["lambda_cav"] == 1e-3
    assert composed("variant=wav2lip")["loss"]["lambda_lip"] == 0


@pytest.fixture
def syncnet(tmp_path):
    torch.manual_seed(0)
    sizes = {"structure": "small", "embedding": 8, "width": 4, "ends": "overlap", "chunk": 50}
    path = tmp_path / "syncnet.pt"
    save_syncnet(path, build_syncnet(**sizes), sizes, SyncNetInfo("small", "toy", 1))
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_takes_a_step(configure, prepared, syncnet, tmp_path, variant):
    overrides = [f"variant={variant}"]
    if variant == "wav2lip":
        overrides.append(f"syncnet.path={syncnet}")
    if variant in ("conv", "cross_entropy"):
        overrides.append(f"expert.path={write_expert(tmp_path / 'conv.pt', prepared, 'landmark', **CONV)}")
    trainer = Trainer(configure(*overrides))
    painted, scalars = trainer.generator_step(first_batch(trainer))
    scalars |= trainer.discriminator_step(painted)
    assert all(torch.isfinite(value) for value in scalars.values())
    terms = {"lip", "cav", "sync"} & set(scalars)
    expected = {"no_contrastive": {"lip"}, "no_lip": {"cav"}, "wav2lip": {"sync"}}
    assert terms == expected.get(variant, {"lip", "cav"})


def test_an_expert_of_another_kind_is_refused(configure, prepared, tmp_path):
    with pytest.raises(SyncTalklipError, match="its distance is 'identity', this variant is about 'conv'"):
        Trainer(configure("variant=conv"))
    with pytest.raises(SyncTalklipError, match=r"expert.align is called expert.distance"):
        refuse_renamed(OmegaConf.create({"expert": {"align": "conv"}}))


class TestSyncExpert:
    def test_gradients_reach_the_lower_half_and_nothing_learns(self, syncnet):
        expert = SyncExpert(syncnet)
        faces, sound = torch.rand(10, 3, 96, 96, requires_grad=True), torch.randn(2, 13, 20)
        before = {name: value.clone() for name, value in expert.state_dict().items()}
        expert.train()
        losses.synchronisation(*expert.embed(faces, sound)).backward()
        assert faces.grad[:, :, 48:].flatten(1).abs().sum(1).min() > 0
        assert not faces.grad[:, :, :48].any()
        assert all(torch.equal(value, before[name]) for name, value in expert.state_dict().items())
        assert not any(parameter.requires_grad for parameter in expert.parameters())

    def test_windows_are_embedded_as_an_evaluation_embeds_them(self, syncnet):
        expert = SyncExpert(syncnet)
        faces = torch.randint(0, 256, (5, 96, 96, 3), dtype=torch.uint8)
        mfcc = torch.randn(20, 13)
        video, audio = expert.embed(faces.permute(0, 3, 1, 2) / 255, mfcc.T[None])
        reference = expert.syncnet.embed_clip(faces, mfcc)
        torch.testing.assert_close(video, reference[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(audio, reference[1])

    def test_loss_by_hand(self):
        same, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        assert losses.synchronisation(same, same).item() == pytest.approx(0)
        assert losses.synchronisation(same, other).item() == pytest.approx(0.6931, abs=1e-4)
        assert losses.synchronisation(same, -same).item() == pytest.approx(9.2103, abs=1e-3)

    def test_its_file_is_written_down_and_no_judge(self, configure, syncnet, tmp_path):
        trainer = Trainer(configure("variant=wav2lip", f"syncnet.path={syncnet}", "trainer.steps=1"))
        path = trainer.run()
        stored = checkpoint.load(path)
        assert stored["syncnet_sha256"] == checkpoint.file_hash(syncnet)
        assert stored["syncnet_info"]["structure"] == "small"
        assert was_expert(path, syncnet)
        sizes = {"structure": "small", "embedding": 8, "width": 4, "ends": "overlap", "chunk": 50}
        other = tmp_path / "other.pt"
        save_syncnet(other, build_syncnet(**sizes), sizes, SyncNetInfo("small", "toy", 1))
        assert not was_expert(path, other)

    def test_an_evaluation_by_the_expert_is_refused(self, configure, syncnet, prepared):
        from synctalklip.evaluation.evaluate import evaluate

        path = Trainer(configure("variant=wav2lip", f"syncnet.path={syncnet}", "trainer.steps=1")).run()
        overrides = [f"data.prepared={prepared}", f"generated={path}", f"syncnet.path={syncnet}", "split=valid"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("evaluate", overrides=[*overrides, f"run.dir={path.parent}/e", "run.name=e"])
        with pytest.raises(MetricError, match=r"was an expert of .* its LSE would flatter the generator"):
            evaluate(cfg)

    def test_missing_or_wrong_windows_are_named(self, configure, syncnet):
        with pytest.raises(SyncTalklipError, match=r"give syncnet\.path"):
            Trainer(configure("loss.lambda_sync=0.1"))
        with pytest.raises(SyncTalklipError, match=r"windows\.frames is 4"):
            Trainer(configure("variant=wav2lip", f"syncnet.path={syncnet}", "windows.frames=4"))


def test_silent_windows_are_painted_but_not_read(configure):
    trainer = Trainer(configure("windows.silence={probability:1.0,threshold_db:-0.001}"))
    data = trainer.data.sets["train"]
    items = [data[0, 0], data[0, 1]]
    for item, silent in zip(items, (True, False)):
        item["silent"] = torch.full_like(item["silent"], silent)
    batch = collate(items)
    assert batch["spoken_counts"] == [0, len(batch["spoken"])]
    painted = trainer.paint(batch)
    painted.clips = None
    terms = trainer.objective.terms(painted, ["rec", "lip", "cav"])
    (read,) = torch.autograd.grad(terms["lip"] + terms["cav"], painted.generated, retain_graph=True)
    (drawn,) = torch.autograd.grad(terms["rec"], painted.generated)
    strength = read.flatten(1).abs().sum(1)
    assert (strength > 0).tolist() == (~batch["silent"]).tolist()
    assert (drawn.flatten(1).abs().sum(1) > 0).all()
    # A batch without a word has these terms at zero, not at NaN.
    painted.clips = 1
    for name in set(vars(painted)) - {field.name for field in fields(painted)}:
        del painted.__dict__[name]
    empty = trainer.objective.terms(painted, ["lip", "cav"])
    assert [value.item() for value in empty.values()] == [0, 0]
    sum(empty.values()).backward()


def test_a_run_starts_from_the_weights_of_another(configure, tmp_path):
    first = Trainer(configure("trainer.steps=2", run="first"))
    path = first.run()
    fresh = Trainer(configure(f"init.generator={path}", run="second"))
    assert_equal_states(fresh.generator.state_dict(), first.generator.state_dict())
    with pytest.raises(SyncTalklipError, match="does not fit"):
        Trainer(configure(f"init.generator={path}", "generator.width=0.125", run="third"))
    with pytest.raises(SyncTalklipError, match="'generator' checkpoint, a 'discriminator' one"):
        Trainer(configure(f"init.discriminator={path}", run="fourth"))

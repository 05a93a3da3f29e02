"""Stage 1 under fairseq's trainer, called as a library from our Hydra configuration."""

import logging
import warnings
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synctalklip import checkpoint
from synctalklip.avsyncnet.config import AVSyncNetConfig
from synctalklip.avsyncnet.launch import is_first, join_processes, plan_updates, wait_for_all
from synctalklip.cli import to_dict
from synctalklip.device import Precision, choose_device, choose_precision, record_precision
from synctalklip.distance import LEARNED
from synctalklip.errors import SyncTalklipError
from synctalklip.losses import CONTRASTS

logger = logging.getLogger(__name__)


class ConfigError(SyncTalklipError):
    """A setting that fairseq or this plugin does not know, or a value of the wrong type."""


def register() -> None:
    """Import the plugin by its package name, once; `common.user_dir` stays null."""
    import synctalklip.avsyncnet.criterion
    import synctalklip.avsyncnet.fairseq_models
    import synctalklip.avsyncnet.task  # noqa: F401


def fairseq_config(cfg: DictConfig) -> DictConfig:
    """Complete and check the `fairseq` node of a composed configuration.

    Args:
        cfg: root configuration of scripts/train_avsyncnet.py.

    Returns:
        A resolved node in struct mode that fairseq's trainer accepts.

    Raises:
        ConfigError: names the key that is unknown or has a value of the wrong type.
    """
    register()
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.dataclass.initialize import add_defaults
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    chosen = OmegaConf.create(to_dict(cfg.fairseq, resolve=True))
    if corpora := cfg.data.get("corpora"):
        chosen.task.corpora = {name: corpus.prepared for name, corpus in corpora.items()}
    chosen.model = OmegaConf.merge(_structure(cfg, chosen.model.get("_name")), chosen.model)
    registries = {
        "model": MODEL_DATACLASS_REGISTRY,
        "task": TASK_DATACLASS_REGISTRY,
        "criterion": CRITERION_DATACLASS_REGISTRY,
    }
    for name, registry in registries.items():
        kind = chosen.get(name, {}).get("_name")
        if kind not in registry:
            raise ConfigError(f"fairseq.{name}._name is {kind!r}, which no {name} is registered as")
    try:
        node = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(FairseqConfig), chosen))
        add_defaults(node)
        OmegaConf.resolve(node)
    except OmegaConfBaseException as error:
        key = error.full_key or error.key
        reason = str(error).splitlines()[0]
        raise ConfigError(f"fairseq configuration, key {key!r}: {reason}; correct or remove it") from None
    missing = sorted(key for key in OmegaConf.missing_keys(node) if key.split(".")[0] in registries)
    if missing:
        raise ConfigError(f"fairseq configuration: give a value for {', '.join(missing)}")
    OmegaConf.set_struct(node, True)
    return node


def _structure(cfg: DictConfig, kind: str) -> dict[str, Any]:
    """Fields of the `encoder` group that the chosen model has; a pre-training model has no decoder.

    Raises:
        ConfigError: a field that no model of this family knows.
    """
    from synctalklip.avsyncnet.config import AVHubertConfig, AVSyncNetConfig
    from synctalklip.avsyncnet.conformer import ConformerConfig

    structure = to_dict(cfg.encoder, resolve=True)
    family = (ConformerConfig,) if kind == "conformer" else (AVHubertConfig, AVSyncNetConfig)
    known = {field.name for field in fields(family[-1])}
    unknown = sorted(set(structure) - known)
    if unknown:
        raise ConfigError(
            f"encoder.{unknown[0]}: is no field of {' or '.join(one.__name__ for one in family)}; correct it, or take "
            f"an encoder config of {kind} models"
        )
    own = {field.name for field in fields(AVHubertConfig)} if kind == "avhubert" else known
    return {name: value for name, value in structure.items() if name in own}


def complete_sizes(node: DictConfig) -> None:
    """Fill in what follows from data and weights, so that a checkpoint's configuration rebuilds its model."""
    from synctalklip.data.manifest import label_classes
    from synctalklip.data.text import Tokenizer

    if node.model.channels_last and node.common.fp16:
        raise ConfigError("fairseq.model.channels_last does not go with common.fp16, which flattens weights")
    labels = Path(node.task.prepared) / "labels"
    if node.model._name == "avhubert":
        if not node.task.labels:
            raise ConfigError("pre-training needs frame labels: make some with scripts/cluster.py and name them")
        node.model.num_classes = [label_classes(labels / name) for name in node.task.labels]
        return
    if node.task.tokenizer is None:
        raise ConfigError("fine-tuning needs a tokenizer: make one with scripts/train_tokenizer.py")
    node.model.vocab_size = Tokenizer.load(node.task.tokenizer).size
    node.model.ctc = node.criterion.lambda_ctc > 0
    if node.model._name == "conformer":
        node.model.hear = node.criterion.lambda_audio > 0
        for name in ("lambda_av", "freeze_updates"):
            if node.criterion[name]:
                raise ConfigError(f"fairseq.criterion.{name} belongs to AV-SyncNet: a Conformer needs it to be 0")
    if node.model._name == "avsyncnet":
        _assert_learnable(node)
    if node.criterion.freeze_updates and not node.model.init_from:
        raise ConfigError(
            "fairseq.criterion.freeze_updates keeps an encoder of random weights: give init_from=<checkpoint>, or set "
            "it to 0"
        )
    if node.model.get("frozen_stages") and not node.model.init_from:
        raise ConfigError(
            "fairseq.model.frozen_stages keeps stages of random weights: give init_from=<checkpoint>, or 0"
        )
    if node.criterion.freeze_updates and node.optimizer.get("weight_decay"):
        raise ConfigError(
            "fairseq.optimizer.weight_decay would shrink the weights that freeze_updates holds: set it to 0"
        )


def _assert_learnable(node: DictConfig) -> None:
    """A learned F needs negatives, and a loss to learn from."""
    if node.model.distance_head not in LEARNED:
        return
    if not node.criterion.lambda_av:
        raise ConfigError(
            f"distance={node.model.distance_head} would stay as it was drawn, as loss.lambda_av is 0: learn it "
            "afterwards with scripts/learn_distance.py and set distance=identity here"
        )
    if node.criterion.av_form == "distance":
        raise ConfigError(
            f"distance={node.model.distance_head} learns to answer eq. 5 with a constant: set distance.loss.form to "
            f"{' or '.join(CONTRASTS)}"
        )


def settle_precision(node: DictConfig) -> Precision:
    """Replace `auto` in `node.criterion.precision` by what the device computes in; a run that goes on keeps its own.

    Raises:
        SyncTalklipError: the run began in another precision than is asked for.
    """
    stored = _stored(node)
    begun = None if stored is None else _settings(stored)["criterion.precision"]
    device = choose_device("cpu" if node.common.cpu else "auto")
    chosen = choose_precision(node.criterion.precision, device, begun)
    node.criterion.precision = chosen.name
    return chosen


def repair_last_checkpoint(folder: str | Path) -> None:
    """Make `checkpoint_last.pt` readable again after a kill.

    fairseq writes one file atomically and copies it to the other names; a kill during the copy leaves a
    file that is cut short while its source is whole. The newest whole checkpoint takes its place.

    Raises:
        SyncTalklipError: the last checkpoint is damaged and no other is whole.
    """
    folder = Path(folder)
    last = folder / "checkpoint_last.pt"
    if not last.exists() or zipfile.is_zipfile(last):
        return
    whole = [path for path in folder.glob("checkpoint*.pt") if path != last and zipfile.is_zipfile(path)]
    if not whole:
        raise SyncTalklipError(f"{last}: is cut short and no other checkpoint is whole; remove it to start anew")
    newest = max(whole, key=lambda path: path.stat().st_mtime)
    logger.warning("%s was cut short by a kill; going on from %s", last.name, newest.name)
    # Not a rename: the source may be the best checkpoint, which has to stay.
    partial = last.with_name("checkpoint_last.partial")
    partial.write_bytes(newest.read_bytes())
    partial.replace(last)


# What a run is; where and how fast it is computed, and for how long, may change when it goes on.
_IDENTITY = ("model", "criterion", "task", "optimizer")
_MAY_CHANGE = (
    "model.channels_last",
    "model.compile",
    "task.cache",
    "task.disk_cache",
    "task.prepared",
    "task.corpora",
    "task.tokenizer",
)


_PLAIN_LOSS = {"criterion.av_form": "distance", "criterion.av_min_gap": 1, "criterion.av_margin": 1.0}


def assert_same_run(node: DictConfig) -> None:
    """Refuse to go on with the checkpoints of a run that had other settings.

    Raises:
        ConfigError: names the first setting that differs.
    """
    folder, stored = Path(node.checkpoint.save_dir), _stored(node)
    if stored is None:
        return
    before, wanted = _settings(stored), _settings(node)
    for name in sorted(before.keys() | wanted.keys()):
        if before.get(name) != wanted.get(name):
            raise ConfigError(
                f"{folder.parent} holds a run with fairseq.{name}={before.get(name)}, and {wanted.get(name)} is asked "
                "for: give another run.name, or delete that folder to start anew"
            )


def _stored(node: DictConfig) -> DictConfig | None:
    """The configuration of the run that `node` goes on with; None where there is none."""
    folder = Path(node.checkpoint.save_dir)
    file = folder.parent / "fairseq.yaml"
    going_on = (folder / "checkpoint_last.pt").exists() and file.is_file()
    return cast(DictConfig, OmegaConf.load(file)) if going_on else None


def _settings(node: DictConfig) -> dict[str, Any]:
    """The settings that make a run what it is, by dotted name."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if name in _MAY_CHANGE:
            return
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}")
        else:
            found[name] = value

    for section in _IDENTITY:
        walk(OmegaConf.to_container(node[section]), section)
    # What runs of earlier versions did without a setting of that name, and their name for the precision.
    if "model._name" in found and found["model._name"] != "avhubert":
        found.setdefault("model.frozen_stages", 0)
        _add_distance(found)
    if "criterion.amp_bf16" in found:
        found["criterion.precision"] = "bf16" if found.pop("criterion.amp_bf16") else "fp32"
    return found


def _add_distance(found: dict[str, Any]) -> None:
    """What fine-tunings did about their distance before it had these settings."""
    found |= {name: value for name, value in _PLAIN_LOSS.items() if name not in found}
    if found["model._name"] != "avsyncnet":
        return
    plain = asdict(AVSyncNetConfig())
    for name in (name for name in plain if name.startswith("distance_")):
        found.setdefault(f"model.{name}", plain[name])
    if found.get("model.align") == "identity":
        for name in ("model.align", "model.align_kernel", "model.align_layers"):
            found.pop(name, None)


# What these say of every epoch and batch hides the lines of training and validation.
_CHATTY = ("fairseq.trainer", "fairseq.checkpoint_utils", "fairseq.tasks.fairseq_task", "fairseq.data.iterators")


def _forget_previous_run() -> None:
    """Clear what fairseq keeps in module globals, so that runs of one sweep do not see each other."""
    import fairseq_cli.train
    from fairseq import checkpoint_utils
    from fairseq.logging import metrics, progress_bar

    for function in (checkpoint_utils.save_checkpoint, fairseq_cli.train.should_stop_early):
        function.__dict__.clear()
    for writer in (getattr(progress_bar, "_tensorboard_writers", None) or {}).values():
        writer.close()
    if getattr(progress_bar, "_tensorboard_writers", None):
        progress_bar._tensorboard_writers.clear()
    metrics.reset()


def train(cfg: DictConfig) -> Path:
    """Train until `max_update`, going on from `checkpoint_last.pt` where there is one.

    Args:
        cfg: root configuration of scripts/train_avsyncnet.py.

    Returns:
        Folder of the checkpoints (`checkpoint_best.pt`, `checkpoint_last.pt`).

    Raises:
        ConfigError: the configuration is wrong; raised before any data is read.
        LaunchError: processes are asked for that cannot be started here.
        SyncTalklipError: data or checkpoints are unusable, or the loss is not finite.
    """
    node = fairseq_config(cfg)
    from fairseq.distributed.utils import call_main

    complete_sizes(node)
    precision = settle_precision(node)
    join_processes(node)
    plan_updates(node)
    _forget_previous_run()
    folder = Path(node.checkpoint.save_dir)
    if is_first(node):
        assert_same_run(node)
        folder.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(node, folder.parent / "fairseq.yaml")
        record_precision(precision, "fairseq.criterion.precision", cfg.run.dir)
    call_main(node, _train_in_process)
    return folder


def _train_in_process(node: DictConfig) -> None:
    """What every process of a distributed run does; fairseq may have started this one afresh."""
    register()
    import fairseq_cli.train

    for name in (*_CHATTY, "fairseq_cli.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # fairseq asks for pinned memory and the old autocast on any machine.
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message=".*torch.cuda.amp.autocast.*", category=FutureWarning)
    folder = Path(node.checkpoint.save_dir)
    if is_first(node):
        repair_last_checkpoint(folder)
    wait_for_all()
    limit = node.optimization.max_update
    if limit and (folder / "checkpoint_last.pt").exists() and summary(folder)["updates"] >= limit:
        # fairseq would make one update more before it looks at its limit.
        logger.info("the run has all its %d updates already", limit)
        return
    try:
        fairseq_cli.train.main(node)
    except SyncTalklipError as error:
        raise _first_hand(error) from error


def _first_hand(error: SyncTalklipError) -> SyncTalklipError:
    """The error as it was raised: a worker of a data loader sends its whole trace in place of the sentence."""
    text = str(error)
    return type(error)(text.rstrip().splitlines()[-1].partition(": ")[2]) if text.startswith("Caught ") else error


def summary(folder: str | Path) -> dict[str, Any]:
    """Updates and best validation metric of a checkpoint folder, for reports."""
    state = checkpoint.load(Path(folder) / "checkpoint_last.pt")
    return {
        "updates": state["optimizer_history"][-1]["num_updates"],
        "metric": state["cfg"]["checkpoint"]["best_checkpoint_metric"],
        "best": state["extra_state"].get("best"),
    }

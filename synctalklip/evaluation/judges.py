"""What scores: SyncNets, lip readers, an audio-visual expert, a finder of landmarks. None may have been an expert
of the generator that it judges.

Legend: T video frames at 25 Hz.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synctalklip import checkpoint
from synctalklip.cli import build, to_dict
from synctalklip.data.detectors import FaceDetector
from synctalklip.errors import MetricError
from synctalklip.evaluation.lips import LipJudge, describe_lips
from synctalklip.evaluation.methods import Method
from synctalklip.metrics.avs import AVExpert
from synctalklip.metrics.image import Perceptual, open_lpips
from synctalklip.syncnet.lse import AnySyncNet, SyncNetInfo, assert_protocol, load_syncnet

SYNCNETS = ("syncnet", "syncnet2")
"""Nodes of the config; the columns of the second begin with `syncnet2.`."""


class Reader(Protocol):
    """A lip reader; `synctalklip.avsyncnet.decode.LipReader` is one.

    Attributes:
        roi_mode: how the ROIs have to be cut.
    """

    @property
    def roi_mode(self) -> str: ...

    def read(self, rois: list[np.ndarray], references: list[str] | None = None) -> list[str]:
        """ROIs (T,96,96) uint8 grey -> one sentence a clip."""
        ...


@dataclass
class Judges:
    """What scores the clips; what is None or empty leaves its columns out.

    Attributes:
        device: where the models are.
        syncnets: LSE columns, by the node of the config.
        readers: columns of WER and CER by their name.
        avs: AVS columns.
        lips: columns of the lips' geometry.
        detector: columns of the open mouth.
        lpips: its column.
    """

    device: torch.device
    syncnets: dict[str, AnySyncNet] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)
    avs: AVExpert | None = None
    lips: LipJudge | None = None
    detector: FaceDetector | None = None
    lpips: Perceptual | None = None


def reader_settings(cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """Every lip reader of the config by its column, completed by `reader_defaults`; those without a path are left out.

    Raises:
        MetricError: a name that is no name of a column, or a key that readers do not have.
    """
    found = {}
    for column, given in cfg.readers.items():
        if not re.fullmatch(r"\w+", str(column)):
            raise MetricError(f"readers.{column}: name the column by letters, digits and _ alone")
        node = OmegaConf.create(to_dict(cfg.reader_defaults))
        OmegaConf.set_struct(node, True)
        try:
            merged = OmegaConf.merge(node, given)
        except OmegaConfBaseException as error:
            raise MetricError(f"readers.{column} has a key that readers do not have: {error.msg}") from error
        if merged.path is not None:
            found[str(column)] = to_dict(merged)
    return found


def experts_of(generator: Path) -> set[str]:
    """SHA-256 of the experts of a generator: stored in its checkpoint, or of the files that its run's config names."""
    state = checkpoint.load(generator)
    stored = {state[key] for key in ("expert_sha256", "syncnet_sha256") if state.get(key)}
    stored |= set(state.get("expert_made_of") or ())
    config = generator.parent.parent / "config.yaml"
    if not config.is_file():
        return stored
    expert = OmegaConf.select(OmegaConf.load(config), "expert.path")
    if not expert or not Path(expert).exists():
        return stored
    named = checkpoint.origins(expert)
    # A file that was trained again since is another one.
    return stored | named if not stored or stored & named else stored


def was_expert(generator: Path, judge: str | Path) -> bool:
    """Whether a judge's file, or the one it was converted from, was an expert in the training of a generator."""
    return bool(experts_of(generator) & checkpoint.origins(judge))


def describe_judges(cfg: DictConfig, method: Method) -> dict[str, Any]:
    """What `summary.json` says about the judges; checks them without loading their weights.

    Raises:
        MetricError: SyncNet or a lip reader was an expert of the generator.
        CheckpointError: a file is missing.
    """
    described: dict[str, Any] = {}
    for key in SYNCNETS:
        if cfg[key].path is not None:
            described[key] = _describe_syncnet(cfg[key], key, method)
    if readers := reader_settings(cfg):
        for column, node in readers.items():
            _refuse(method, node["path"], f"readers.{column}", "lip reader", f"{column}")
        described["readers"] = {
            column: _entry(node["name"], node["path"]) | {"beam": node["beam"], "decoding": node["decoding"]}
            for column, node in readers.items()
        }
    if cfg.avs.path is not None:
        entry = _entry(cfg.avs.name, cfg.avs.path)
        if method.file is not None and was_expert(method.file, cfg.avs.path):
            entry["name"] += " that was an expert of this generator"
        described["avs"] = entry
    if wants_lips(cfg):
        described["lips"] = describe_lips(cfg.aperture, cfg.detector)
    return described


def _describe_syncnet(node: DictConfig, key: str, method: Method) -> dict[str, Any]:
    _refuse(method, node.path, key, "SyncNet", "LSE")
    model, info = load_syncnet(node.path)
    assert_protocol(model, node.protocol)
    entry = _entry(info.name, node.path) | {"ends": model.ends, "protocol": node.protocol}
    if model.window_rule is not None:
        entry["windows"] = model.window_rule
    expert = None if method.file is None else sync_expert_of(method.file)
    if expert is not None and expert.is_twin_of(info):
        entry["twin"] = f"its expert {expert.name}"
    return entry


def sync_expert_of(generator: Path) -> SyncNetInfo | None:
    """The SyncNet among the experts of a generator, as its checkpoint or else its run's config states it."""
    state = checkpoint.load(generator)
    if state.get("syncnet_info"):
        return SyncNetInfo(**state["syncnet_info"])
    config = generator.parent.parent / "config.yaml"
    path = OmegaConf.select(OmegaConf.load(config), "syncnet.path") if config.is_file() else None
    if not path or not Path(path).exists() or state.get("syncnet_sha256") not in checkpoint.origins(path):
        return None
    return load_syncnet(path)[1]


def _entry(name: str, path: str) -> dict[str, str]:
    return {"name": name, "path": str(path), "sha256": _digest(path)}


def _digest(path: str) -> str:
    if not Path(path).exists():
        raise checkpoint.CheckpointError(f"{path}: there is no such checkpoint")
    return checkpoint.file_hash(path)


def _refuse(method: Method, path: str, key: str, kind: str, score: str) -> None:
    _digest(path)
    if method.file is not None and was_expert(method.file, path):
        raise MetricError(
            f"{key}.path={path} was an expert of {method.file}: its {score} would flatter the generator; give a "
            f"{kind} that was trained apart"
        )


def load_judges(cfg: DictConfig, roi_mode: str, device: torch.device) -> Judges:
    """The models of the config.

    Raises:
        MetricError: a lip reader or expert was trained on other ROIs, or what LPIPS needs is not here.
    """
    judges = Judges(device)
    for key in SYNCNETS:
        if cfg[key].path is not None:
            judges.syncnets[key], _ = load_syncnet(cfg[key].path, device)
    for column, node in reader_settings(cfg).items():
        judges.readers[column] = load_reader(node, device)
        if judges.readers[column].roi_mode != roi_mode:
            raise MetricError(
                f"{node['path']} reads {judges.readers[column].roi_mode!r} mouth ROIs, the clips have {roi_mode!r}: "
                "prepare the clips or train the reader with the other mode"
            )
    if cfg.avs.path is not None:
        from synctalklip.avsyncnet.expert import load_expert

        judges.avs = load_expert(cfg.avs.path, roi_mode).to(device)
    if wants_openness(cfg):
        judges.detector = build(cfg.detector)
    if wants_lips(cfg):
        judges.lips = LipJudge(cfg.aperture, cfg.detector, judges.detector)
    if cfg.quality.lpips and cfg.setting == "reconstruction":
        judges.lpips = open_lpips(device)
    return judges


def wants_openness(cfg: DictConfig) -> bool:
    """Whether open mouths are counted: always, never, or ("auto") under silence.

    Raises:
        MetricError: another word.
    """
    return _wanted(cfg.openness.measure, "openness.measure", auto=cfg.setting == "silent")


def wants_lips(cfg: DictConfig) -> bool:
    """Whether lips are compared with those of a recording: always, never, or ("auto") where there is a sound.

    Raises:
        MetricError: another word.
    """
    # Nobody says silence: there is no recording to compare with.
    return _wanted(cfg.aperture.measure, "aperture.measure", auto=True) and cfg.setting != "silent"


def _wanted(given: Any, key: str, auto: bool) -> bool:
    choices = {"auto": auto, True: True, False: False}
    if given not in choices:
        raise MetricError(f"{key}={given}: choose auto, true or false")
    return choices[given]


def load_reader(node: Mapping[str, Any], device: torch.device) -> Reader:
    """The lip reader of a node of `reader_settings`."""
    from synctalklip.avsyncnet.decode import open_reader

    return open_reader(node["path"], device, beam=node["beam"], decoding=node["decoding"])

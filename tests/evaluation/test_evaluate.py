"""Evaluation end to end on the toy corpus, with a lip reader that is a plain function."""

import csv
import json
from pathlib import Path

import av
import cv2
import hydra
import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from run_factory import write_run

from synctalklip.cli import CONFIGS
from synctalklip.data.clips import ClipReader
from synctalklip.data.manifest import read_manifest
from synctalklip.data.media import probe, read_video, write_video
from synctalklip.errors import MetricError
from synctalklip.evaluation import judges
from synctalklip.evaluation.evaluate import evaluate
from synctalklip.evaluation.methods import GroundTruth
from synctalklip.evaluation.strip import compare
from synctalklip.metrics.image import score_faces
from synctalklip.syncnet.lse import SyncNetInfo, build_syncnet, save_syncnet
from synctalklip.tables.runs import load_run
from synctalklip.tables.table import markdown_table


class ToyReader:
    """Says the sentence when the mouth of the ROIs moves, and nothing when it is still."""

    roi_mode = "landmark"

    def read(self, rois: list[np.ndarray], references: list[str] | None = None) -> list[str]:
        moves = [np.abs(np.diff(clip[:, 48:].astype(float), axis=0)).mean() for clip in rois]
        return ["bin blue at f two now" if motion > 2 else "" for motion in moves]


@pytest.fixture
def syncnet(tmp_path: Path) -> Path:
    settings = {"structure": "small", "embedding": 16, "width": 4}
    save_syncnet(tmp_path / "syncnet.pt", build_syncnet(**settings), settings, SyncNetInfo("small", "toy", 0))
    return tmp_path / "syncnet.pt"


@pytest.fixture(autouse=True)
def toy_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "load_reader", lambda *_: ToyReader())


def config(corpus: Path, run: Path, *overrides: str, root: str = "evaluate") -> DictConfig:
    where = []
    if root == "evaluate":
        # There are no faces in the toy corpus; the lips' own tests render some.
        where = [f"data.prepared={corpus}", "data.name=toy", "bootstrap.samples=50", "aperture.measure=false"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(root, [*where, f"run.dir={run}", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "clips.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_footnote_names_the_windows_of_the_public_syncnet(toy_corpus, tmp_path):
    torch.save(build_syncnet("public").state_dict(), tmp_path / "syncnet_v2.model")
    cfg = config(toy_corpus, tmp_path / "run", f"syncnet.path={tmp_path}/syncnet_v2.model", "generated=ground_truth")
    judge = judges.describe_judges(cfg, GroundTruth())["syncnet"]
    run = write_run(tmp_path / "run", [{"id": "a", "frames": 10, "lse_d": 1.0}], syncnet=judge)
    note = "ends zeros, windows min(frames, samples / 640) - 5 a clip, as published"
    assert note in markdown_table([run], samples=10, seed=1)


def test_images_by_hand():
    truth = np.full((2, 96, 96, 3), 100, np.uint8)
    faces = truth.copy()
    faces[1, 48:] += 51  # error 0.2 on the lower half of one frame
    scores = score_faces(faces, truth, torch.device("cpu"))
    assert scores["psnr_lower"] == pytest.approx(-20 * np.log10(0.2))
    assert scores["psnr_face"] == pytest.approx(-20 * np.log10(0.2) + 10 * np.log10(2))
    assert 0 < scores["ssim_lower"] < 1
    assert score_faces(truth, truth, torch.device("cpu"))["psnr_face"] == float("inf")


def test_ground_truth_and_still_mouth(toy_corpus, tmp_path, syncnet):
    (tmp_path / "reader.pt").write_bytes(b"toy")
    judges = [f"syncnet.path={syncnet}", f"readers.WER.path={tmp_path}/reader.pt"]
    truth, still = tmp_path / "truth", tmp_path / "still"
    table = evaluate(config(toy_corpus, truth, "generated=ground_truth", *judges))
    evaluate(config(toy_corpus, still, "generated=still_mouth", *judges))
    assert "| Ground truth | 3 | ∞ | 1.000 [1.000, 1.000]" in table
    assert "SyncNet (small, trained on toy)" in table

    assert [row["id"] for row in rows_of(still)] == ["test_0", "test_1", "test_2"]
    assert all(row["WER.word_errors"] == "0" for row in rows_of(truth))
    assert all(row["WER.deletions"] == "6" for row in rows_of(still))
    assert all(10 < float(row["psnr_lower"]) < float(row["psnr_face"]) < 40 for row in rows_of(still))
    summary = json.loads((still / "summary.json").read_text())
    assert (summary["clips"], summary["frames"], summary["kind"]) == (3, 120, "still_mouth")
    assert len(summary["syncnet"]["sha256"]) == 64
    assert (still / "table.md").is_file()
    assert cv2.imread(str(still / "strip.png")).shape[0] == 3 * (2 * 96 + 4)
    assert probe(still / "faces" / "test_0.mp4").sample_rate == 16000
    shown = read_video(still / "faces" / "test_0.mp4", fps=None)
    assert len(shown) == 40
    assert np.abs(shown[30, 60:80, 38:58].astype(float) - shown[0, 60:80, 38:58]).mean() < 5

    strip, video = tmp_path / "both.png", tmp_path / "both.mp4"
    options = [f"runs=[{truth},{still}]", f"output={strip}", f"video={video}", "count=2"]
    compare(config(toy_corpus, tmp_path, *options, root="compare"))
    assert cv2.imread(str(strip)).shape[0] == 2 * (2 * 96 + 4)
    info = probe(video)
    assert (info.width, info.height, info.frames, info.sample_rate) == (2 * 192, 192 + 24, 2 * 40, 16000)
    with av.open(str(video)) as container:
        said = json.loads(container.metadata["comment"])
    assert said == {"generated": True, "rows": ["Ground truth", "Still mouth"]}
    both = read_video(video, fps=None)[:, 24:].astype(float)
    # The recorded mouth moves on the left, the still one does not.
    moving, standing = (np.abs(half[30] - half[0])[110:].mean() for half in (both[:, :, :192], both[:, :, 192:]))
    assert moving > 3 * standing


def test_judges_are_optional(toy_corpus, tmp_path):
    evaluate(config(toy_corpus, tmp_path, "generated=still_mouth", "limit=2", "faces.save=false", "strip.clips=0"))
    run = load_run(tmp_path)
    assert len(run.rows) == 2
    assert "lse_d" not in run.rows[0]
    assert not (tmp_path / "faces").exists()


def write_full_frames(corpus: Path, folder: Path) -> None:
    """The toy clips' faces pasted at their boxes into larger frames."""
    reader = ClipReader(read_manifest(corpus, "test"))
    for i, clip in enumerate(reader.clips):
        frames = np.zeros((clip.frames, 128, 160, 3), np.uint8)
        frames[:, 10:106, 20:116] = reader.faces(i)
        (folder / clip.id).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{clip.id}.mp4", frames, crf=4, pixel_format="yuv444p")


def test_folder_of_videos(toy_corpus, tmp_path):
    videos = tmp_path / "Wav2Lip"
    write_full_frames(toy_corpus, videos)
    evaluate(config(toy_corpus, tmp_path / "run", f"generated={videos}"))
    run = load_run(tmp_path / "run")
    assert run.summary["name"] == "Wav2Lip"
    assert all(float(row["psnr_face"]) > 38 for row in run.rows)


def test_bad_videos_are_named(toy_corpus, tmp_path):
    videos = tmp_path / "videos"
    write_full_frames(toy_corpus, videos)
    cfg = config(toy_corpus, tmp_path / "run", f"generated={videos}")
    frames = read_video(videos / "test_1.mp4", fps=None)
    write_video(videos / "test_1.mp4", frames[:30])
    with pytest.raises(MetricError, match=r"test_1\.mp4 has 30 frames"):
        evaluate(cfg)
    write_video(videos / "test_1.mp4", frames[:, :40, :40])
    with pytest.raises(MetricError, match=r"test_1\.mp4 has frames of 40x40"):
        evaluate(cfg)
    (videos / "test_1.mp4").unlink()
    with pytest.raises(MetricError, match=r"test_1\.mp4 is missing"):
        evaluate(cfg)


def test_another_methods_results_are_not_overwritten(toy_corpus, tmp_path):
    evaluate(config(toy_corpus, tmp_path, "generated=still_mouth"))
    with pytest.raises(MetricError, match=r"holds the results of still_mouth"):
        evaluate(config(toy_corpus, tmp_path, "generated=ground_truth"))


def test_unknown_source_is_named(toy_corpus, tmp_path):
    with pytest.raises(MetricError, match="generated=nothing is no file or folder"):
        evaluate(config(toy_corpus, tmp_path, "generated=nothing"))


class ToyGenerator(torch.nn.Module):
    """Paints white where the sound is, and shows that only the lower half is taken."""

    def encode_speech(self, audio: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        assert audio.shape[:2] == (1, 104)
        assert padding_mask.shape == (1, audio.shape[2])
        return audio.transpose(1, 2)

    def forward(self, faces: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        assert faces.shape[1:] == (6, 96, 96)
        assert speech.shape == (len(faces), 104)
        assert not faces[:, :3, 48:].any()
        return torch.ones_like(faces[:, 3:]) * torch.sigmoid(speech.mean(dim=1))[:, None, None, None]


@pytest.fixture
def generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from synctalklip.generator import model

    monkeypatch.setattr(model, "load_generator", lambda *_: ToyGenerator())
    path = tmp_path / "ours" / "checkpoints" / "generator.pt"
    path.parent.mkdir(parents=True)
    torch.save({"kind": "generator"}, path)
    return path


def test_generator_paints_the_lower_half(toy_corpus, tmp_path, generator):
    evaluate(config(toy_corpus, tmp_path / "run", f"generated={generator}", "batch_size=7"))
    run = load_run(tmp_path / "run")
    assert run.summary["name"] == "ours"
    shown = read_video(run.path / "faces" / "test_0.mp4", fps=None).astype(float)
    truth = ClipReader(read_manifest(toy_corpus, "test")).faces(0).astype(float)
    assert np.abs(shown[:, :44] - truth[:, :44]).mean() < 3
    assert shown[:, 52:].std(axis=(1, 2, 3)).max() < 4

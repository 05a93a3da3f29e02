"""Preparation with the ROI mode of the public TalkLip recipe, from video to what the lip expert sees."""

import cv2
import numpy as np
import pytest
import torch
from media_factory import make_media, moving_face, tone
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS
from synctalklip.data import media
from synctalklip.data.features import faces_to_rois
from synctalklip.data.layouts import SourceClip
from synctalklip.data.manifest import read_manifest
from synctalklip.data.prepare import prepare
from synctalklip.data.prepare_clip import Settings
from synctalklip.errors import SyncTalklipError


def test_rois_are_the_middle_of_the_frame_and_faces_fall_into_them(tmp_path):
    frames = [cv2.resize(frame, (160, 160)) for frame in moving_face(6, size=(200, 200))]
    video = make_media(tmp_path / "clip.mp4", frames, sound=tone(0.24))
    source = SourceClip(id="a/b", split="train", video=video, text="LAY GREEN", speaker="a")
    settings = Settings(crf=4, min_frames=5, max_frames=None, min_detected=0.5, roi_mode="center88")
    face = OmegaConf.to_container(OmegaConf.load(CONFIGS / "detector" / "dlib.yaml"))
    prepare([source], tmp_path / "prepared", settings, face, workers=1)
    (clip,) = read_manifest(tmp_path / "prepared")
    assert clip.roi_mode == "center88"
    rois, faces = media.read_gray(clip.rois), media.read_video(clip.faces, fps=None)
    decoded = np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in media.read_frames(video)])
    assert np.abs(rois.astype(int) - decoded[:, 32:128, 32:128]).mean() < 2
    with np.load(clip.track) as track:
        matrices = torch.from_numpy(track["matrices"])
    # Scale and shift alone, and the crop goes where it came from.
    assert not matrices[:, 0, 1].any()
    assert not matrices[:, 1, 0].any()
    unit = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255
    plain = torch.from_numpy(rois.copy()).float() / 255
    pasted = faces_to_rois(unit, matrices, plain)
    assert (pasted != plain).any()
    assert ((pasted - plain).abs() * 255).mean() < 4
    shifted = matrices + torch.tensor([[0.0, 0, 3], [0, 0, 3]])
    wrong = (faces_to_rois(unit, shifted, plain) - plain).abs().mean()
    assert wrong > 2 * (pasted - plain).abs().mean()


def test_an_unknown_mode_is_named():
    with pytest.raises(SyncTalklipError, match="roi_mode is 'centre'; use one of landmark, center88"):
        Settings(crf=12, min_frames=5, max_frames=None, min_detected=0.8, roi_mode="centre")

"""What Table 2 says of synchrony, against whole clips with the wrong mouth put in by hand."""

import numpy as np
import pytest
import torch
from prepared_factory import make_prepared
from stage2_factory import write_expert

from synctalklip.avsyncnet.decode import Generation
from synctalklip.avsyncnet.expert import load_expert
from synctalklip.data.clips import ClipReader
from synctalklip.data.features import normalize_roi
from synctalklip.data.manifest import read_manifest
from synctalklip.evaluation.gates import WrongMouths, gates_of_expert, gates_of_syncnet
from synctalklip.evaluation.table2 import compare, tables
from synctalklip.metrics.offsets import answer_counts, offset_counts, window_distances
from synctalklip.syncnet.lse import SyncNetInfo, build_syncnet, save_syncnet

WRONG = WrongMouths(windows=2, frames=3)
CONV = {"distance_view": "front_end", "distance_head": "conv", "distance_width": 0.5, "distance_shared": False}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = make_prepared(tmp_path_factory.mktemp("gates"), {"test": 3}, frames=(5, 13, 20))
    return read_manifest(root, "test")


@pytest.fixture(scope="module")
def syncnet(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"structure": "small", "embedding": 8, "width": 4, "ends": "overlap", "chunk": 50}
    path = tmp_path_factory.mktemp("syncnet") / "syncnet.pt"
    save_syncnet(path, build_syncnet(**sizes), sizes, SyncNetInfo("small", "toy", 1))
    return path


def test_places_lie_in_the_clip_and_half_a_clip_away():
    assert list(WrongMouths(4, 5).places(75)) == [(9, 48), (28, 67), (46, 10), (65, 29)]
    assert list(WrongMouths(2, 3).places(6)) == [(1, 5), (3, 1)]
    assert list(WRONG.places(5)) == []


@pytest.mark.parametrize("settings", [{}, CONV | {"distance_kernels": [5, 3]}], ids=["identity", "conv"])
def test_counts_equal_whole_clips_with_another_mouth(clips, tmp_path, settings):
    expert = load_expert(write_expert(tmp_path / "e.pt", clips[0].root, "landmark", **settings))
    rows, reader = gates_of_expert(expert, clips, WRONG, batch_frames=60), ClipReader(clips)
    assert not any("inside" in rows[clip.id] for clip in clips if clip.frames < 6)
    for index, clip in enumerate(clips):
        rois, audio = np.array(reader.rois(index)), reader.logfbank(index).T[None]

        def table(pictures: np.ndarray, audio=audio) -> np.ndarray:
            with torch.inference_mode():
                lips = expert.seen(normalize_roi(pictures)[None, None])[0]
                return expert.distance.table(expert.heard(audio)[0], lips).numpy()

        real, expected = table(rois), {}
        expected = offset_counts(real)
        expected |= {f"window_{k}": v for k, v in offset_counts(window_distances(real, 3)).items()}
        for first, source in WRONG.places(clip.frames):
            changed = rois.copy()
            changed[first : first + 3] = rois[source]
            for name, value in answer_counts(real, table(changed), first, 3).items():
                expected[name] = expected.get(name, 0.0) + value
        assert rows[clip.id] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_syncnet_is_measured_by_its_windows(clips, syncnet):
    from synctalklip.syncnet.lse import load_syncnet

    model = load_syncnet(syncnet)[0]
    rows, reader = gates_of_syncnet(model, clips, WRONG), ClipReader(clips)
    for index, clip in enumerate(clips):
        lips, sound = model.embed_clip(np.asarray(reader.faces(index)), reader.mfcc(index))
        nearest = [int((lips - one).norm(dim=1).argmin()) for one in sound]
        assert rows[clip.id]["window_sounds"] == clip.frames - 4
        assert rows[clip.id]["window_found0"] == sum(i == j for i, j in enumerate(nearest))
        assert rows[clip.id].get("inside", 0) == sum(first < len(lips) for first, _ in WRONG.places(clip.frames))


def test_the_table_of_synchrony_has_a_row_a_model_and_no_words_of_a_syncnet(clips, syncnet, tmp_path):
    expert = write_expert(tmp_path / "e.pt", clips[0].root, "landmark")
    results = compare({"AV": expert}, clips, Generation(), 60, "cpu", WRONG, {"SyncNet": syncnet})
    words, gates = tables(results, "corpus", samples=20, permutations=20, seed=1)
    assert [row.name for row in words.blocks[0][1]] == ["AV"]
    rows = {row.name: dict(zip([c.label for c in gates.columns], row.cells)) for row in gates.blocks[0][1]}
    assert list(rows) == ["AV", "SyncNet"]
    found = {name: sum(clip.get(name, 0) for clip in results["AV"]["clips"]) for name in ("farther", "inside")}
    assert rows["AV"]["wrong farther"].value == pytest.approx(found["farther"] / found["inside"])
    assert np.isnan(rows["SyncNet"]["entropy, recorded"].value)
    assert len(gates.columns) <= 8

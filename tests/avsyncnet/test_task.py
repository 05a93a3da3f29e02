"""The fairseq task: symbols, state, batches, and searches that agree."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from synctalklip.avsyncnet.search import SearchModel, greedy
from synctalklip.avsyncnet.task import AVSyncNetTask, AVSyncNetTaskConfig
from synctalklip.data.manifest import DatasetError
from synctalklip.data.text import EOS, Tokenizer
from synctalklip.errors import SyncTalklipError


@pytest.fixture
def task(prepared):
    cfg = OmegaConf.structured(AVSyncNetTaskConfig)
    cfg.prepared, cfg.tokenizer, cfg.seed = str(prepared), str(prepared / "tokenizer.model"), 1
    cfg.augmentation.random_crop = True
    return AVSyncNetTask(cfg)


def test_dictionary_ids_are_those_of_the_tokenizer(task):
    symbols = task.tokenizer.symbols
    dictionary = task.target_dictionary
    assert len(dictionary) == task.tokenizer.size
    assert [dictionary.index(symbol) for symbol in symbols] == list(range(len(symbols)))
    assert (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()) == (0, 1, 2, 3)


def test_state_is_plain_and_rebuilds_the_task_without_files(task, tmp_path):
    torch.save(task.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["roi_mode"] == "landmark"
    assert state["label_sizes"] == []
    again = AVSyncNetTask(OmegaConf.structured(AVSyncNetTaskConfig))
    again.load_state_dict(state)
    assert again.tokenizer.symbols == task.tokenizer.symbols


def test_label_sizes_come_from_the_labels(prepared):
    cfg = OmegaConf.structured(AVSyncNetTaskConfig)
    cfg.prepared, cfg.labels, cfg.seed = str(prepared), ["iter1"], 1
    task = AVSyncNetTask(cfg)
    assert task.label_sizes == [10]
    assert task.target_dictionary is None


def test_every_epoch_draws_other_batches_and_the_same_again(task):
    task.load_dataset("train")
    dataset = task.dataset("train")

    def batches(epoch):
        dataset.set_epoch(epoch)
        made = dataset.batch_by_size(dataset.ordered_indices(), max_tokens=40, required_batch_size_multiple=1)
        assert all(max(dataset.sizes[batch]) * len(batch) <= 40 for batch in made)
        return [sorted(map(int, batch)) for batch in made]

    first = batches(1)
    assert sorted(index for batch in first for index in batch) == list(range(10))
    assert batches(1) == first
    assert any(batches(epoch) != first for epoch in (2, 3, 4))


def test_epoch_holds_whole_updates_and_every_clip(task):
    task.cfg.batch_frames = 120
    task.load_dataset("train")
    dataset = task.dataset("train")
    for devices, passes in ((1, 3), (2, 2), (3, 1)):
        made = []
        for shard in range(devices):
            iterator = task.get_batch_iterator(
                dataset, max_tokens=40, num_shards=devices, shard_id=shard, disable_iterator_cache=True
            )
            made.append([batch["id"].tolist() for batch in iterator.next_epoch_itr()])
        assert sorted(index for shard in made for batch in shard for index in batch) == list(range(10))
        assert {len(shard) % passes for shard in made} == {0}
        assert {len(shard) for shard in made} == {len(made[0])}


def test_clip_longer_than_a_pass_is_an_error(task):
    task.load_dataset("train")
    dataset = task.dataset("train")
    with pytest.raises(DatasetError, match=r"a clip has 13 frames.*max_tokens=12"):
        dataset.batch_by_size(dataset.ordered_indices(), max_tokens=12)


def test_small_validation_keeps_every_clip_whatever_the_multiple(task):
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    made = dataset.batch_by_size(dataset.ordered_indices(), max_tokens=60, required_batch_size_multiple=8)
    assert sorted(index for batch in made for index in batch) == list(range(4))


def test_validation_of_pretraining_pads(prepared):
    cfg = OmegaConf.structured(AVSyncNetTaskConfig)
    cfg.prepared, cfg.labels, cfg.seed, cfg.limits.pad = str(prepared), ["iter1"], 1, False
    task = AVSyncNetTask(cfg)
    for split in ("train", "valid"):
        task.load_dataset(split)
    train, valid = (task.dataset(split) for split in ("train", "valid"))
    assert not train.collater([train[0], train[9]])["net_input"]["padding_mask"].any()
    assert valid.collater([valid[0], valid[3]])["net_input"]["padding_mask"].any()


def test_only_training_clips_are_augmented(task):
    task.load_dataset("train")
    task.load_dataset("valid")
    assert task.dataset("train").clips.augmentation.random_crop
    assert task.dataset("valid").clips.augmentation is None


def test_a_reader_on_another_split_holds_out_other_clips(task, prepared):
    def ids(split, seed):
        cfg = OmegaConf.create({**OmegaConf.to_container(task.cfg, resolve=False), "seed": 1, "resplit": seed})
        other = AVSyncNetTask(OmegaConf.merge(OmegaConf.structured(AVSyncNetTaskConfig), cfg))
        other.load_dataset(split)
        return {clip.id for clip in other.dataset(split).clips.reader.clips}

    own, dealt = ({name: ids(name, seed) for name in ("train", "valid", "test")} for seed in (None, 2))
    assert dealt["valid"] != own["valid"]
    assert len(dealt["valid"]) == len(own["valid"])
    assert not dealt["train"] & dealt["valid"]
    assert dealt["train"] | dealt["valid"] == own["train"] | own["valid"]
    # What scores are reported on stays unseen.
    assert dealt["test"] == own["test"]


def test_mixed_roi_modes_are_refused(task):
    from dataclasses import replace

    from synctalklip.avsyncnet.task import _one_roi_mode

    clips = task._manifest()
    with pytest.raises(SyncTalklipError, match="center88, landmark"):
        _one_roi_mode([replace(clips[0], roi_mode="center88"), *clips[1:]], "folder")


class Bigram:
    """A model whose next token depends on the last one and on how long the clip is."""

    def __init__(self, vocabulary: int):
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(vocabulary, vocabulary, generator=generator) * 2
        self.table[:, EOS] -= 1

    def encode(self, audio=None, video=None, padding_mask=None):
        return (~padding_mask).float().cumsum(1)[..., None]

    def decode(self, tokens, embeddings, padding_mask, state=None):
        length = (~padding_mask).sum(1).repeat_interleave(len(tokens) // len(padding_mask))
        logits = self.table[tokens] + torch.arange(len(self.table)) * length[:, None, None] / 50
        place = torch.arange(1, tokens.shape[1] + 1)
        logits[..., EOS] += 0.3 * place
        return logits


def score(model, row, length):
    tokens = torch.tensor([[EOS, *row]])
    mask = torch.zeros(1, length, dtype=torch.bool)
    log_probs = model.decode(tokens, None, mask)[0].log_softmax(-1)
    return sum(float(log_probs[i, token]) for i, token in enumerate([*row, EOS])) / (len(row) + 1)


def batch(lengths):
    mask = torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]
    return {"net_input": {"audio": None, "video": None, "padding_mask": mask}}


def test_beam_of_one_is_greedy_and_wider_beams_score_no_worse(task):
    model, lengths = Bigram(task.tokenizer.size), [12, 9, 4]
    mask = batch(lengths)["net_input"]["padding_mask"]
    rows = greedy(model.decode, model.encode(padding_mask=mask), mask)
    best = {}
    for beam in (1, 4):
        options = SimpleNamespace(beam=beam, max_len_a=1.0, max_len_b=0, min_len=1, lenpen=1.0)
        generator = task.build_generator([model], options)
        found = task.inference_step(generator, [model], batch(lengths))
        best[beam] = [clip[0]["tokens"].tolist()[:-1] for clip in found]
    assert best[1] == rows
    for wide, narrow, length in zip(best[4], best[1], lengths):
        assert score(model, wide, length) >= score(model, narrow, length) - 1e-5


def test_longest_hypothesis_counts_frames(task):
    model = Bigram(task.tokenizer.size)
    model.table[:, EOS] = -1e4
    mask = batch([9, 4])["net_input"]["padding_mask"]
    assert [len(row) for row in greedy(model.decode, model.encode(padding_mask=mask), mask)] == [9, 4]
    options = SimpleNamespace(beam=2, max_len_a=1.0, max_len_b=0, min_len=1)
    generator = task.build_generator([model], options)
    together = task.inference_step(generator, [model], batch([9, 4]))
    assert [len(clip[0]["tokens"]) for clip in together] == [10, 5]
    # The limit is the clip's own, whatever it shares a batch with, and so is the score of every hypothesis.
    for clip, length in zip(together, (9, 4)):
        alone = task.inference_step(generator, [model], batch([length]))[0]
        assert [found["tokens"].tolist() for found in clip] == [found["tokens"].tolist() for found in alone]
        assert [float(found["score"]) for found in clip] == pytest.approx([float(found["score"]) for found in alone])


def test_search_model_leaves_the_model_in_its_mode():
    net = torch.nn.Linear(1, 1).train()
    net.encode = net.decode = lambda *args: None
    SearchModel(net).eval()
    assert net.training


def test_tokenizer_is_named_when_it_is_missing(prepared, tmp_path):
    cfg = OmegaConf.structured(AVSyncNetTaskConfig)
    cfg.prepared, cfg.tokenizer, cfg.seed = str(prepared), str(tmp_path / "none.model"), 1
    with pytest.raises(SyncTalklipError, match=r"none\.model"):
        assert AVSyncNetTask(cfg).tokenizer
    assert Tokenizer.load(prepared / "tokenizer.model").size == 16

"""Decoding token by token gives what decoding whole prefixes gives, and computes every token once."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from synctalklip.avsyncnet.decoder import DecoderState, TextDecoder
from synctalklip.avsyncnet.search import greedy
from synctalklip.benchmark.naive import WholePrefix
from synctalklip.data.text import EOS, Tokenizer
from synctalklip.errors import SyncTalklipError

FRAMES = torch.tensor([14, 9, 5])


def decoder(vocabulary: int = 16) -> TextDecoder:
    """Weights at random, large enough that the tokens depend on each other and on the frames."""
    torch.manual_seed(0)
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    made = TextDecoder(vocabulary, 2, 32, 48, 4, 24, **rates, max_positions=64).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made


def frames() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 14, 24, generator=generator), torch.arange(14)[None] >= FRAMES[:, None]


def whole_prefixes(model: TextDecoder):
    return WholePrefix(SimpleNamespace(encode=None, decode=model)).decode


@torch.no_grad()
@pytest.mark.parametrize("steps", [[1] * 8, [3, 1, 4], [8]])
def test_logits_equal_those_of_the_whole_prefix(steps):
    model, (embeddings, padding) = decoder(), frames()
    tokens = torch.randint(4, 16, (3, 8), generator=torch.Generator().manual_seed(2))
    expected = model(tokens, embeddings, padding)
    state, found = DecoderState(), []
    for end in torch.tensor(steps).cumsum(0).tolist():
        found.append(model(tokens[:, :end], embeddings, padding, state))
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=1e-5)
    assert [part.shape[1] for part in found] == steps
    assert state.length == 8


@torch.no_grad()
def test_hypotheses_of_a_clip_read_its_frames():
    model, (embeddings, padding) = decoder(), frames()
    tokens = torch.randint(4, 16, (6, 5), generator=torch.Generator().manual_seed(2))
    expected = model(tokens, embeddings.repeat_interleave(2, 0), padding.repeat_interleave(2, 0))
    torch.testing.assert_close(model(tokens, embeddings, padding), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(SyncTalklipError, match="4 rows of tokens for 3 clips"):
        model(tokens[:4], embeddings, padding)


@torch.no_grad()
def test_reordered_state_goes_on_from_the_chosen_rows():
    model, (embeddings, padding) = decoder(), frames()
    tokens = torch.randint(4, 16, (6, 5), generator=torch.Generator().manual_seed(2))
    state = DecoderState()
    model(tokens[:, :4], embeddings, padding, state)
    # The second clip is finished; both hypotheses of the third go on from its second one.
    rows, clips = torch.tensor([1, 0, 5, 5]), torch.tensor([0, 2])
    state.reorder(rows, clips)
    tokens, embeddings, padding = tokens[rows], embeddings[clips], padding[clips]
    found = model(tokens, embeddings, padding, state)
    torch.testing.assert_close(found, model(tokens, embeddings, padding)[:, -1:], atol=1e-5, rtol=1e-5)


def test_greedy_computes_every_token_and_every_frame_once():
    model, (embeddings, padding) = decoder(), frames()
    expected = greedy(whole_prefixes(model), embeddings, padding)
    rows = {"tokens": 0, "frames": 0}

    def count(name):
        return lambda _, inputs, __: rows.update({name: rows[name] + inputs[0].shape[:-1].numel()})

    model.layers[0].fc1.register_forward_hook(count("tokens"))
    model.layers[0].encoder_attn.k_proj.register_forward_hook(count("frames"))
    assert greedy(model, embeddings, padding) == expected
    assert rows["frames"] == embeddings.shape[:2].numel()
    longest = max(len(row) + (len(row) < limit) for row, limit in zip(expected, FRAMES.tolist()))
    assert rows["tokens"] == len(embeddings) * longest


@pytest.mark.parametrize("beam", [1, 4])
def test_beam_search_finds_the_same_with_and_without_state(prepared, beam):
    from synctalklip.avsyncnet.task import AVSyncNetTask, AVSyncNetTaskConfig

    cfg = OmegaConf.structured(AVSyncNetTaskConfig)
    cfg.prepared, cfg.tokenizer, cfg.seed = str(prepared), str(prepared / "tokenizer.model"), 1
    task = AVSyncNetTask(cfg)
    model, (embeddings, padding) = decoder(Tokenizer.load(cfg.tokenizer).size), frames()

    def shorter_clips_end_sooner(decode):
        def decoded(tokens, embeddings, padding, state):
            logits = decode(tokens, embeddings, padding, state)
            ends = (tokens.shape[1] > (~padding).sum(1) // 2).repeat_interleave(len(tokens) // len(padding))
            logits[:, -1, EOS] += 9 * ends
            return logits

        return decoded

    options = SimpleNamespace(beam=beam, max_len_a=1.0, max_len_b=0, min_len=1, lenpen=1.0)
    found = []
    for decode in (model, whole_prefixes(model)):
        wrapped = SimpleNamespace(encode=lambda **_: embeddings, decode=shorter_clips_end_sooner(decode))
        generator = task.build_generator([wrapped], options)
        sample = {"net_input": {"audio": None, "video": None, "padding_mask": padding}}
        found.append(task.inference_step(generator, [wrapped], sample))
    for cached, naive in zip(*found):
        assert [one["tokens"].tolist() for one in cached] == [one["tokens"].tolist() for one in naive]
        scores = [torch.stack([one["score"] for one in clip]) for clip in (cached, naive)]
        torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-5)
    assert len({len(clip[0]["tokens"]) for clip in found[0]}) == 3

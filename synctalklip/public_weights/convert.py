"""Converts public checkpoints to ours, and ours to fairseq's layout; the content decides which."""

import logging
from pathlib import Path

from synctalklip.checkpoint import CheckpointError
from synctalklip.errors import SyncTalklipError
from synctalklip.public_weights import convert_avsyncnet as stage_one
from synctalklip.public_weights import talklip as stage_two
from synctalklip.public_weights.pickle import load_public

log = logging.getLogger(__name__)

DIRECTIONS = ("ours", "fairseq")


def convert(
    source: str | Path, output: str | Path, to: str, roi_mode: str | None = None, tokenizer: str | Path | None = None
) -> list[str]:
    """Convert one checkpoint.

    Args:
        source: public fairseq AV-HuBERT file, public TalkLip, SyncTalkLip or Wav2Lip file, or a checkpoint of ours.
        output: what to write: a folder for stage 1, a `.pt` file for stage 2 and for fairseq.
        to: `ours` or `fairseq`.
        roi_mode: how the mouth regions of its training were cut, where that is not the public way.
        tokenizer: sentencepiece model, where the file has none.

    Returns:
        What to tell the user, line by line.

    Raises:
        SyncTalklipError: missing, damaged, carrying code, of another kind or size; or a full disk.
    """
    source, output = Path(source), Path(output)
    tokenizer = None if tokenizer is None else Path(tokenizer)
    if to not in DIRECTIONS:
        raise SyncTalklipError(f"to={to}: choose {' or '.join(DIRECTIONS)}")
    if output.resolve() == source.resolve():
        raise SyncTalklipError(f"output={output}: is the input; give another name")
    if source.is_file():
        log.info("reading %s, %.0f MB", source, source.stat().st_size / 1e6)
    if to == "fairseq":
        return stage_one.to_fairseq(source, output, tokenizer)
    if source.is_dir():
        raise CheckpointError(f"{source}: is a folder; to=ours reads files, to=fairseq converted folders")
    state = load_public(source)
    if "state_dict" in state:
        return stage_two.to_ours(state, source, output, roi_mode)
    if "model" in state and (state.get("cfg") is not None or state.get("args") is not None):
        return stage_one.to_ours(state, source, output, roi_mode, tokenizer)
    if "kind" in state:
        raise CheckpointError(f"{source}: is a {state['kind']!r} checkpoint of this project, ready to use as it is")
    raise CheckpointError(
        f"{source}: holds {', '.join(map(str, list(state)[:4])) or 'nothing'}, is no fairseq checkpoint (model, cfg) "
        "and no TalkLip one (state_dict); give one of these"
    )

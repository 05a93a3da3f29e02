"""Decode a split to words: `scripts/decode.py checkpoint=... split=test generation.beam=20`."""

import json
from pathlib import Path

from omegaconf import DictConfig

from synctalklip.cli import entry, to_dict


@entry("decode")
def main(cfg: DictConfig) -> None:
    import torch

    from synctalklip.avsyncnet.decode import Generation, load_reader, read_clips, write_hypotheses
    from synctalklip.data.manifest import read_manifest

    device = "cuda" if torch.cuda.is_available() else "cpu"
    expert = load_reader(cfg.checkpoint, device)
    clips = [clip for clip in read_manifest(cfg.data, cfg.split) if clip.text]
    generation = Generation(**to_dict(cfg.generation))
    readings = list(read_clips(expert, clips, generation, cfg.modalities, cfg.batch_frames))
    folder = Path(cfg.run.dir)
    scores = write_hypotheses(folder / "hypotheses.jsonl", readings)
    (folder / "wer.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(
        f"WER {scores['wer']:.2f} % of {scores['words']} words in {scores['clips']} clips "
        f"(S {scores['substitutions']}, D {scores['deletions']}, I {scores['insertions']}), all in {folder}"
    )


if __name__ == "__main__":
    main()

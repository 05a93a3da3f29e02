"""Make the embedded corpus: `python scripts/make_corpus.py out=data/synthetic clips.train=240 workers=2`."""

from omegaconf import DictConfig

from synctalklip.cli import entry, to_dict


@entry("make_corpus")
def main(cfg: DictConfig) -> None:
    """Compose the settings, make what is missing, say what was made."""
    from synctalklip.data.synthetic.corpus import CorpusSettings, make_corpus

    settings = CorpusSettings(
        clips=to_dict(cfg.clips),
        identities=cfg.identities,
        seed=cfg.seed,
        unseen_identities=cfg.unseen_identities,
        frame_size=cfg.frame_size,
        rate=tuple(cfg.rate),
        silence=tuple(cfg.silence),
    )
    counts = make_corpus(settings, cfg.out, cfg.workers)
    print(f"{cfg.out}: {counts['made']} clips made ({counts['frames']} frames), {counts['kept']} kept")


if __name__ == "__main__":
    main()

"""Prepare a corpus: `python scripts/prepare.py data=grid data.root=... workers=8`."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("prepare")
def main(cfg: DictConfig) -> None:
    """Find the clips of the corpus and prepare what is missing."""
    from synctalklip.cli import build, to_dict
    from synctalklip.data.layouts import select
    from synctalklip.data.manifest import assert_one_corpus
    from synctalklip.data.prepare import prepare
    from synctalklip.data.prepare_clip import Settings

    assert_one_corpus(cfg.data)
    clips = select(build(cfg.data.layout), cfg.data.split, cfg.data.limit)
    settings = Settings(**{name: cfg[name] for name in Settings.__dataclass_fields__})
    face = to_dict(cfg.detector)
    counts = prepare(clips, cfg.data.prepared, settings, face, cfg.workers, cfg.shard)
    print(counts.summary(cfg.data.prepared))


if __name__ == "__main__":
    main()

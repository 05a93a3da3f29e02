"""Draw LSE over the shift, errors by word length and confusions of several evaluations.

python scripts/figures.py 'runs=[outputs/evaluate/truth,outputs/evaluate/ours]'
"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("figures")
def main(cfg: DictConfig) -> None:
    from synctalklip.tables.figures import draw_figures, write_figures
    from synctalklip.tables.runs import load_run

    drawn = draw_figures(
        [load_run(path) for path in cfg.runs],
        cfg.figures,
        cfg.readers,
        cfg.bootstrap.samples,
        cfg.seed,
        cfg.fewest,
        cfg.most_words,
    )
    for path in write_figures(drawn, cfg.run.dir, cfg.formats):
        print(path)


if __name__ == "__main__":
    main()

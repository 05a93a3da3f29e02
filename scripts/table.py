"""Join evaluations into one Markdown table with intervals."""

from pathlib import Path

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("table")
def main(cfg: DictConfig) -> None:
    from synctalklip.checkpoint import write_atomically
    from synctalklip.metrics.spread import spread_table
    from synctalklip.metrics.table import load_run, markdown_table

    runs = [load_run(path) for path in cfg.runs]
    if cfg.spread:
        table = spread_table(runs)
    else:
        table = markdown_table(runs, cfg.bootstrap.samples, cfg.seed, cfg.differences)
    write_atomically(Path(cfg.output), lambda part: part.write_text(table, encoding="utf-8"))
    print(table)


if __name__ == "__main__":
    main()

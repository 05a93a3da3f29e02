"""Join evaluations into one table: Markdown, LaTeX and CSV, with intervals and paired tests.

python scripts/table.py layout=table1 published=lrs2 'runs=[outputs/evaluate/truth,outputs/evaluate/ours]'
"""

from omegaconf import DictConfig

from synctalklip.cli import entry, to_dict


@entry("table")
def main(cfg: DictConfig) -> None:
    from synctalklip.tables.blocks import read_published
    from synctalklip.tables.render import write_tables
    from synctalklip.tables.runs import load_run, reader_names
    from synctalklip.tables.table import Layout, build_tables

    runs = [load_run(path) for path in cfg.runs]
    published = read_published(to_dict(cfg.published), reader_names(runs))
    layout = Layout(**to_dict(cfg.layout))
    tables = build_tables(runs, layout, cfg.bootstrap.samples, cfg.seed, published)
    print(write_tables(tables, cfg.output, cfg.formats))


if __name__ == "__main__":
    main()

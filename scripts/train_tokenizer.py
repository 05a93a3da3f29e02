"""Train the sentencepiece tokenizer of a prepared corpus on its training transcripts."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("train_tokenizer")
def main(cfg: DictConfig) -> None:
    from synctalklip.data.manifest import read_manifest
    from synctalklip.data.text import train_tokenizer

    settings = cfg.data.tokenizer
    texts = [clip.text for clip in read_manifest(cfg.data, "train")]
    tokenizer = train_tokenizer(texts, settings.path, settings.type, settings.size)
    print(f"{settings.path}: {tokenizer.size} symbols from {sum(map(bool, texts))} transcripts")


if __name__ == "__main__":
    main()

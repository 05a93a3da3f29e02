"""Public weights to ours and back: `scripts/convert_checkpoint.py input=large_vox_433h.pt output=checkpoints/large`."""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("convert_checkpoint")
def main(cfg: DictConfig) -> None:
    from synctalklip.public_weights.convert import convert

    for line in convert(cfg.input, cfg.output, cfg.to, cfg.roi_mode, cfg.tokenizer, cfg.heads):
        print(line)


if __name__ == "__main__":
    main()

"""Write the folder of a study: the page, the codes to hand out, and the key, which comes last."""

import csv
import importlib.resources
import io
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from synctalklip.data.encode import write_bytes
from synctalklip.study.answers import FORMAT, SCALE

PAGE_FILES = ("index.html", "style.css", "study.js")


def write_site(cfg: DictConfig, folder: Path, key: dict[str, Any]) -> None:
    """Write `page/` beside its videos, `participants.csv`, an empty `results/` and `key.json`.

    Args:
        cfg: `configs/study.yaml`.
        folder: of the study.
        key: what each video is, and the plan of each participant.
    """
    template = importlib.resources.files("synctalklip.study") / "page"
    for name in PAGE_FILES:
        write_bytes(folder / "page" / name, (template / name).read_bytes())
    data = json.dumps(_page_data(cfg, key), ensure_ascii=False, indent=1)
    write_bytes(folder / "page" / "data.js", f"window.STUDY = {data};\n".encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["code", "page"])
    writer.writerows([code, f"index.html?code={code}"] for code in key["plans"])
    write_bytes(folder / "participants.csv", table.getvalue().encode())
    (folder / "results").mkdir(exist_ok=True)
    write_bytes(folder / "key.json", json.dumps(key, ensure_ascii=False, indent=1).encode())


def _page_data(cfg: DictConfig, key: dict[str, Any]) -> dict[str, Any]:
    """What the page may know: neither methods, nor clips, nor which video is a hidden check."""
    first = next(iter(key["plans"].values()))
    seconds = sum(key["items"][name]["seconds"] + cfg.seconds_to_answer for name in first)
    practice = sum(item["kind"] == "practice" for item in key["items"].values())
    text = OmegaConf.to_container(cfg.text)
    facts = {"{videos}": str(len(first) - practice), "{minutes}": str(max(1, round(seconds / 60)))}
    for mark, value in facts.items():
        text["introduction"] = [paragraph.replace(mark, value) for paragraph in text["introduction"]]
    items = {
        name: {"note": item["note"], "practice": item["kind"] == "practice"} for name, item in key["items"].items()
    }
    return {
        "study": key["study"],
        "format": FORMAT,
        "scale": list(SCALE),
        "text": text,
        "aspects": key["aspects"],
        "items": dict(sorted(items.items())),
        "plans": key["plans"],
    }

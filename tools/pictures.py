"""Draw the front page's three pictures into book/_static.

python tools/pictures.py
"""

import json
from pathlib import Path

from mmlib.book import figures, front
from mmlib.files import write_whole

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    record = json.loads((ROOT / "book" / "results" / "pomology.json").read_text("utf8"))
    for name, (figure, _) in front.drawn(record).items():
        write_whole(ROOT / "book" / "_static" / f"build_{name}.png", figures.png_bytes(figure))


if __name__ == "__main__":
    main()

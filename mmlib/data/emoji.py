"""Emoji: a drawing by one of two artists, the English name, the group that it belongs to.

1,636 emoji in 8 groups and 95 subgroups, each drawn by Google (Noto) and by Twitter (Twemoji). Left
out are the group "Flags", whose every name begins with the answer ("flag: Japan"), and
"Component", five skin tones that are no pictures of their own. Skin-tone variants of the others
are left out as well: they are the same drawing in another color.

Near-duplicates abound (a man, a woman and a person running; 24 clock faces), so rows must never be
divided at random. `--group-column subgroup` keeps all of a kind on one side, and is the honest
question: is a bird known for an animal by a model that has seen mammals? One thing it does divide:
some silhouettes of a family stand both in the subgroup "family" and in "person-symbol", 9 rows in
all, as the report's warning says. `--group-column family` keeps only near-duplicates together.

Source: the npm packages emoji-datasource-google and emoji-datasource-twitter 16.0.0 (tables MIT,
Copyright (c) 2013 Cal Henderson; Google's pictures Apache License 2.0, Twitter's CC BY 4.0) and
emojibase-data 17.0.0 (names and keywords, MIT, Copyright (c) 2017-2019 Miles Johnson).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from mmlib.data.archive import check_member, open_archive, read_member
from mmlib.errors import expected

ADDRESS = "https://cdn.jsdelivr.net/"
ITEMS = "npm/emoji-datasource-google@16.0.0/emoji.json"
NAMES = "npm/emojibase-data@17.0.0/en/data.json"
# the column of each artist and the sheet of the drawings
SHEETS = {
    "image": "npm/emoji-datasource-google@16.0.0/img/google/sheets-256/64.png",
    "twemoji": "npm/emoji-datasource-twitter@16.0.0/img/twitter/sheets-256/64.png",
}
LICENSES = ("npm/emoji-datasource-google@16.0.0/LICENSE", "npm/emojibase-data@17.0.0/LICENSE")
SHA256 = {
    ITEMS: "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f",
    NAMES: "ed014f1049bd370c5794f815850156196ac382850f51c3e9f6a9e83553fb3f01",
    SHEETS["image"]: "d84ade799c1905c8046c6446b14143aabe142a496bd47d27787c36769b0b87b4",
    SHEETS["twemoji"]: "3823598464719ad7cb3a7ba14537b7852c8a323e18b39f7ca4fa9b1e98e9cc68",
}
COLUMNS = ("image", "twemoji", "name", "keywords", "group", "subgroup", "family")
LEFT_OUT = ("Flags", "Component")
SIZE, STEP = 64, 66  # a tile has a border of one pixel on the sheet
CREDIT = """\
Column image: Noto Emoji by Google, Apache License 2.0 (www.apache.org/licenses/LICENSE-2.0).
Column twemoji: Twemoji, Copyright Twitter, Inc and other contributors, CC BY 4.0
(creativecommons.org/licenses/by/4.0). Each picture is cut from the sheet of its package
(emoji-datasource-google and emoji-datasource-twitter 16.0.0) and not changed otherwise.
Groups and subgroups: emoji-datasource; names and keywords: emojibase-data. Their licenses:
"""
# What tells near-duplicates apart: who, which color, which way, what time.
VARIANTS = frozenset(
    "man men woman women person people boy girl child baby adult old older merman mermaid "
    "merperson red orange yellow green blue purple pink brown black white grey medium "
    "left right up down leftwards rightwards upwards downwards facing "
    "one two three four five six seven eight nine ten eleven twelve thirty o clock".split()
)


def write(out: Path) -> Path:
    """Writes images/, emoji.csv (`COLUMNS`) and CREDIT.txt to `out`; returns the CSV.

    The CSV is written last: where it exists, the pictures do too. They are 64 pixels wide, on a
    transparent ground. The compact copy holds the same files as the public address.

    Raises UserError where the source is unreachable, changed or incomplete.
    """
    with open_archive("emoji", ADDRESS, (*SHA256, *LICENSES)) as archive:
        found = {path: read_member("emoji", archive, path) for path in (*SHA256, *LICENSES)}
    for path, digest in SHA256.items():
        check_member(path, found[path], digest)
    items = select(json.loads(found[ITEMS]))
    names = {_code(entry["hexcode"]): entry for entry in json.loads(found[NAMES])}
    rows = [row(item, names) for item in items]
    for column, path in SHEETS.items():
        (out / "images" / column).mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(found[path])) as picture:
            sheet = picture.convert("RGBA")
        for item in tqdm(items, desc=column, unit="picture", disable=None):
            tile(sheet, item).save(out / _file(column, item))
    licenses = "\n".join(found[path].decode("utf-8") for path in LICENSES)
    (out / "CREDIT.txt").write_text(f"{CREDIT}\n{licenses}", encoding="utf-8")
    table_path = out / "emoji.csv"
    with open(table_path, "w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return table_path


def select(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries of emoji.json that are kept, in the order of the Unicode charts."""
    kept = [item for item in items if item["category"] not in LEFT_OUT]
    return sorted(kept, key=lambda item: item["sort_order"])


def row(item: Mapping[str, Any], names: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """{column: cell} of an emoji; names {code: entry of emojibase} has its name and keywords.

    Raises UserError where it has no name there.
    """
    code = _code(item["unified"])
    if code not in names:
        raise expected(f"a name for {code} in {NAMES}", "none", "the source has changed; report it")
    name, keywords = names[code]["label"], names[code].get("tags", [])
    return {
        **{column: _file(column, item) for column in SHEETS},
        "name": name,
        "keywords": ", ".join(keywords),
        "group": item["category"],
        "subgroup": item["subcategory"],
        "family": family(item["category"], name),
    }


def family(group: str, name: str) -> str:
    """What near-duplicates have in common: the group, and the name less `VARIANTS` and digits.

    'woman running: facing right' gives 'People & Body running'. It errs on the side of
    too much: 'red apple' and 'green apple' are a family.
    """
    words = re.findall(r"\w+", name.casefold())
    kept = [word for word in words if word.isalpha() and word not in VARIANTS]
    return " ".join([group, *kept])


def tile(sheet: Image.Image, item: Mapping[str, Any]) -> Image.Image:
    """The picture of an emoji, cut from the sheet of an artist."""
    x, y = STEP * item["sheet_x"] + 1, STEP * item["sheet_y"] + 1
    return sheet.crop((x, y, x + SIZE, y + SIZE))


def _file(column: str, item: Mapping[str, Any]) -> str:
    return f"images/{column}/{item['image']}"


def _code(hexcode: str) -> str:
    """Code points without the sign "show as a picture", which one source writes and one omits."""
    return hexcode.replace("-FE0F", "")

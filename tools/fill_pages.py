"""Write what is computed into the pages, between HTML comments: numbers, tables, references.

    python tools/fill_pages.py            # names what is out of date, and fails
    python tools/fill_pages.py --write    # brings it up to date

In a line of a page or of a notebook's Markdown cell (never as the first thing on a line: Markdown
would take the whole line for HTML):

    … is <!-- record: scenes_small.metrics.overall .1% --><!-- /record -->, while …

names the record book/results/scenes_small.json, the path of the value in it, and a format: one of
Python's, where `%` is written with a space (97.1 %); `minutes` for seconds; `GB` for bytes;
`million`; `length` for a list. A value {mean, low, high} is written with its interval:
97.1 % [96.2, 97.9].

On lines of their own, `<!-- block: records -->` and `<!-- /block -->` enclose a table of all
records, `<!-- block: mutants -->` that of the planted faults, `<!-- block: equations -->` what ties
each equation to the code (tools/equations.toml), `<!-- block: references -->` the list of
book/references.bib, each with a target: `[Vaswani et al. (2017)](#vaswani2017)` links to it. The
front page has three: `ask` is the picture that the reader asks about, `build` the three pictures of
what can be built (drawn by tools/pictures.py), `front` the picture that the trained model made.
"""

import json
import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"
INTERVAL = {"mean", "low", "high"}
NO_BREAK = "\u00a0"  # a number and its interval stay on one line
SPAN = re.compile(r"<!-- record: (\S+) (\S+) -->(.*?)<!-- /record -->", re.DOTALL)
BLOCK = re.compile(r"^<!-- block: (\w+) -->\n(.*?)^<!-- /block -->$", re.DOTALL | re.MULTILINE)


class Outdated(Exception):
    """A span that cannot be filled: its place and what to do about it."""


def load(name: str) -> Any:
    """The record book/results/NAME.json."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise Outdated(f"no record {path.relative_to(ROOT)}; run make record NAME={name}")
    return json.loads(path.read_text("utf8"))


def look_up(path: str) -> Any:
    """The value at NAME.key.key…; a key of digits indexes a list."""
    name, *keys = path.split(".")
    value = load(name)
    for key in keys:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise Outdated(f"record {name} has no {'.'.join(keys)} (at {key})") from None
    return value


def write_value(value: Any, how: str) -> str:
    """A value of a record as the prose shows it."""
    if isinstance(value, dict) and INTERVAL <= set(value):
        mean, low, high = (write_value(value[k], how) for k in ("mean", "low", "high"))
        low, high = (text.removesuffix(f"{NO_BREAK}%") for text in (low, high))
        return f"{mean} [{low}, {high}]".replace(" ", NO_BREAK)
    if how == "length":
        return str(len(value))
    if how == "minutes":
        return f"{value / 60:.0f}{NO_BREAK}min"
    if how == "GB":
        return f"{value / 1e9:.1f}{NO_BREAK}GB"
    if how == "million":
        return f"{value / 1e6:.1f}{NO_BREAK}million"
    if how.endswith("%"):
        return f"{100 * value:{how[:-1]}f}{NO_BREAK}%"
    return format(value, how)


def is_interval(value: Any) -> bool:
    """Whether a value of a record is {mean, low, high}."""
    return isinstance(value, dict) and set(value) >= INTERVAL


def shown(value: dict | float) -> str:
    """A number in a table, with its interval where that has a width in the digits shown."""
    if not isinstance(value, dict):
        return f"{value:.3f}"
    mean, low, high = (f"{round(value[k], 3) + 0.0:.3f}" for k in ("mean", "low", "high"))
    return mean if low == high else f"{mean} [{low}, {high}]".replace(" ", NO_BREAK)


def words(name: str) -> str:
    """A key of a record as a heading shows it."""
    return name.replace("_", " ")


def interval_tables(value: Any, path: str = "") -> Iterator[str]:
    """Every {mean, low, high} of a record: a list, or rows by columns where siblings agree."""
    if not isinstance(value, dict) or is_interval(value):
        return
    rows = [inner for inner in value.values() if isinstance(inner, dict) and inner]
    flat = {key: inner for key, inner in value.items() if is_interval(inner)}
    columns = list(rows[0]) if rows and not flat else []
    if (
        columns
        and len(rows) == len(value) > 1
        and all(list(row) == columns and all(map(is_interval, row.values())) for row in rows)
    ):
        body = [[words(key), *map(shown, row.values())] for key, row in value.items()]
        yield f"**{path}**\n\n{table(['row', *map(words, columns)], body)}"
        return
    if flat:
        body = [[words(key), shown(inner)] for key, inner in flat.items()]
        yield f"**{path or 'result'}**\n\n{table(['measure', 'mean and interval'], body)}"
    for key, inner in value.items():
        yield from interval_tables(inner, f"{path}, {words(key)}".strip(", "))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def within_0_and_1(value: dict | float) -> dict | float:
    """An accuracy whose t interval over few seeds leaves the range that it can have, cut to it."""
    if not isinstance(value, dict):
        return value
    return {key: min(max(value[key], 0.0), 1.0) for key in INTERVAL}


def scenes_tables(record: dict) -> str:
    """The record scenes_small by kind of question: each score beside what could refute it."""
    by_kind, alone = record["controls_by_kind"], record["trained_alone"]
    text = {
        "accuracy": record["metrics"],
        "pictures exchanged": by_kind["shuffled"],
        "picture hidden": by_kind["text_only"],
        "best guess from the text": record["best_guess"],
    }
    image = {
        "text hidden": by_kind["image_only"],
        "best guess from the objects": record["best_guess_from_objects"],
        "picture blank": by_kind["blank"],
        "combinations never trained": record["held_out_combinations"],
    }
    short = {
        "trained on the text alone": alone["text_alone"],
        "best guess from the text": record["best_guess"],
        "trained on the picture alone": alone["image_alone"],
        "best guess from the objects": record["best_guess_from_objects"],
    }
    parts = []
    for title, columns in (
        ("The model, and its questions about the wrong picture or none", text),
        ("The model without the text, and on what it never saw", image),
        ("One short training each on one side", short),
    ):
        rows = [
            [words(kind), *(shown(within_0_and_1(column[kind])) for column in columns.values())]
            for kind in record["metrics"]
        ]
        parts.append(f"**{title}**\n\n{table(['kind', *columns], rows)}")
    return "\n".join(parts)


def plateaus_tables(record: dict) -> str:
    """The record plateaus by kind of question: each run's end, and its distance from the whole."""
    parts = []
    for title, values, cut in (
        ("Accuracy at the last step, a column a part taken away", record["metrics"], True),
        ("Difference from the whole recipe, paired by seed", record["differences"], False),
    ):
        kinds = list(next(iter(values.values())))
        rows = [
            [
                words(kind),
                *(shown(within_0_and_1(v[kind]) if cut else v[kind]) for v in values.values()),
            ]
            for kind in kinds
        ]
        parts.append(f"**{title}**\n\n{table(['kind', *map(words, values)], rows)}")
    return "\n".join(parts)


def repairs_tables(record: dict) -> str:
    """The record repairs: a row for each variant, scores, controls and changed answers."""

    def cells(name: str, part: str, keys: Collection[str]) -> list[str]:
        row = record["variants"][name][part]
        return [write_value(within_0_and_1(row[key]), ".3f") for key in keys]

    scores = ("asked", "other_question", "other_picture")
    changes = ("more_pads", "other_neighbors")
    kinds = record["variants"]["whole"]["by_kind"]
    names = record["variants"]
    parts = (
        ("Right answers as asked, with another question of the kind, with another picture",
         ["undone", *map(words, scores)],
         [[words(n), *cells(n, "accuracy", scores)] for n in names]),
        ("Right answers by kind",
         ["undone", *kinds], [[words(n), *cells(n, "by_kind", kinds)] for n in names]),
        ("Answers that change with eight more pads, and with other neighbors in the batch",
         ["undone", *map(words, changes)],
         [[words(n), *cells(n, "changed", changes)] for n in names]),
    )  # fmt: skip
    guess = write_value(record["best_guess"]["overall"], ".3f")
    objects = write_value(record["best_guess_objects"]["overall"], ".3f")
    prose = (
        "One repair of chapter 6 undone in the finished model, and trained: the same frozen trunk, "
        f"the same batches, {record['recipe']['training']['steps']} steps. Best guess from the "
        f"words {guess}, from the objects of the picture {objects}. What was expected of each row, "
        "and the two explanations of *words no keys*, "
        "stand in tools/records/repairs.py as they were written before the runs.\n"
    )
    return "\n".join([prose, *(f"**{title}**\n\n{table(h, rows)}" for title, h, rows in parts)])


def world_tables(record: dict) -> str:
    """The record world: what can be answered with an input left unread, without any training."""

    def percent(value: float) -> str:
        return write_value(value, ".1%")

    text, words_unread = record["picture_unread"], record["words_unread"]
    kinds = [
        [kind, unread, percent(value), percent(text[kind])]
        for kind, row in words_unread.items()
        for unread, value in row.items()
    ]
    old = record["outermost"]
    now = {"picture": text["reference"], **words_unread["reference"]}
    both = [[unread, percent(now[unread]), percent(old[unread])] for unread in now]
    new_rules, old_rules = record["rules"]["nearest"], record["rules"]["outermost"]
    rules = [
        [unread, rule, percent(value), percent(old_rules[unread][rule])]
        for unread, row in new_rules.items()
        for rule, value in row.items()
    ]
    supply = [[things, *map(percent, row.values())] for things, row in record["supply"].items()]
    grids = list(next(iter(record["supply"].values())))
    parts = (
        ("Every kind: the best rule that reads all but one input, and the best guess from the text",
         ["kind", "left unread", "best rule", "picture unread"], kinds),
        ("Reference, as it is asked and as it was first made: the best rule that leaves one unread",
         ["left unread", "nearest", "outermost"], both),
        ("Reference: simple rules that pick a thing",
         ["left unread", "what the rule picks", "nearest", "outermost"], rules),
        ("How many scenes have enough clear references (names × sides)",
         ["scene", *grids], supply),
    )  # fmt: skip
    prose = (
        f"{record['pictures']} pictures, and no model. A best rule (on the first "
        f"{record['pictures_asked_anew']} of them) knows the scene, how questions "
        "are drawn, and every word but those left unread; it is made from one half of freshly "
        "drawn questions and scored on the other. *Nearest* is the world as it is, *outermost* the "
        "reference as first made, whose name could be left unread. A grid is so many names and "
        "sides whose answers differ along each row and column: a question drawn from two by two is "
        "right half of the time without its name, and larger grids, which would lower that, are "
        "what hardly any scene has.\n"
    )
    tables = [f"**{title}**\n\n{table(head, rows)}" for title, head, rows in parts]
    return "\n".join([prose, *tables])


def emoji_tables(record: dict) -> str:
    """The record emoji: who is right where, and every interval in it."""
    rows = [
        [f"{who} right" if who != "neither" else "neither right", str(case["rows"]),
         write_value(case["together"], ".1%")]
        for who, case in record["cases"].items()
        if isinstance(case, dict)
    ]  # fmt: skip
    cases = table(["alone", "rows", "together right"], rows)
    return "\n".join([
        f"Drawings by Google, divided by subgroup. {record['sentence']}\n",
        f"**Rows by who is right alone, and the share of them that are right together**\n\n{cases}",
        *interval_tables(record),
    ])  # fmt: skip


def records_block() -> str:
    """One section a record: how it was made, and every interval in it."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text("utf8"))
        if not isinstance(record, dict):
            continue
        facts = [f"`{record.get('command', f'make record NAME={path.stem}')}`"]
        if isinstance(record.get("seeds"), list):
            facts.append(f"seeds {', '.join(map(str, record['seeds']))}")
        if "seconds" in record:
            facts.append(f"{write_value(record['seconds'], 'minutes')} in all")
        if "device" in record:
            facts.append(str(record["device"]))
        if isinstance(record.get("versions"), dict):
            facts.append(", ".join(f"{k} {v}" for k, v in record["versions"].items()))
        title = record.get("title", words(path.stem))
        by_hand = {
            "emoji": emoji_tables, "scenes_small": scenes_tables, "plateaus": plateaus_tables,
            "world": world_tables, "repairs": repairs_tables, "front": front_choice,
            "needs": needs_table,
        }.get(path.stem)  # fmt: skip
        tables = by_hand(record) if by_hand else "\n".join(interval_tables(record))
        parts.append(f"## {title}\n\n{'; '.join(facts)}.\n\n{tables}")
    parts += [unfinished(path) for path in sorted((RESULTS / "partial").glob("*.json"))]
    return "\n".join(parts) or "No record has been made yet.\n"


def unfinished(path: Path) -> str:
    """What is there of a record that was cut off: each seed by itself, beside its controls."""
    units = json.loads(path.read_text("utf8"))
    parts = [
        f"## {words(path.stem)}, not yet complete\n\n`make record NAME={path.stem}` goes on with "
        f"it. Done so far: {', '.join(map(words, units))}. The intervals are Wilson's, over the "
        "questions of one seed.\n"
    ]
    for name, unit in units.items():
        if "report" in unit:
            columns = {"accuracy": unit["report"]["by_kind"], **unit["report"]["controls"]}
            by_kind = {
                kind: {column: scores[kind] for column, scores in columns.items()}
                for kind in columns["accuracy"]
            }
            parts += interval_tables(by_kind, words(name))
    return "\n".join(parts)


def mutants_block() -> str:
    """The planted faults by file, each with the test that kills it.

    A list and not a table: the names of tests are long, and a phone is narrow.
    """
    if not (RESULTS / "mutants.json").exists():
        return "The faults have not been planted yet.\n"
    files: dict[str, list[str]] = {}
    for mutant in load("mutants"):
        line = f"- {mutant['fault']}.\\\n  `{mutant['killed_by']}`\n"
        files.setdefault(mutant["file"], []).append(line)
    return "\n".join(f"## `{file}`\n\n{''.join(lines)}" for file, lines in files.items())


def equations() -> list[dict[str, Any]]:
    """The entries of tools/equations.toml: number, what, functions, tests, experiment."""
    return tomllib.loads((ROOT / "tools" / "equations.toml").read_text("utf8"))["equation"]


def equations_block() -> str:
    """The equations by chapter, each with its functions, its tests and where it is shown.

    A list and not a table, for the same reason as the planted faults.
    """
    chapters: dict[str, list[str]] = {}
    for row in equations():
        number = row["number"]
        functions, tests = (", ".join(f"`{n}`" for n in row[k]) for k in ("functions", "tests"))
        chapters.setdefault(number.split(".")[0], []).append(
            f"- [({number})](#eq-{number}) {row['what']}: {functions}\\\n"
            f"  {tests}\\\n  {row['experiment']}\n"
        )
    return "\n".join(f"## Chapter {name}\n\n{''.join(rows)}" for name, rows in chapters.items())


def ask_block() -> str:
    """The front page's first picture, which the reader asks about: HTML with every answer in it."""
    from mmlib.book import asking  # these two blocks alone need the package

    scene = asking.scene_of(asking.SEED)
    moves = asking.to_move(scene, asking.SIDE, asking.NAME)
    assert moves, f"the scene of seed {asking.SEED} is not plain at one look; choose another"
    return asking.picture_question(scene, moves, asking.SIDE, asking.NAME) + "\n"


def build_block() -> str:
    """What the reader will be able to build: three pictures, each with its alternative text."""
    import matplotlib.pyplot as plt

    from mmlib.book import front

    record = load("pomology")
    run = load("scenes_small")["reports"]["seed_0"]  # the run that comes with mmlib
    both, hard, unseen, unread = (
        write_value(value["mean"], ".0%")
        for value in (
            run["accuracy"],
            run["by_kind"]["reference"],
            *(run["controls"][name]["overall"] for name in ("text_only", "image_only")),
        )
    )
    gain = record["gain_over"]["only_image"]
    names = (
        "Here the names add nothing that we can tell: the picture alone does as well"
        if gain["low"] <= 0 <= gain["high"]
        else f"Here the names {'help' if gain['low'] > 0 else 'harm'}"
    )
    told = {
        "attend": (
            "Attention, in a few lines of your own",
            "Words that ask, and a picture whose cells answer: a line is as thick as its weight "
            "(chapters 3 and 4).",
        ),
        "answer": (
            "A model that answers about pictures",
            "You take a program of thirty lines that runs and is wrong, and rewrite it part by "
            "part (chapters 6 and 7). Of eight kinds of question the trained model answers "
            f"{both} rightly, {unseen} where the picture is hidden from it, and {unread} where the "
            f"words are; of questions such as the one above, {hard}.",
        ),
        "table": (
            "A model of your own table",
            "The report says whether the picture helps, and whether the words do. "
            f"{names}, on {record['rows']} paintings of fruit "
            "([What was measured](measured.md)).",
        ),
    }
    parts = ["::::{grid} 1 1 3 3\n:gutter: 3\n:class-container: mm-build\n"]
    for name, (figure, alt) in front.drawn(record).items():
        plt.close(figure)
        title, sentence = told[name]
        parts.append(
            f":::{{grid-item}}\n![{alt}](_static/build_{name}.png)\n\n"
            f"**{title}.** {sentence}\n:::\n"
        )
    return "\n".join([*parts, "::::\n"])


def front_block() -> str:
    """The picture that the model made for the front page, and what it shows."""
    if not (RESULTS / "front.json").exists():
        return ""
    shown = load("front")
    right = "which is right" if shown["answer"] == shown["truth"] else "which is wrong"
    return (
        f"![{shown['alt']}](_static/front.png)\n\n"
        f"*Asked “{shown['question']}?”, the trained model that comes with `mmlib` answers "
        f"“{shown['answer']}”, {right}. The frame marks the {shown['named']}, which the question "
        "names; bright is what the model attended to.*\n"
    )


def front_choice(record: dict) -> str:
    """How the front page's picture was chosen, and how many were passed over."""
    passed = record["passed_over"]
    missed = passed["wrong"] + passed["unsure"]
    return (
        "The picture of the front page was chosen by a rule: it is the first of the test pictures "
        "whose question can be followed at a glance and that the model answers rightly, and far "
        f"surer of that answer than of any other. Before it {missed} pictures that can be followed "
        f"at a glance were passed over because the model was wrong or less sure, and "
        f"{passed['not_at_a_glance']} because they cannot.\n"
    )


def needs_table(record: dict) -> str:
    """The disk that the environments take, and the size of the packaged model."""
    disk, model = record["disk"], record["model"]
    rows = [
        ["the package, with torch for NVIDIA's GPUs", write_value(disk["with_cuda"], "GB")],
        ["the same less what only those GPUs need", write_value(disk["without_cuda"], "GB")],
        ["the site", write_value(disk["site"], "GB")],
        ["parameters of the trained model", f"{model['parameters']:,}"],
        ["answers that it chooses from", str(model["answers"])],
    ]
    return table(["what", "how much"], rows)


def bibliography() -> dict[str, dict[str, str]]:
    """Key -> fields of each entry of book/references.bib, which has one field a line."""
    entries = {}
    text = (ROOT / "book" / "references.bib").read_text("utf8")
    for key, body in re.findall(r"^@\w+\{(\w+),\n(.*?)^\}$", text, re.DOTALL | re.MULTILINE):
        fields = re.findall(r"^  (\w+) = \{(.*)\},?$", body, re.MULTILINE)
        entries[key] = {name: re.sub(r"[{}]", "", value) for name, value in fields}
    return entries


def short_name(entry: dict[str, str]) -> str:
    """How prose names an entry: Hessel and Lee (2020), Vaswani et al. (2017)."""
    family = [author.split(",")[0] for author in entry["author"].split(" and ")]
    names = " and ".join(family) if len(family) <= 2 else f"{family[0]} et al."
    return f"{names} ({entry['year']})"


def references_block() -> str:
    """The list of references, by name and year."""
    parts = []
    for key, entry in sorted(bibliography().items(), key=lambda item: short_name(item[1])):
        authors = [" ".join(reversed(a.split(", "))) for a in entry["author"].split(" and ")]
        venue = entry.get("booktitle") or entry.get("journal") or entry.get("publisher")
        details = [venue] if venue else []
        if "volume" in entry:
            number = f"({entry['number']})" if "number" in entry else ""
            details.append(f"volume {entry['volume']}{number}")
        if "pages" in entry:
            details.append(f"pages {entry['pages'].replace('--', '–')}")
        preprint = entry.get("note", "").removeprefix("arXiv:")
        everybody = ", ".join(authors).replace(", others", " and others")
        line = f"**{short_name(entry)}.** {everybody}. *{entry['title']}*."
        line += f" {', '.join(details)}." if details else ""
        line += f" [arXiv:{preprint}](https://arxiv.org/abs/{preprint})." if preprint else ""
        parts.append(f"({key})=\n{line}\n".replace("!*.", "!*").replace("?*.", "?*"))
    return "\n".join(parts)


BLOCKS = {
    "ask": ask_block,
    "build": build_block,
    "front": front_block,
    "records": records_block,
    "mutants": mutants_block,
    "equations": equations_block,
    "references": references_block,
}


def fill(text: str) -> str:
    """The text with every span and block brought up to date."""

    def span(match: re.Match) -> str:
        path, how, _ = match.groups()
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if not before.strip():
            raise Outdated(f"the span of {path} begins a line; put a word before it")
        return f"<!-- record: {path} {how} -->{write_value(look_up(path), how)}<!-- /record -->"

    def block(match: re.Match) -> str:
        name = match[1]
        if name not in BLOCKS:
            raise Outdated(f"no block named {name}; one of {', '.join(BLOCKS)}")
        return f"<!-- block: {name} -->\n\n{BLOCKS[name]()}\n<!-- /block -->"

    return BLOCK.sub(block, SPAN.sub(span, text))


def read(path: Path) -> str:
    """The text of a page or notebook."""
    return path.read_text("utf8")


def filled(path: Path) -> str:
    """What the file should hold."""
    if path.suffix == ".md":
        return fill(read(path))
    notebook = nbformat.read(path, 4)
    changed = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            new = fill(cell.source)
            changed |= new != cell.source
            cell.source = new
    return nbformat.writes(notebook) + "\n" if changed else read(path)


def pages() -> list[Path]:
    """Every file that may hold a number from a record."""
    return sorted([ROOT / "README.md", *ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")])


def outdated() -> dict[Path, str]:
    """Pages that do not say what the records say -> why."""
    found = {}
    for path in pages():
        try:
            if read(path) != filled(path):
                found[path] = "its numbers are not those of the records; run make notebooks"
        except Outdated as error:
            found[path] = str(error)
    return found


def main(arguments: list[str]) -> int:
    """Check or, with --write, update; 1 where something is wrong and was not mended."""
    failed = 0
    for path, why in outdated().items():
        try:
            if "--write" not in arguments:
                raise Outdated(why)
            path.write_text(filled(path), "utf8")
            print(f"{path.relative_to(ROOT)}: written")
        except Outdated as error:
            print(f"{path.relative_to(ROOT)}: {error}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

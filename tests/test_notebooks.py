"""What a chapter keeps to (see CONTRIBUTING), beyond the outputs that nbval compares."""

import ast
import base64
import importlib
import json
import re
from pathlib import Path

import nbformat
import pytest
from voice import hollow_words

from tools import fill_pages

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [p for p in sorted(ROOT.glob("book/*.md")) if p.stem not in ("references", "measured")]
SETUP = """\
# On Colab this installs mmlib and leaves torch, numpy and transformers alone.
import sys
if "google.colab" in sys.modules:
    %pip install -q --no-deps git+https://github.com/OWNER/mmlib-book
from mmlib.book import figures
figures.setup("{name}")"""
EQUATIONS = fill_pages.equations()
CELL_METADATA = {"tags", "mystnb", "cellView"}
COLUMNS = 79
EXERCISES = range(4, 9)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, 4)


def cells(path: Path, kind: str) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == kind]


def markdown(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def chapter(path: Path) -> int:
    return int(path.stem[:2])


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def reasons(name: str) -> dict[str, str]:
    """Entry -> reason, of a list of exceptions with one `entry  # reason` a line."""
    lines = (ROOT / "tests" / name).read_text("utf8").splitlines()
    pairs = [line.split("  # ") for line in lines if line and not line.startswith("#")]
    return {entry.strip(): reason for entry, reason in pairs}


def without(text: str, *patterns: str) -> str:
    for pattern in patterns:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return text


# --- how it is stored -----------------------------------------------------------------------------


@each_notebook
def test_was_run_from_top_to_bottom(path):
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        errors = [output.evalue for output in cell.outputs if output.output_type == "error"]
        assert not errors or "raises-exception" in tags(cell), cell.id


@each_notebook
def test_is_stored_as_the_runner_stores_it(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.read_text("utf8") == nbformat.writes(notebook) + "\n"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.language_info) == {"name"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= CELL_METADATA, cell.id
        assert re.fullmatch(rf"c{chapter(path):02d}-[\w-]+", cell.id), cell.id


@each_notebook
def test_first_code_cell_is_the_set_up(path):
    assert cells(path, "code")[0].source == SETUP.format(name=path.stem)


@each_notebook
def test_code_fits_the_page(path):
    long = [
        (cell.id, line)
        for cell in cells(path, "code")
        for line in cell.source.splitlines()
        if len(line) > COLUMNS
    ]
    assert not long


@each_notebook
def test_nothing_stands_in_code_for_the_site_alone(path):
    source = "\n".join(cell.source for cell in cells(path, "code"))
    assert not re.search(r"\b(myst_nb|glue|sys\.path)\b", source)


@each_notebook
def test_only_excused_cells_are_not_compared(path):
    excused = reasons("uncompared_cells.txt")
    free = {"nbval-ignore-output", "nbval-skip"}
    found = {cell.id for cell in cells(path, "code") if free & set(tags(cell))}
    marked = {cell.id for cell in cells(path, "code") if "NBVAL_" in cell.source}
    assert not marked, "tag the cell instead of a comment"
    mine = {entry for entry in excused if entry.startswith(f"c{chapter(path):02d}-")}
    assert found == mine


# --- outputs --------------------------------------------------------------------------------------


def outputs(path: Path):
    for cell in cells(path, "code"):
        for output in cell.outputs:
            yield cell, output


@each_notebook
def test_every_picture_has_alternative_text(path):
    for cell, output in outputs(path):
        data = output.get("data", {})
        for kind in set(data) & {"image/png", "image/jpeg", "image/svg+xml"}:
            alt = output.metadata.get(kind, {}).get("alt", "")
            assert len(alt.split()) >= 3, f"{cell.id}: show it with figures.show(figure, alt)"
        for image in re.findall(r"<img[^>]*>", "".join(data.get("text/html", ""))):
            assert re.search(r'alt="[^"]{8,}"', image), cell.id


@each_notebook
def test_pictures_are_the_same_on_each_run(path):
    for cell, output in outputs(path):
        if "image/png" in output.get("data", {}):
            png = base64.b64decode(output.data["image/png"])
            assert b"Software" not in png[:400], f"{cell.id}: Matplotlib's version is inside"


@each_notebook
def test_outputs_ask_for_nothing_from_the_network(path):
    for cell, output in outputs(path):
        text = json.dumps(output.get("data", {}))
        assert not re.search(r'(?:src|href)=\\?["\']?(?:https?:)?//', text), cell.id
        assert "@import" not in text, cell.id


@each_notebook
def test_outputs_hold_no_warning_time_or_progress_bar(path):
    for cell, output in outputs(path):
        if "nbval-ignore-output" in tags(cell):
            continue
        assert output.get("name") != "stderr", f"{cell.id}: {output.text[:200]}"
        text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"\d+(\.\d+)? (seconds|s|ms)\b|it/s", text), cell.id
        assert not re.search(r"/(home|Users|tmp|root|work)/", text), cell.id


@each_notebook
def test_is_small(path):
    assert path.stat().st_size < 1_500_000


@each_notebook
def test_has_a_figure_to_operate(path):
    html = "".join("".join(o.get("data", {}).get("text/html", "")) for _, o in outputs(path))
    assert "data-mm=" in html


# --- equations ------------------------------------------------------------------------------------


def displayed(path: Path) -> list[str]:
    return re.findall(r"\$\$(.+?)\$\$", without(markdown(path), r"^```.*?^```"), re.DOTALL)


def equation_tags(path: Path) -> list[str]:
    return [tag for text in displayed(path) for tag in re.findall(r"\\tag\{([\d.]+)\}", text)]


@each_notebook
def test_displayed_equations_are_numbered_in_order(path):
    for text in displayed(path):
        assert text.count(r"\tag{") == 1, f"one \\tag{{{chapter(path)}.n}} in: {text}"
        broken = rf"\}}{chapter(path)}\.\d|\\text{chapter(path)}"
        assert not re.search(broken, text), f"a section's number in place of a word: {text}"
    expected = [f"{chapter(path)}.{n + 1}" for n in range(len(displayed(path)))]
    assert equation_tags(path) == expected


@each_notebook
def test_equations_that_are_named_exist(path):
    text = markdown(path)
    known = set(equation_tags(path))
    for shown, target in re.findall(r"\[\((\d+\.\d+)\)\]\(#eq-([\d.]+)\)", text):
        assert shown == target and target in known, shown
    own = rf"(?<!\[)\(({chapter(path)}\.\d+)\)(?!\])"
    loose = re.findall(own, without(text, r"\$\$.*?\$\$", r"^```.*?^```", r"`[^`]*`"))
    assert not loose, "write [(4.1)](#eq-4.1), so that the reader can go there"


def resolve(name: str) -> object:
    """The object of a dotted name below mmlib."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


def defined_tests(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text("utf8")))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def is_there(name: str) -> bool:
    """Whether mmlib has what a dotted name says."""
    try:
        return resolve(name) is not None
    except AttributeError:
        return False


def is_test(name: str) -> bool:
    """Whether `tests/test_x.py::test_y` is defined."""
    file, _, function = name.partition("::")
    return (ROOT / file).is_file() and function in defined_tests(ROOT / file)


def untied(rows: list[dict], equations: list[str], ids: set[str]) -> list[str]:
    """What is wrong with a chapter's rows of tools/equations.toml: ids are those of its cells."""
    wrong = [f"{n} has no entry" for n in equations if n not in [row["number"] for row in rows]]
    for row in rows:
        number = row["number"]
        if number not in equations:
            wrong.append(f"{number} is no equation of the chapter")
        if not row["functions"] or not row["tests"]:
            wrong.append(f"{number} has no function or no test")
        wrong += [f"{number}: no {name}" for name in row["functions"] if not is_there(name)]
        wrong += [f"{number}: no {name}" for name in row["tests"] if not is_test(name)]
        cells = re.findall(r"`(c\d\d-[\w-]+)`", row["experiment"])
        wrong += [f"{number}: no cell {name}" for name in cells if name not in ids]
    return wrong


@each_notebook
def test_every_equation_is_tied_to_function_and_test(path):
    rows = [row for row in EQUATIONS if int(row["number"].split(".")[0]) == chapter(path)]
    assert untied(rows, equation_tags(path), {cell.id for cell in read(path).cells}) == []
    assert [row["number"] for row in rows] == equation_tags(path), "once each, and in order"


def test_each_entry_is_of_a_chapter_that_is_written():
    written = {chapter(path) for path in NOTEBOOKS}
    assert {int(row["number"].split(".")[0]) for row in EQUATIONS} <= written


@pytest.mark.parametrize(
    "change, why",
    [
        ({}, ""),
        ({"number": "4.2"}, "4.1 has no entry\n4.2 is no equation of the chapter"),
        ({"functions": ["mmlib.fusion.Nothing"]}, "no mmlib.fusion.Nothing"),
        ({"functions": []}, "no function"),
        (
            {"tests": ["tests/test_fusion.py::test_nothing"]},
            "no tests/test_fusion.py::test_nothing",
        ),
        ({"tests": ["tests/test_nothing.py::test_x"]}, "no tests/test_nothing.py"),
        ({"tests": []}, "no test"),
        ({"experiment": "`c04-b`"}, "no cell c04-b"),
    ],
)
def test_the_search_for_equations_without_code(change, why):
    row = {
        "number": "4.1",
        "functions": ["mmlib.fusion.MergedAttention"],
        "tests": ["tests/test_notebooks.py::test_the_search_for_equations_without_code"],
        "experiment": "section 4.1, `c04-a`",
        **change,
    }
    found = untied([row], ["4.1"], {"c04-a"})
    assert why in "\n".join(found) and bool(found) == bool(why)


@each_notebook
def test_tests_and_files_that_are_named_exist(path):
    for file, name in re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", markdown(path)):
        assert (ROOT / file).exists(), file
        assert not name or name in defined_tests(ROOT / file), name


# --- headings, exercises --------------------------------------------------------------------------


def headings(path: Path) -> list[tuple[int, str]]:
    text = without(markdown(path), r"^```.*?^```")
    return [(len(marks), line) for marks, line in re.findall(r"^(#+) (.+)$", text, re.MULTILINE)]


@each_notebook
def test_headings_are_numbered_in_order(path):
    first, *rest = headings(path)
    assert first[0] == 1 and re.match(rf"{chapter(path)}\.? \w", first[1])
    assert all(level > 1 for level, _ in rest)
    numbers = [line.split()[0] for level, line in rest if level == 2 and line[0].isdigit()]
    assert numbers == [f"{chapter(path)}.{n + 1}" for n in range(len(numbers))] and numbers


@each_notebook
def test_exercises_are_numbered_in_order_and_solved(path):
    notebook = read(path)
    asked: list[str] = []
    solved: list[str] = []
    for cell in notebook.cells:
        asked += re.findall(r"^> \*\*Exercise (\d+\.\d+)", cell.source, re.MULTILINE)
        solved += re.findall(r"(?:<summary><b>|#@title )Solution(?: of)? (\d+\.\d+)", cell.source)
        if cell.cell_type == "code" and "#@title Solution" in cell.source:
            assert "hide-cell" in tags(cell) and cell.metadata.get("cellView") == "form", cell.id
    assert asked == [f"{chapter(path)}.{n + 1}" for n in range(len(asked))]
    assert len(asked) in EXERCISES
    assert sorted(set(solved)) == sorted(asked), "a folded solution, named by its number, for each"
    checked = set()
    for cell in cells(path, "code"):
        checked |= set(re.findall(r"""check\(\s*["'](\d+\.\d+)["']""", cell.source))
    assert checked, "no exercise is checked with exercises.check"
    assert checked <= set(asked)


@each_notebook
def test_solutions_keep_their_markdown(path):
    """Blank lines around what <details> folds, or Markdown and mathematics stay raw."""
    for cell in cells(path, "markdown"):
        for body in re.findall(r"</summary>(.*?)</details>", cell.source, re.DOTALL):
            assert body.startswith("\n\n") and body.endswith("\n\n"), cell.id


@each_notebook
def test_reads_well_without_the_site(path):
    text = without(markdown(path), r"^```python.*?^```", r"^```text.*?^```", r"^```bash.*?^```")
    assert not re.search(r"^```", text, re.MULTILINE), "a fence that only the site understands"
    assert not re.search(r"\{[a-z:]+\}`", text), "a role that only the site understands"
    assert not re.search(r"\]\(\)|\[\]\(", text), "a link without text or target"
    assert not re.search(r"^\([\w-]+\)=$", text, re.MULTILINE), "a label that shows in Colab"


@each_notebook
def test_heads_of_tables_have_a_word_beside_a_formula(path):
    """A screen reader, and axe-core in the browser's test, find a formula alone empty."""
    for row in re.findall(r"^\|(.+)\|\n\|[-| :]+\|$", markdown(path), re.MULTILINE):
        assert all(re.search(r"\w", without(cell, r"\$[^$]*\$")) for cell in row.split("|")), row


# --- numbers and words ----------------------------------------------------------------------------

NOT_PROSE = (
    r"<!-- record: .*?<!-- /record -->",
    r"<!-- block: .*?<!-- /block -->",
    r"<!--.*?-->",
    r"^(`{3,}|~{3,}).*?^\1",
    r"\$\$.*?\$\$",
    r"`[^`]*`",
    r"\$[^$]*\$",
    r"^#+ [^\n]*$",
    r"\[([^\]]*)\]\([^)]*\)",
    r"<[^>]+>",
    r"\b(?:[Ee]xercises?|Solution(?: of)?|[Ss]ections?|[Cc]hapters?|Figure|Table) \d[\d., andto]*",
    r"\b(?:sec|eq)\. \d[\d.]*",
    r"\bYour turn \d+\.[A-Z]\b",
    r"^:+[^\n]*$",
    r"\(\d{4}[a-z]?\)",
    r"^\d+\. ",
)


def typed_numbers(text: str, allowed: dict[str, str]) -> list[str]:
    """Words with a digit that stand in prose and that nothing computed."""
    text = without(text, *NOT_PROSE)
    for phrase in sorted(allowed, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", " ", text)
    return re.findall(r"\S*\d\S*", text)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.stem)
def test_no_number_in_prose_is_typed_by_hand(path):
    text = markdown(path) if path.suffix == ".ipynb" else path.read_text("utf8")
    assert typed_numbers(text, reasons("allowed_numbers.txt")) == []


@pytest.mark.parametrize(
    "text, found",
    [
        ("It reaches 97.1 % of them.", ["97.1"]),
        ("It has 3x fewer and about 12.", ["3x", "12."]),
        ("| late | 0.5 |", ["0.5"]),
        ("A <!-- record: a.b .1% -->97.1 %<!-- /record --> share.", []),
        ("By $2^3$, `x[0]` and [Vaswani et al. (2017)](#vaswani2017), section 4.2.", []),
        ("```python\nx = 1\n```\n\n## 4.1 One\n\n> **Exercise 4.2.** Why?", []),
        ("> **Your turn 4.A.** Write it in 3 lines, as in Your turn 4.B.", ["3"]),
        ("Lu (2019) uses ResNet-50.", ["ResNet-50."]),
        ("## 4.1 One\n\nAfter a heading 12 stays.", ["12"]),
        (":::{grid} 1 3\n:gutter: 3\n\nSee chapters 3 to 6 and exercise 4.2: 7", ["7"]),
    ],
)
def test_the_search_for_typed_numbers(text, found):
    assert typed_numbers(text, {}) == found


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.stem)
def test_prose_has_no_hollow_words(path):
    text = markdown(path) if path.suffix == ".ipynb" else path.read_text("utf8")
    assert not hollow_words(text)


def test_exceptions_are_used():
    text = "\n".join(
        [markdown(p) for p in NOTEBOOKS] + [p.read_text("utf8") for p in PAGES]
    )  # fmt: skip
    assert not [phrase for phrase in reasons("allowed_numbers.txt") if phrase not in text]


# --- glossary -------------------------------------------------------------------------------------

CHINESE = "\u4e00-\u9fff"


def glossary() -> list[list[str]]:
    """The rows of book/glossary.md: term, Chinese, meaning, chapter."""
    lines = (ROOT / "book" / "glossary.md").read_text("utf8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows][1:]


def test_the_glossary_is_sorted_and_says_each_term_once():
    terms = [row[0].lower() for row in glossary()]
    assert terms == sorted(set(terms))
    assert all(re.fullmatch(rf"[{CHINESE}]+", row[1]) for row in glossary())


def test_each_term_that_a_chapter_gives_in_chinese_is_in_the_glossary_and_back():
    listed = {row[1]: row[3] for row in glossary()}
    first: dict[str, str] = {}
    for path in NOTEBOOKS:
        for term in re.findall(rf"\(([{CHINESE}]+)\)", markdown(path)):
            first.setdefault(term, f"[{chapter(path)}](../notebooks/{path.name})")
    pages = "".join(path.read_text("utf8") for path in PAGES if path.stem != "glossary")
    assert not set(first) - set(listed), "a chapter's term is not in book/glossary.md"
    assert {term: listed[term] for term in first} == first, "the chapter is not the first"
    assert not [t for t in set(listed) - set(first) if t not in pages], "no page says this term"


# --- the document ---------------------------------------------------------------------------------

# The sections of the document that are answered so far, and of section 4 its parts.
ANSWERED = (
    "1.3 ", "2.1 ", "2.3 ", "3.1 ", "3.2 ", "3.3 ", "4 Libraries", "4 Model", "4 Training loop",
    "4 Prediction", "8 ",
)  # fmt: skip


def document_rows() -> list[list[str]]:
    """The rows of book/document.md: section, what it says, where it is answered, test."""
    lines = (ROOT / "book" / "document.md").read_text("utf8").splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows][1:]


@pytest.mark.parametrize("section", ANSWERED)
def test_each_section_of_the_document_is_answered(section):
    assert [row for row in document_rows() if row[0].startswith(f"Section {section}")]


@pytest.mark.parametrize("row", document_rows(), ids=lambda row: row[1][:40])
def test_the_place_and_the_test_that_answer_the_document_exist(row):
    heading, notebook = re.fullmatch(r"\[(.+)\]\(\.\./notebooks/(\w+\.ipynb)\)", row[2]).groups()
    assert (2, heading) in headings(ROOT / "notebooks" / notebook)
    file, name = row[3].strip("`").split("::")
    assert name in defined_tests(ROOT / file)

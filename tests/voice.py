"""What VOICE asks of a chapter, measured on the list of its cells, as nbformat reads them.

Each floor is a function of the cells that gives what is wrong with them, a sentence each; a chapter
that keeps to it gives an empty list. So a floor can be shown to fail on a notebook made for that.
"""

import ast
import re
import symtable
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

Cell = dict[str, Any]

WORDS = 4500
SECTIONS = range(5, 8)
FIGURES_PER_THOUSAND_WORDS = 2
FIRST_SECTIONS = 3  # each has a figure
MEDIAN_LINES, MOST_LINES = 8, 25
YOUR_TURNS = range(2, 5)
# Id of a lesson cell that may be longer -> why.
LONG_CELLS: dict[str, str] = {"c06-specimen": "its length is what the chapter is about"}

FOLDED_TAGS = {"hide-input", "hide-cell", "hide-output"}
YOUR_TURN = r"^> \*\*Your turn"
NAMED_YOUR_TURN = r"^> \*\*Your turn (\d+\.[A-Z])\.\*\*"
PREDICTION = r"^> \*\*Predict before you run\.\*\*.*\n?(?:^>.*\n?)*"
HOLLOW = r"""
    simply|obviously|of\ course|just|powerful|seamless(?:ly)?|robust|state\ of\ the\ art|rich
    |in\ this\ chapter\ we|let's\ dive|it\ is\ important\ to\ note|crucial
"""


# --- parts of a chapter ---------------------------------------------------------------------------


def tags(cell: Cell) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def without(text: str, *patterns: str) -> str:
    for pattern in patterns:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return text


def without_fences(text: str) -> str:
    """The text without code between fences, where `# …` would pass for a heading."""
    return without(text, r"^(`{3,}|~{3,}).*?^\1$")


def visible(text: str) -> str:
    """What a reader of a Markdown cell sees: no comments, nothing that <details> folds."""
    return without(text, r"<!--.*?-->", r"<details.*?</details>")


def core(cells: list[Cell]) -> list[Cell]:
    """The cells from the title to the heading `## Exercises`; all of them where there is none."""
    kept = []
    for cell in cells:
        if cell["cell_type"] != "markdown":
            kept.append(cell)
            continue
        before, *after = re.split(r"^## Exercises$", cell["source"], maxsplit=1, flags=re.MULTILINE)
        kept.append({**cell, "source": before})
        if after:
            break
    return kept


def words(cells: list[Cell]) -> int:
    """How many words the reader of the core reads, formulas and code left out."""
    count = 0
    for cell in core(cells):
        if cell["cell_type"] == "markdown":
            text = visible(without_fences(cell["source"]))
            text = without(text, r"\$\$.*?\$\$", r"\$[^$]*\$", r"</?[a-z][^>]*>")
            count += sum(bool(re.search(r"\w", word)) for word in text.split())
    return count


def figures_of(cell: Cell) -> int:
    """How many figures the cell shows; one that is folded away is not shown."""
    if cell["cell_type"] != "code" or {"hide-cell", "hide-output"} & tags(cell):
        return 0
    data = [output.get("data", {}) for output in cell["outputs"]]
    return sum(
        bool({"image/png", "image/svg+xml"} & set(kinds))
        or 'class="mm-figure"' in "".join(kinds.get("text/html", ""))
        for kinds in data
    )


def sections(cells: list[Cell]) -> dict[str, int]:
    """Heading of each numbered section of the core, like "3.1 Title" -> its figures."""
    found: dict[str, int] = {}
    current = None
    for cell in core(cells):
        if cell["cell_type"] == "markdown":
            for heading in re.findall(r"^## (.+)$", without_fences(cell["source"]), re.MULTILINE):
                current = heading if re.match(r"\d+\.\d+ ", heading) else None
                if current:
                    found[current] = 0
        elif current:
            found[current] += figures_of(cell)
    return found


def parsed(cell: Cell) -> list[ast.stmt]:
    """The statements of a code cell; none where it is Markdown or holds more than Python."""
    try:
        return ast.parse(cell["source"]).body if cell["cell_type"] == "code" else []
    except SyntaxError:
        return []


def unfilled(cell: Cell) -> list[ast.FunctionDef]:
    """The functions of a cell whose body is a docstring and `...`, for the reader to fill."""
    return [
        node
        for node in parsed(cell)
        if isinstance(node, ast.FunctionDef)
        and len(node.body) == 2
        and ast.get_docstring(node) is not None
        and ast.unparse(node.body[1]) == "..."
    ]


def lesson_cells(cells: list[Cell]) -> list[Cell]:
    """The code of the core that a reader is to read: not the set-up, nothing folded."""
    return [
        cell
        for cell in core(cells)
        if cell["cell_type"] == "code"
        and "figures.setup(" not in cell["source"]
        and not FOLDED_TAGS & tags(cell)
        and not cell["source"].startswith("#@title")
    ]


def lines(cell: Cell) -> int:
    """Lines of a code cell that are neither blank nor docstring of a function to fill."""
    count = sum(bool(line.strip()) for line in cell["source"].splitlines())
    for function in unfilled(cell):
        docstring = ast.get_source_segment(cell["source"], function.body[0]) or ""
        count -= sum(bool(line.strip()) for line in docstring.splitlines())
    return count


def hollow_words(text: str) -> list[str]:
    """Words that say nothing, in text whose code is left out."""
    text = without(text, r"^```.*?^```", r"`[^`]*`")
    return re.findall(rf"\b(?:{HOLLOW})\b", text, re.IGNORECASE | re.VERBOSE)


# --- floors ---------------------------------------------------------------------------------------


def core_is_short(cells: list[Cell]) -> list[str]:
    count = words(cells)
    return [f"the core has {count} words, at most {WORDS} are read"] if count > WORDS else []


def core_has_five_to_seven_sections(cells: list[Cell]) -> list[str]:
    count = len(sections(cells))
    return [] if count in SECTIONS else [f"the core has {count} numbered sections"]


def core_is_looked_at(cells: list[Cell]) -> list[str]:
    shown, read = sum(map(figures_of, core(cells))), words(cells)
    enough = 1000 * shown >= FIGURES_PER_THOUSAND_WORDS * read
    return [] if enough else [f"the core has {shown} figures for {read} words"]


def first_sections_have_figures(cells: list[Cell]) -> list[str]:
    first = list(sections(cells).items())[:FIRST_SECTIONS]
    return [f"section {heading} has no figure" for heading, shown in first if not shown]


def lesson_cells_are_short(cells: list[Cell]) -> list[str]:
    counted = [(cell["id"], lines(cell)) for cell in lesson_cells(cells)]
    wrong = [
        f"{name} has {count} lines, at most {MOST_LINES} fit a lesson"
        for name, count in counted
        if count > MOST_LINES and name not in LONG_CELLS
    ]
    middle = median(count for _, count in counted) if counted else 0
    if middle > MEDIAN_LINES:
        wrong.append(f"the median lesson cell has {middle:g} lines, at most {MEDIAN_LINES} are few")
    return wrong


def core_has_two_to_four_your_turns(cells: list[Cell]) -> list[str]:
    text = "\n\n".join(c["source"] for c in core(cells) if c["cell_type"] == "markdown")
    count = len(re.findall(YOUR_TURN, text, re.MULTILINE))
    return [] if count in YOUR_TURNS else [f"the core has {count} Your turn"]


def output_text(cell: Cell) -> str:
    return "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))


def checked(cell: Cell) -> tuple[str, str]:
    """Exercise and function of the `check("3.A", name)` that ends a cell; empty where none does."""
    match parsed(cell)[-1:]:
        case [ast.Expr(ast.Call(ast.Name("check"), [ast.Constant(str(name)), ast.Name(answer)]))]:
            return name, answer
    return "", ""


def asked_wrongly(name: str, cell: Cell) -> Iterator[str]:
    """What is wrong with the cell in which the reader is to answer."""
    exercise, answer = checked(cell)
    if exercise != name:
        yield f'{name}: the cell after it does not end in check("{name}", …)'
    elif answer not in [function.name for function in unfilled(cell)]:
        yield f"{name}: {answer} is not a def whose body is a docstring and ..."
    if "no answer yet" not in output_text(cell):
        yield f'{name}: the stored output of its cell does not say "no answer yet"'


def solved_wrongly(name: str, cell: Cell, asked: Cell) -> Iterator[str]:
    """What is wrong with the folded cell that answers."""
    title = re.match(rf"#@title Solution of {re.escape(name)}$", cell["source"], re.MULTILINE)
    if not title or "hide-cell" not in tags(cell):
        yield f"{name}: no cell tagged hide-cell that begins #@title Solution of {name} follows"
    if checked(cell) != checked(asked):
        yield f"{name}: its solution does not end in the check of its cell"
    if "right." not in output_text(cell):
        yield f'{name}: the stored output of its solution does not say "right."'


def your_turns_have_their_form(cells: list[Cell]) -> list[str]:
    """Three cells each, lettered through the whole chapter, what stands after the core included."""
    chapter = re.match(r"# (\d+)", cells[0]["source"])
    number = chapter[1] if chapter else "?"
    nothing: Cell = {"cell_type": "markdown", "source": "", "metadata": {}}
    wrong, count = [], 0
    for n, cell in enumerate(cells):
        if cell["cell_type"] != "markdown" or not re.search(YOUR_TURN, cell["source"], re.M):
            continue
        name = f"{number}.{chr(ord('A') + count)}"
        count += 1
        if re.findall(NAMED_YOUR_TURN, cell["source"], re.MULTILINE) != [name]:
            wrong.append(f"{cell['id']}: > **Your turn {name}.** is due, once in its cell")
        asked, solved = [*cells[n + 1 : n + 3], nothing, nothing][:2]
        wrong += [*asked_wrongly(name, asked), *solved_wrongly(name, solved, asked)]
    return wrong


def answers_do_not_stand_below_predictions(cells: list[Cell]) -> list[str]:
    """After a prediction comes code, a heading, or something folded."""
    wrong = []
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if cell["cell_type"] != "markdown":
            continue
        for match in re.finditer(PREDICTION, cell["source"], re.MULTILINE):
            below = cell["source"][match.end() :].strip()
            if not below and after and after["cell_type"] == "markdown":
                below = after["source"].strip()
            if below and not re.match("#+ |<details", below):
                wrong.append(f"{cell['id']}: below the prediction stands: {below[:40]}")
    return wrong


def core_has_no_hollow_words(cells: list[Cell]) -> list[str]:
    return [
        f"{cell['id']}: {word}"
        for cell in core(cells)
        if cell["cell_type"] == "markdown"
        for word in hollow_words(visible(cell["source"]))
    ]


def bound(cell: Cell) -> set[str]:
    """The names that the statements of a code cell give away."""
    names: set[str] = set()
    for statement in parsed(cell):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(a.asname or a.name).split(".")[0] for a in node.names}
    return names


def read_from_outside(cell: Cell) -> set[str]:
    """The names that a code cell reads and that are not of its own functions."""

    def of(table: symtable.SymbolTable) -> set[str]:
        own = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
        if table.get_type() != "module":
            own = {s.get_name() for s in table.get_symbols() if s.is_global()}
        return own.union(*map(of, table.get_children()))

    return of(symtable.symtable(cell["source"], cell["id"], "exec")) if parsed(cell) else set()


def visible_cells_make_what_they_use(cells: list[Cell]) -> list[str]:
    """A reader who looks for a name must find the cell that made it, without unfolding any."""
    wrong, seen, folded = [], set(), set()
    lessons = [cell["id"] for cell in lesson_cells(cells)]
    for cell in core(cells):
        if cell["cell_type"] != "code":
            continue
        if cell["id"] in lessons:
            used = read_from_outside(cell)
            hidden = used & folded - seen - bound(cell)
            wrong += [f"{cell['id']}: {name} is made in a folded cell" for name in sorted(hidden)]
            seen |= bound(cell)
        else:
            folded |= bound(cell)
            if not FOLDED_TAGS & tags(cell):  # the set-up
                seen |= bound(cell)
    return wrong


FLOORS: list[Callable[[list[Cell]], list[str]]] = [
    core_is_short,
    core_has_five_to_seven_sections,
    core_is_looked_at,
    first_sections_have_figures,
    lesson_cells_are_short,
    core_has_two_to_four_your_turns,
    your_turns_have_their_form,
    answers_do_not_stand_below_predictions,
    core_has_no_hollow_words,
    visible_cells_make_what_they_use,
]

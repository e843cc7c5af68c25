"""American spelling, in prose as in code: who searches for color finds every place."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("mmlib", "tests", "tools", "book/*.md", "notebooks", "README.md", "CONTRIBUTING.md")
SUFFIXES = {".py", ".md", ".ipynb", ".toml", ".txt", ".mjs", ".sh", ".cfg"}
BRITISH = r"""
    colour|flavour|favour|honour|behaviour|neighbour|endeavour|grey|centr(?:e|ing)|metre|litre|fibre
    |labell|modell(?:ed|er|ing)|travell|cancell(?:ed|ing)|fulfil(?!l)|licence|defence|offence
    |catalogue|artefact|judgement|learnt|spelt|sceptic|whilst|amongst|towards|analys(?:ed?\b|er|ing)
    |programmes?\b
    |(?:categor|central|character|contextual|custom|digit|discret|emphas|equal|factor|final|formal
       |general|initial|linear|local|maxim|memor|minim|normal|optim|organ|parallel|parametr|penal
       |quant|random|real|recogn|regular|sanit|serial|special|stabil|standard|summar|symbol|synthes
       |token|util|vector|visual)is(?:e|ing|ation|able)
"""
# File -> why it may hold such a word.
EXCEPTIONS = {
    "mmlib/data/emoji.py": "the grey heart, as the source spells it",
    "tests/test_spelling.py": "the list of words, and what is planted",
}


def british(text: str) -> list[str]:
    """Words of British spelling; pictures, which are long words without sense, are passed over."""
    text = re.sub(r"[A-Za-z0-9+/=]{100,}", " ", text)
    found = re.finditer(rf"\w*(?:{BRITISH})\w*", text, re.IGNORECASE | re.VERBOSE)
    return [match[0] for match in found]


def files() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--", *PLACES], cwd=ROOT, capture_output=True, check=True
    )
    names = done.stdout.decode().split("\0")
    return [n for n in names if Path(n).suffix in SUFFIXES and (ROOT / n).exists()]


def test_no_word_is_spelled_as_the_british_do():
    found = {name: british((ROOT / name).read_text("utf8")) for name in files()}
    assert not {n: words for n, words in found.items() if words and n not in EXCEPTIONS}


def test_exceptions_are_used():
    assert all(british((ROOT / name).read_text("utf8")) for name in EXCEPTIONS)


@pytest.mark.parametrize(
    "text, found",
    [
        ("The colours of neighbours", ["colours", "neighbours"]),
        ("def by_colour(normaliser):", ["by_colour", "normaliser"]),
        (r'"source": ["x\nGrey"]', ["nGrey"]),
        ("optimisation, generalises, recognising", ["optimisation", "generalises", "recognising"]),
        ("centred, labelled, analysed", ["centred", "labelled", "analysed"]),
        ("the programme", ["programme"]),
        ("color, centers, labeled, optimizer, programmed, analyses, emphasis, realistic", []),
        ("exercise, otherwise, noise, precise, supervised, promise", []),
        ("iVBORw0KGgo" * 9 + "grey" + "AAAA", []),
    ],
)
def test_the_search_for_british_spelling(text, found):
    assert british(text) == found

"""What the files of the project promise to each other: addresses, versions, commands, sizes."""

import ast
import inspect
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
import tokenize
import tomllib
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mmlib
from mmlib import cli
from tools import fill_pages, owner

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
NAME = REPOSITORY.removeprefix("https://github.com/")
MODULES = sorted(module.name for module in pkgutil.walk_packages(mmlib.__path__, "mmlib."))
LINES_A_FILE = 400


def tracked(*patterns: str) -> list[Path]:
    """The committed files that match, without what is vendored."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, check=True
    )
    paths = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if "vendor" not in path.parts and path.exists()]


MERGE_MARK = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)


def test_no_file_holds_the_marks_of_a_merge():
    assert MERGE_MARK.search(b"a\n" + b"<" * 7 + b" HEAD\nb") and not MERGE_MARK.search(b">> a")
    marked = [path for path in tracked() if path.is_file() and MERGE_MARK.search(path.read_bytes())]
    assert not marked


def texts() -> list[tuple[Path, str]]:
    """Every committed file that is text, with it."""
    suffixes = {".png", ".woff2", ".safetensors", ".zip", ".gz", ".onnx", ".jpg"}
    return [(p, p.read_text("utf8")) for p in tracked(".") if p.suffix not in suffixes]


def pinned(path: str) -> dict[str, str]:
    """Package -> version in a lock file."""
    lines = (ROOT / path).read_text("utf8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


# --- addresses, names, licenses -------------------------------------------------------------------


def test_every_mention_of_the_repository_agrees():
    named = []
    for path, text in texts():
        for found in re.findall(r"github\.com/([\w.-]+/mmlib-book)\b", text):
            named.append((path.name, found))
    assert {found for _, found in named} == {NAME}, named
    where = {name for name, _ in named}
    assert {"pyproject.toml", "_config.yml", "README.md", "CITATION.cff"} <= where


def test_readme_lists_each_chapter_by_its_title():
    readme = (ROOT / "README.md").read_text("utf8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        title = json.loads(path.read_text("utf8"))["cells"][0]["source"][0].strip("# \n")
        assert f"| {title} | [{path.stem}](" in readme, path.name


def test_colab_badges_point_at_files_that_exist():
    targets = []
    for path, text in texts():
        if path.suffix in (".md", ".ipynb"):
            pattern = rf"colab\.research\.google\.com/github/{NAME}/blob/main/([\w./-]+)"
            targets += re.findall(pattern, text)
    assert targets, "README has no Colab badge"
    missing = [target for target in targets if not (ROOT / target).is_file()]
    assert not missing


def test_links_between_files_lead_somewhere():
    broken = []
    for path in tracked("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text("utf8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (path.parent / target).exists():
                broken.append((str(path.relative_to(ROOT)), target))
    assert not broken


def test_no_path_of_a_machine_and_no_registry_is_committed():
    forbidden = re.compile(
        r"/(?:home|Users|tmp|work|root)/(?!ipykernel)[\w.-]+|registry\.npmjs|files\.pythonhosted"
        r"|pypi\.org/simple|download\.pytorch\.org"
    )
    here = Path(__file__)
    found = [
        (str(path.relative_to(ROOT)), match[0])
        for path, text in texts()
        if path != here
        for match in forbidden.finditer(text)
    ]
    assert not found


def test_licenses_and_citation():
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf8")
    assert "the mmlib authors" in (ROOT / "LICENSE").read_text("utf8")
    assert "Attribution 4.0 International" in (ROOT / "LICENSE-TEXT").read_text("utf8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["version"] == PROJECT["version"] == mmlib.__version__
    assert citation["repository-code"] == REPOSITORY
    assert citation["license"] == PROJECT["license"]
    preface = (ROOT / "book" / "preface.md").read_text("utf8")
    assert f"\n{citation['authors'][0]['name']}: {citation['title']}, version " in preface
    assert f"version {mmlib.__version__}\n" in preface


def test_one_command_writes_the_owner_into_every_link_of_a_copy(tmp_path):
    for path, text in texts():
        if "/mmlib-book" in text:
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, "utf8")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    old = re.compile(rf"{NAME.split('/')[0]}/mmlib-book")
    name = "ada-lovelace"
    changed = owner.rename(tmp_path, name)
    assert {"README.md", "_config.yml", "pyproject.toml", "notebooks/03_attention.ipynb"} <= {
        *changed
    }
    files = [path for path in tmp_path.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert not [path for path in files if old.search(path.read_text("utf8"))]
    readme = (tmp_path / "README.md").read_text("utf8")
    assert f"git clone https://github.com/{name}/mmlib-book" in readme
    assert f"/github/{name}/mmlib-book/blob/" in readme
    assert owner.rename(tmp_path, "grace") == changed, "it can be changed again"
    with pytest.raises(SystemExit, match="expected an account"):
        owner.rename(tmp_path, "https://github.com/ada")


# --- versions -------------------------------------------------------------------------------------


def test_requirements_have_lower_bounds_only():
    for line in PROJECT["dependencies"]:
        specifiers = list(Requirement(line).specifier)
        assert [s.operator for s in specifiers] == [">="], line


def test_lock_holds_what_the_project_asks():
    lock = pinned("requirements-lock.txt")
    asked = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    for requirement in map(Requirement, asked):
        version = lock.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in the lock; run tools/lock.py"
        assert requirement.specifier.contains(version), f"{requirement} but locked {version}"


def test_lock_serves_every_system():
    assert not [n for n in pinned("requirements-lock.txt") if n.startswith(("nvidia", "triton"))]


def test_site_needs_no_torch():
    book = pinned("requirements-book.txt")
    assert Version(book["jupyter-book"]) < Version("2")
    assert not {"torch", "transformers", "mmlib"} & set(book)


def test_oldest_versions_are_the_lower_bounds():
    bounds = {
        canonicalize_name(requirement.name): Version(next(iter(requirement.specifier)).version)
        for requirement in map(Requirement, PROJECT["dependencies"])
    }
    for name, version in pinned(".github/oldest.txt").items():
        assert Version(version) == bounds[name], name


def test_environment_yml_takes_its_versions_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))
    *conda, pip = environment["dependencies"]
    assert pip["pip"] == ["--constraint requirements-lock.txt", "--editable .[test]"]
    python = next(line.split("=")[1] for line in conda if line.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=str)
def test_workflows_parse_and_call_commands_that_exist(path):
    workflow = yaml.safe_load(path.read_text("utf8"))
    assert workflow["jobs"]
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            for target in re.findall(r"\bmake ([a-z]+)", step.get("run", "")):
                assert target in make_targets(), target
            for script in re.findall(r"\b(tools/[\w.]+|\.ci/\w+)", step.get("run", "")):
                assert (ROOT / script).exists(), script


# --- README ---------------------------------------------------------------------------------------


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE))


def snippets(language: str) -> list[tuple[str, str]]:
    """(page, code) of each fence of a language in README, CONTRIBUTING and the book's pages."""
    found = []
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("book/*.md"))]:
        for code in re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf8"), re.M | re.S):
            found.append((path.name, code))
    return found


def test_issue_commands_are_make_targets():
    wanted = "book test train record notebooks mutants setup weights clean".split()
    assert set(wanted) <= make_targets()


def test_shell_snippets_name_commands_that_exist():
    commands = [line for _, code in snippets("bash") for line in code.splitlines() if line.strip()]
    assert commands
    for line in commands:
        for target in re.findall(r"^make ([a-z]+)", line):
            assert target in make_targets(), line
        for script in re.findall(r"\b(tools/[\w/]+\.\w+)", line):
            assert (ROOT / script).exists(), line


def mmlib_commands() -> list[str]:
    lines = [line for _, code in snippets("bash") for line in joined(code).splitlines()]
    return sorted({line.split("#")[0].strip() for line in lines if "bin/mmlib " in line})


def joined(code: str) -> str:
    """Lines that end in a backslash, put together."""
    return re.sub(r"\\\n\s*", " ", code)


def test_mmlib_snippets_name_options_that_exist(capsys):
    assert mmlib_commands()
    for line in mmlib_commands():
        command = line.split("bin/mmlib ")[1].split()[0]
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0, line
        known = capsys.readouterr().out
        for option in re.findall(r"--[\w-]+", line):
            assert re.search(rf"{option}\b", known), f"{option} of: {line}"


@pytest.mark.parametrize("page, code", snippets("python"), ids=lambda value: value[:20])
def test_python_snippets_run(page, code, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_console_script_is_installed():
    (script,) = entry_points(group="console_scripts", name="mmlib")
    assert script.load() is cli.main


# --- the package ----------------------------------------------------------------------------------


def test_git_ignores_no_file_of_the_package():
    """A pattern without its leading slash, `data/`, would swallow `mmlib/data/` without a word."""
    ignored = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "-z", "mmlib"]
    done = subprocess.run(ignored, cwd=ROOT, capture_output=True, check=True)
    names = [name for name in done.stdout.decode().split("\0") if name]
    assert not [name for name in names if "__pycache__" not in name]


def code_lines(path: Path) -> int:
    """Lines that are neither blank, nor comment, nor docstring."""
    source = path.read_text("utf8")
    lines: set[int] = set()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
               tokenize.ENCODING, tokenize.ENDMARKER}  # fmt: skip
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(lines)


def test_no_file_is_longer_than_a_reader_reads(record_property):
    counted = {path: code_lines(path) for path in sorted(ROOT.glob("mmlib/**/*.py"))}
    record_property("lines of code", sum(counted.values()))
    print(f"mmlib: {sum(counted.values())} lines of code in {len(counted)} files")
    assert not {str(p.relative_to(ROOT)): n for p, n in counted.items() if n > LINES_A_FILE}


def public_objects() -> list[tuple[str, object]]:
    """Every public class, function and method that mmlib defines, with its dotted name."""
    found: list[tuple[str, object]] = []
    for name in MODULES:
        module = import_module(name)
        for key, value in vars(module).items():
            if key.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if inspect.isfunction(value) or inspect.isclass(value):
                found.append((f"{name}.{key}", value))
    return found


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_hold(name):
    assert (import_module(name).__doc__ or "").strip()


def test_public_names_have_docstrings():
    bare = []
    for name, value in public_objects():
        doc = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
        generated = inspect.isclass(value) and (doc or "").startswith(f"{value.__name__}(")
        if not doc or generated:  # a dataclass without one gets its signature
            bare.append(name)
    assert not bare


def test_functions_of_tensors_state_shapes():
    """A public function that takes or returns a Tensor says which shape, in square brackets."""
    silent = []
    for name, value in public_objects():
        if inspect.isclass(value):
            continue
        annotations = " ".join(map(str, inspect.get_annotations(value).values()))
        annotations = re.sub(r"(?:dict|Mapping)\[str, [\w.]*Tensor\]", "", annotations)  # by name
        said = re.search(r"\[[\w., |*+×·…/-]+\]|\bscalar\b", value.__doc__ or "")
        if "Tensor" in annotations and not said:
            silent.append(name)
    assert not silent


FORMULAS = [
    mmlib.attention,
    mmlib.attention_weights,
    mmlib.MultiHeadAttention,
    mmlib.TransformerBlock,
    mmlib.modality_share,
    *mmlib.FUSIONS.values(),
]


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_formulas_name_their_source(formula):
    """Attention and every fusion name the equation or the paper that they come from."""
    assert re.search(r"eq\.|\(\d{4}\)", formula.__doc__)


# --- the numbers of the pages ---------------------------------------------------------------------


def test_pages_say_what_the_records_say():
    assert fill_pages.outdated() == {}


def test_a_changed_number_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(fill_pages, "RESULTS", tmp_path)
    monkeypatch.setattr(fill_pages, "ROOT", tmp_path)
    (tmp_path / "run.json").write_text('{"score": {"mean": 0.9712, "low": 0.96, "high": 0.98}}')
    page = "It is <!-- record: run.score .1% -->0.0 %<!-- /record -->, at last."
    filled = fill_pages.fill(page)
    assert filled.replace("\u00a0", " ") == (
        "It is <!-- record: run.score .1% -->97.1 % [96.0, 98.0]<!-- /record -->, at last."
    )
    assert fill_pages.fill(filled) == filled
    for wrong, why in [
        ("is <!-- record: gone.score .1% --><!-- /record -->", "no record"),
        ("is <!-- record: run.loss .1% --><!-- /record -->", "has no loss"),
        ("<!-- record: run.score .1% --><!-- /record --> is", "begins a line"),
        ("<!-- block: nothing -->\n<!-- /block -->", "no block"),
    ]:
        with pytest.raises(fill_pages.Outdated, match=why):
            fill_pages.fill(wrong)


def test_citations_lead_to_the_bibliography():
    known = fill_pages.bibliography()
    short = {key: fill_pages.short_name(entry) for key, entry in known.items()}
    assert len(known) == len(re.findall(r"^@", (ROOT / "book/references.bib").read_text(), re.M))
    wrong = []
    for path in [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]:
        text = path.read_text("utf8")
        for shown, key in re.findall(r"\[([^\[\]\n]+)\]\(#([a-z]+\d{4})\)", text):
            if shown != short.get(key):
                wrong.append((path.name, shown, short.get(key, f"no {key} in references.bib")))
    assert not wrong

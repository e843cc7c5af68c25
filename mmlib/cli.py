"""The command line: mmlib train | evaluate | predict | data.

The options of `train` are the fields of the recipes, and an option that does not belong to the kind
of run is refused. A user's mistake is one line on standard error and exit code 2; a run stopped by
Ctrl-C says how to go on and ends with exit code 130. What is slow to import is imported where it is
needed, so that help and mistakes come at once.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmlib.errors import UserError, expected
from mmlib.options import add_options, leaves, recipe_of, refuse_others
from mmlib.tasks.recipes import RECIPES, read_recipe
from mmlib.training.config import Execution
from mmlib.training.interrupts import Interrupted
from mmlib.training.run_folder import RunFolder

WHAT = {
    "scenes": "the generated world", "table": "a table",
    "language": "a language model that learns to see",
}  # fmt: skip
EXCHANGED = {
    "present_name": "the name of another thing",
    "absent_name": "a name of nothing",
    "side": "the other side",
}
# unseen scenes that the certificate asks about: each is asked eight times, and writing takes long
CERTIFIED = {"scenes": 250, "language": 25}
PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell has it of any program in a pipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mmlib.signs")
    try:
        try:
            given = _parser().parse_args(arguments)
            given.run(given)
        finally:
            sys.stdout.flush()
    except Interrupted as stopped:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            _say(stopped)
        return 130
    except KeyboardInterrupt:  # a second Ctrl-C, or one before or after the steps
        _say("stopped; what is saved is whole, go on with --resume")
        return 130
    except UserError as error:
        _say(error)
        return 2
    except BrokenPipeError:  # the reader, `head` say, has enough; nor may Python's last flush fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        where = error.filename or "the files of a run"
        got = f"'{error.strerror or error}'"
        _say(expected(f"to read and write {where}", got, "mend that path or its permissions"))
        return 2
    return 0


def _say(line: object) -> None:
    print("mmlib:", *str(line).splitlines(), file=sys.stderr)


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    """What a terminal's encoding does not have: a hyphen for a minus, a code for the rest."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].replace("−", "-")
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("mmlib.signs", _plain_signs)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all of a user's mistakes are."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with exit code 2."""
        self.exit(2, f"mmlib: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mmlib", description="Train and question a fusion model.")
    commands = parser.add_subparsers(required=True, metavar="train | evaluate | predict | data")

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str, **more: Any):
        # allow_abbrev: --text-l would become another option on the day of --text-length
        made = commands.add_parser(name, help=help, allow_abbrev=False, **more)
        made.set_defaults(run=run)
        return made

    train = command(
        "train", _train, "train on the generated world, or on a table with --data",
        description="Without --data: the generated world. With --data FILE.csv: your own pictures "
        "and texts, on frozen pretrained encoders. With --language NAME: that language model learns"
        " to see the generated world.",
    )  # fmt: skip
    train.add_argument("--out", type=Path, help="run folder (default runs/PRESET or runs/TABLE)")
    train.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a run that was cut off"
    )
    groups = {WHAT[kind]: recipe for kind, recipe in RECIPES.items()}
    add_options(train, groups | {"how it is executed (also with --resume)": Execution})

    evaluate = command(
        "evaluate", _evaluate, "score a run and the controls beside it, and say whether it fuses",
        description="Prints the scores of a run and its certificate: what is lost with exchanged, "
        "blank and missing inputs, and what follows from it.",
    )  # fmt: skip
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "--pictures",
        type=int,
        help="unseen scenes of the generated world (default 1000; of a language model 25)",
    )
    evaluate.add_argument("--html", type=Path, metavar="FILE", help="write it as a page too")
    predict = command("predict", _predict, "ask a trained model")
    predict.add_argument("folder", type=Path, metavar="RUN")
    predict.add_argument("--image", type=Path, help="a 64-pixel picture of the generated world")
    predict.add_argument("--text", help="a question about it")
    predict.add_argument("--data", type=Path, metavar="FILE.csv", help="rows for a table's model")

    data = command("data", _data, "fetch a public data set as a table")
    data.add_argument("name", help="emoji or pomology")
    data.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


# --- train ----------------------------------------------------------------------------------------


def _train(given: argparse.Namespace) -> None:
    said = {n: v for n, v in vars(given).items() if n not in ("out", "resume", "run")}
    execution = Execution(**{n: said.pop(n) for n in leaves(Execution) if n in said})
    if given.resume is not None:
        if given.out is not None:
            raise expected("--resume RUN without --out", "both", "a run stays in its folder")
        refuse_others(said, (), "the execution with --resume", "a run keeps its recipe")
        _run(read_recipe(given.resume), given.resume, execution)
        return
    kind = "table" if "data" in said else "language" if "language" in said else "scenes"
    remedy = "leave them out: mmlib train --help lists them by kind"
    if kind == "scenes" and set(said) & _only("table"):
        remedy = "add --data FILE.csv to train on a table"
    elif kind == "scenes" and set(said) & _only("language"):
        remedy = "add --language NAME to train a language model"
    refuse_others(said, leaves(RECIPES[kind]), WHAT[kind], remedy)
    recipe: Any = recipe_of(RECIPES[kind], said)
    if kind == "table":
        name = Path(recipe.data).stem
    else:
        name = Path(recipe.language).name if kind == "language" else recipe.preset
    _run(recipe, given.out or Path("runs") / name, execution)


def _only(kind: str) -> set[str]:
    """The options that no other kind has."""
    others = (set(leaves(recipe)) for name, recipe in RECIPES.items() if name != kind)
    return set(leaves(RECIPES[kind])).difference(*others)


def _run(recipe: Any, out: Path, execution: Execution) -> None:
    train: Callable[[Any, Path, Execution], dict[str, Any]]
    if recipe.kind == "table":
        from mmlib.tasks.cross_validation import train_table

        train, show, use = train_table, _print_table, "use it with: mmlib predict {} --data FILE"
    elif recipe.kind == "language":
        from mmlib.tasks.language_run import train_language

        train, show = train_language, _print_scores
        use = "ask it with: mmlib predict {} --image FILE --text QUESTION"
    else:
        from mmlib.tasks.scene_run import train_scenes

        train, show = train_scenes, _print_scores
        use = "ask it with: mmlib predict {} --image FILE --text QUESTION"
    from mmlib.training.fit import is_main_process

    result = train(recipe, out, execution)
    if is_main_process(execution):
        show(result)
        print(f"Saved in {out}; {use.format(shlex.quote(str(out)))}")


def _print_scores(result: dict[str, Any]) -> None:
    columns = {"both": result["by_kind"], **result["controls"]}
    print(f"{'% right':<12}" + "".join(f"{name:>12}" for name in columns))
    for kind in result["by_kind"]:
        print(f"{kind:<12}" + "".join(f"{100 * c[kind]['mean']:>12.1f}" for c in columns.values()))
    if result.get("reference"):
        stay = [
            f"{100 * share['mean']:.1f} % with {EXCHANGED[name]}"
            for name, share in result["reference"]["stay"].items()
        ]
        print(f"References whose answer stays: {', '.join(stay)}.")
    if captions := result.get("captions"):
        true, other = (100 * captions[name]["true"]["mean"] for name in ("seen", "shuffled"))
        print(f"Captions: {true:.1f} % true, of another picture {other:.1f} %.")
    overall = result["accuracy"]
    print(
        f"Overall {100 * overall['mean']:.1f} % [{100 * overall['low']:.1f}, "
        f"{100 * overall['high']:.1f}] on {overall['n']} questions about unseen scenes."
    )


def _print_table(result: dict[str, Any]) -> None:
    from mmlib.tasks.cross_validation import describe_report

    print(describe_report(result))


# --- evaluate, predict, data ----------------------------------------------------------------------


def _belongs(given: argparse.Namespace, kind: str, *allowed: str) -> None:
    """Raises UserError where an option was given that the command has for runs of another kind."""
    said = {n for n, v in vars(given).items() if v is not None} - {"folder", "run"}
    what = f"a run on {WHAT[kind]}"
    refuse_others(said, allowed, what, f"{given.folder} is {what}: leave them out")


def _evaluate(given: argparse.Namespace) -> None:
    kind = read_recipe(given.folder).kind
    if given.html is not None and not given.html.absolute().parent.is_dir():
        raise expected(f"a folder for {given.html}", "none", "make it, or name another file")
    more: list[str] = []
    if kind == "table":
        _belongs(given, kind, "html")
        result = RunFolder(given.folder).read_report()
        _print_table(result)
        from mmlib.tasks.certified import certify_table, table_parts

        certificate, more = certify_table(result), table_parts(result)
    elif kind == "language":
        from mmlib.tasks.certified import certify_language
        from mmlib.tasks.language_run import load_language_run

        _print_scores(RunFolder(given.folder).read_report())
        what, model, processor = load_language_run(given.folder)
        pictures = CERTIFIED[kind] if given.pictures is None else given.pictures
        certificate = certify_language(model, processor, what, pictures)
    else:
        from mmlib.tasks.certified import certify_scenes
        from mmlib.tasks.scene_run import load_run, report

        recipe, task = load_run(given.folder)
        pictures = 1000 if given.pictures is None else given.pictures
        _print_scores(report(task.model, recipe, pictures))
        certificate = certify_scenes(task.model, recipe, min(pictures, CERTIFIED[kind]))
    print("", *certificate.lines(), "", certificate, sep="\n")
    if given.html is not None:
        from mmlib.files import write_whole

        page = certificate.to_html(f"Does {given.folder.name} fuse?", *more)
        write_whole(given.html, page.encode())
        print(f"Wrote {given.html}")


def _predict(given: argparse.Namespace) -> None:
    kind = read_recipe(given.folder).kind
    if kind == "table":
        _belongs(given, kind, "data")
        if given.data is None:
            raise expected("--data FILE.csv for a table's model", "none", "pass the rows as a CSV")
        from mmlib.tasks.cross_validation import predict_table

        for row in predict_table(given.folder, given.data):
            print(json.dumps(row, ensure_ascii=False))
        return
    _belongs(given, kind, "image", "text")
    if given.image is None or given.text is None:
        raise expected("--image FILE and --text QUESTION", "one or neither", "pass both")
    if kind == "language":
        from mmlib.tasks import language_run

        _, model, processor = language_run.load_language_run(given.folder)
        print(language_run.answer_about(model, processor, given.image, given.text))
        return
    from mmlib.tasks.scene_run import answer_about, load_run

    _, task = load_run(given.folder)
    print(answer_about(task, given.image, given.text))


def _data(given: argparse.Namespace) -> None:
    from mmlib.data import emoji, pomology

    known = {"emoji": emoji.write, "pomology": pomology.write}
    if given.name not in known:
        raise expected(f"a data set of {', '.join(known)}", f"'{given.name}'", "choose one")
    print(f"Wrote {known[given.name](given.out)}")


if __name__ == "__main__":
    sys.exit(main())

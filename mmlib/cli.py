"""The command line: mmlib train | evaluate | predict | data.

The options of `train` are the fields of the recipes. A user's mistake is one line on standard
error and exit code 2; a run stopped by Ctrl-C says how to go on and ends with exit code 130.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlib.errors import UserError, expected


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    # the libraries that are slow to import are needed only after the words have been understood
    from mmlib.training.fit import Interrupted

    try:
        given.run(given)
    except Interrupted as stopped:
        print(f"mmlib: {stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:  # a second Ctrl-C, or one before or after the steps
        print("mmlib: stopped; what is saved is whole, go on with --resume", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"mmlib: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        line = expected("files that can be read and written", f"'{error}'", "mend that path")
        print(f"mmlib: {line}", file=sys.stderr)
        return 2
    return 0


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all of a user's mistakes are."""

    def error(self, message: str) -> typing.NoReturn:
        """Print the line and leave with exit code 2."""
        self.exit(2, f"mmlib: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    from mmlib.tasks.cross_validation import TableRecipe
    from mmlib.tasks.scenes import SceneRecipe

    parser = Parser(prog="mmlib", description="Train and question a fusion model.")
    commands = parser.add_subparsers(required=True, metavar="train | evaluate | predict | data")

    train = commands.add_parser(
        "train", help="train on the generated world, or on a table with --data",
        description="Without --data: the generated world. With --data FILE.csv: your own pictures "
        "and texts, on frozen pretrained encoders.",
    )  # fmt: skip
    train.add_argument("--out", type=Path, help="run folder (default runs/PRESET or runs/TABLE)")
    train.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a run that was cut off"
    )
    options: dict[str, argparse.Action] = {}
    _add_fields(train.add_argument_group("the generated world"), SceneRecipe, options)
    _add_fields(train.add_argument_group("a table"), TableRecipe, options)
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="score a run and the controls beside it")
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument("--pictures", type=int, default=1000, help="unseen scenes (default 1000)")
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="ask a trained model")
    predict.add_argument("folder", type=Path, metavar="RUN")
    predict.add_argument("--image", type=Path, help="a 64-pixel picture of the generated world")
    predict.add_argument("--text", help="a question about it")
    predict.add_argument("--data", type=Path, metavar="FILE.csv", help="rows for a table's model")
    predict.set_defaults(run=_predict)

    data = commands.add_parser("data", help="fetch a public data set as a table")
    data.add_argument("name", help="pomology")
    data.add_argument("--out", type=Path, required=True, metavar="DIR")
    data.set_defaults(run=_data)
    return parser


def _leaves(recipe: type) -> dict[str, tuple[Any, Any]]:
    """{field: (type, default)} of a recipe, with the fields of a nested one among them."""
    hints = typing.get_type_hints(recipe)
    found: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(recipe):
        if dataclasses.is_dataclass(hints[field.name]):
            found |= _leaves(typing.cast(type, hints[field.name]))
        else:
            found[field.name] = (hints[field.name], field.default)
    return found


def _add_fields(
    group: argparse._ArgumentGroup, recipe: type, options: dict[str, argparse.Action]
) -> None:
    """One option a field; a field that another recipe has too, in `options`, is the same option."""
    for name, (hint, default) in _leaves(recipe).items():
        option = "--" + name.replace("_", "-")
        shown = "" if default in (None, dataclasses.MISSING) else f"(default {default})"
        if name in options:
            if options[name].help != shown:
                options[name].help = f"{options[name].help} {shown.replace('(', '(a table: ')}"
            continue
        values: dict[str, Any] = {"default": None, "help": shown.replace("%", "%%")}
        if typing.get_origin(hint) is tuple:
            values |= {"nargs": 2, "type": int, "metavar": ("LOW", "HIGH")}
        elif hint is bool:
            values |= {"type": _truth, "metavar": "true|false"}
        else:
            values |= {"type": _plain(hint), "metavar": _plain(hint).__name__.upper()}
        options[name] = group.add_argument(option, **values)


def _plain(hint: Any) -> type:
    """str of `str | None`."""
    if isinstance(hint, types.UnionType):
        return next(t for t in typing.get_args(hint) if t is not type(None))
    return hint


def _truth(word: str) -> bool:
    """true or false: `bool("false")` would be true."""
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {word}")
    return word.lower() == "true"


def _build(recipe: type, given: argparse.Namespace) -> Any:
    """The recipe of the options that were given."""
    hints, values = typing.get_type_hints(recipe), {}
    for field in dataclasses.fields(recipe):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            values[field.name] = _build(typing.cast(type, hint), given)
        elif (value := getattr(given, field.name)) is not None:
            values[field.name] = tuple(value) if isinstance(value, list) else value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            option = "--" + field.name.replace("_", "-")
            raise expected(f"{option} with a table", "none", f"name the column: {option} NAME")
    return recipe(**values)


def _train(given: argparse.Namespace) -> None:
    if given.resume is not None:
        _resume(given)
    elif given.data is not None:
        _train_table(given)
    else:
        _train_scenes(given)


def _resume(given: argparse.Namespace) -> None:
    """A run knows its recipe, so nothing else may be said with --resume."""
    from mmlib.tasks.cross_validation import TableRecipe, train_table
    from mmlib.tasks.scenes import SceneRecipe

    said = sorted(
        name for name in {**_leaves(SceneRecipe), **_leaves(TableRecipe)}
        if getattr(given, name) is not None
    )  # fmt: skip
    if said or given.out:
        raise expected("--resume RUN alone", ", ".join(said) or "--out", "a run keeps its recipe")
    saved = _saved_recipe(given.resume)
    if "data" in saved:
        _print_table(train_table(TableRecipe.from_json(json.dumps(saved)), given.resume))
    else:
        _run_scenes(SceneRecipe.from_json(saved), given.resume)


def _saved_recipe(run: Path) -> dict[str, Any]:
    path = run / "recipe.json"
    try:
        saved = json.loads(path.read_text("utf8"))
    except FileNotFoundError:
        raise expected(
            f"a run folder with {path}", "no such file", "name the --out of a run"
        ) from None
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise expected(f"a recipe in {path}", "something else", "copy it anew, or train again")
    return saved


def _train_scenes(given: argparse.Namespace) -> None:
    from mmlib.tasks.scenes import SceneRecipe

    recipe = _build(SceneRecipe, given)
    _run_scenes(recipe, given.out or Path("runs") / recipe.preset)


def _run_scenes(recipe: Any, out: Path) -> None:
    from mmlib.tasks.scenes import train_scenes

    result = train_scenes(recipe, out)
    _print_scores(result)
    print(f"Saved in {out}; ask it with: mmlib predict {out} --image FILE --text QUESTION")


def _print_scores(result: dict[str, Any]) -> None:
    columns = {"both": result["by_kind"], **result["controls"]}
    print(f"{'% right':<12}" + "".join(f"{name:>12}" for name in columns))
    for kind in result["by_kind"]:
        print(f"{kind:<12}" + "".join(f"{100 * c[kind]['mean']:>12.1f}" for c in columns.values()))
    overall = result["accuracy"]
    print(
        f"Overall {100 * overall['mean']:.1f} % [{100 * overall['low']:.1f}, "
        f"{100 * overall['high']:.1f}] on {overall['n']} questions about unseen scenes."
    )


def _train_table(given: argparse.Namespace) -> None:
    from mmlib.tasks.cross_validation import TableRecipe, train_table

    recipe = _build(TableRecipe, given)
    out = given.out or Path("runs") / Path(recipe.data).stem
    _print_table(train_table(recipe, out))
    print(f"Saved in {out}; use it with: mmlib predict {out} --data FILE.csv")


def _print_table(result: dict[str, Any]) -> None:
    from mmlib.tasks.cross_validation import describe_report

    print(describe_report(result))


def _evaluate(given: argparse.Namespace) -> None:
    from mmlib.tasks.scenes import load_task, report

    saved = _saved_recipe(given.folder)
    if "data" in saved:
        path = given.folder / "report.json"
        if not path.exists():
            raise expected(
                f"a finished run with {path}",
                "no such file",
                f"mmlib train --resume {given.folder}",
            )
        _print_table(json.loads(path.read_text("utf8")))
    else:
        _print_scores(report(load_task(given.folder), given.pictures))


def _predict(given: argparse.Namespace) -> None:
    saved = _saved_recipe(given.folder)
    if "data" in saved:
        from mmlib.tasks.cross_validation import predict_table

        if given.data is None:
            raise expected("--data FILE.csv for a table's model", "none", "pass the rows as a CSV")
        for row in predict_table(given.folder, given.data):
            print(json.dumps(row, ensure_ascii=False))
    else:
        from mmlib.tasks.scenes import answer_about, load_task

        if given.image is None or given.text is None:
            raise expected("--image FILE and --text QUESTION", "one or neither", "pass both")
        print(answer_about(load_task(given.folder), given.image, given.text))


def _data(given: argparse.Namespace) -> None:
    from mmlib.data import pomology

    known = {"pomology": pomology.write}
    if given.name not in known:
        raise expected(f"a data set of {', '.join(known)}", f"'{given.name}'", "choose one")
    print(f"Wrote {known[given.name](given.out)}")


if __name__ == "__main__":
    sys.exit(main())

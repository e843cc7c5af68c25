"""The certificate: does a model fuse? The scores, the controls beside them, and the verdict.

Every word of the verdict is computed from intervals, so that it changes when the figures do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mmlib.errors import expected
from mmlib.evaluation.intervals import Interval, format_interval
from mmlib.evaluation.page import interval_chart, page, paragraph, table
from mmlib.evaluation.report import listed

MARGIN = 0.05
NAMES = {
    "all": "text and picture",
    "exchanged_image": "pictures exchanged",
    "exchanged_text": "texts exchanged",
    "blank_image": "blank picture",
    "blank_text": "blank text",
    "without_image": "no picture",
    "without_text": "no text",
    "nothing": "neither of them",
    "only_image": "picture alone, trained so",
    "only_text": "text alone, trained so",
    "guess_text": "best guess from the text",
    "guess_answers": "most frequent answer",
    "additive": "best additive model",
}
SHARES = {"image": "picture", "text": "text", "interaction": "interaction"}
VERDICTS = {
    "fuses": "It fuses: its right answers depend on text and picture together, by more than a sum.",
    "additive": "It is additive: it uses text and picture, but a sum of what each says does as "
    "well.",
    "uses both": "It uses text and picture; whether by more than a sum was not measured.",
    "text prior": "It answers from the text: the picture makes no difference that counts.",
    "picture only": "It answers from the picture: the text makes no difference that counts.",
    "collapsed": "It has collapsed: neither text nor picture changes its score by what counts.",
    "undecided": "Undecided: an interval holds both no difference and one that counts.",
}


@dataclass(frozen=True)
class Certificate:
    """What was measured of one model; `verdict` and `str` are computed from it.

    score: what the figures are ("accuracy"), over: what their intervals are over. scores {control:
    interval}, drops {control: score of "all" − control, paired}, by the names of NAMES; changed:
    the share of answers that another picture, or text, changes; shapley: the parts of the score by
    SHARES; calibration: {"error", "floor", "floor_high"} and reliability its table; not_measured
    {name: why}. asked {"all": rows that the model answered, "additive": those of them that the
    best additive model took}. margin: below it a difference does not count. All figures are shares
    from 0 to 1.
    """

    score: str
    over: str
    scores: dict[str, Interval]
    drops: dict[str, Interval]
    changed: dict[str, Interval] = field(default_factory=dict)
    shapley: dict[str, Interval] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    reliability: list[dict[str, Any]] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    margin: float = MARGIN

    @property
    def verdict(self) -> str:
        """A key of VERDICTS.

        An input is used where exchanging it costs something: the whole interval of the drop lies
        above 0 and not all of it below `margin`. It is not used where the whole interval lies below
        `margin`. "fuses" asks that both are used, and likewise that the best additive model is
        below; as all must hold, testing several makes a false "fuses" no likelier.
        """
        image, text = (self._costs(f"exchanged_{m}") for m in ("image", "text"))
        if image is None or text is None:
            return "undecided"
        if not (image and text):
            return "picture only" if image else "text prior" if text else "collapsed"
        if "additive" not in self.drops:
            return "uses both"
        more = self._costs("additive")
        return "undecided" if more is None else "fuses" if more else "additive"

    def _costs(self, name: str) -> bool | None:
        """Whether the control costs something that counts; None where that is open."""
        drop = self.drops.get(name)
        if drop is None:
            return None
        if drop["high"] < self.margin:
            return False
        return True if drop["low"] > 0 else None

    def __str__(self) -> str:
        """The verdict and what it rests on, as one paragraph."""
        said = [VERDICTS[self.verdict]]
        said.append(f"Its {self.score} is {_percent(self.scores['all'])} over {self.over}.")
        costs = [
            f"other {what} cost {_points(self.drops[name])}"
            for name, what in (("exchanged_image", "pictures"), ("exchanged_text", "texts"))
            if name in self.drops
        ]
        if costs:
            said.append(f"Measured on the same questions, {listed(costs)}.")
        if "additive" in self.drops:
            drop = self.drops["additive"]
            said.append(
                f"Without its interaction, as the best sum of a text's and a picture's part, it "
                f"loses {_points(drop)} ({drop['n']} questions)."
            )
        over = [
            f"{_points(self.drops[name], sign=True)} against {what}"
            for name, what in (
                ("guess_text", "the best guess from the text"),
                ("guess_answers", "the most frequent answer"),
                ("only_image", "a model of the picture alone"),
                ("only_text", "a model of the text alone"),
            )
            if name in self.drops
        ]
        if over:
            said.append(f"It stands {listed(over)}.")
        if "interaction" in self.shapley:
            parts = [f"{_points(self.shapley[k])} to the {SHARES[k]}" for k in ("image", "text")]
            said.append(
                f"Of the gain over neither, Shapley's shares give {listed(parts)}; their "
                f"interaction is {_points(self.shapley['interaction'], sign=True)} on the scale of "
                f"{self.score}, where a sum can have one too."
            )
        if self.calibration:
            error, high = (100 * self.calibration[k] for k in ("error", "floor_high"))
            more = "more" if error > high else "no more"
            said.append(
                f"Confidence and accuracy differ by {error:.1f} points, {more} than the {high:.1f} "
                "that chance explains."
            )
        if self.not_measured:
            said.append(f"Not measured: {listed(list(self.not_measured))}.")
        said.append(
            f"Intervals are of 95 %; a difference counts from {100 * self.margin:.0f} points."
        )
        return " ".join(said)

    def lines(self) -> list[str]:
        """Every figure as lines for a terminal, in percent; then what was not measured."""
        width = 2 + max(map(len, NAMES.values()))
        lines = [f"{'%':<{width}}{self.score:<22}lost, in points"]
        for name, words in NAMES.items():
            if name in self.scores:
                drop = format_interval(self.drops[name], sign=True) if name in self.drops else ""
                row = f"{words:<{width}}{format_interval(self.scores[name]):<22}{drop}"
                lines.append(row.rstrip())
        for key, words in SHARES.items():
            if key in self.shapley:
                share = format_interval(self.shapley[key], sign=True)
                lines.append(f"{'due to ' + words:<{width}}{share}")
        for name, found in self.changed.items():
            words = f"changed by another {SHARES[name]}"
            lines.append(f"{words:<{width}}{format_interval(found)}")
        if self.asked:
            rows, extra = f"{self.asked['all']} rows asked", self.asked.get("additive")
            lines.append(f"{rows}, {extra} for the best additive model." if extra else f"{rows}.")
        why = [f"Not measured, {name}: {reason}." for name, reason in self.not_measured.items()]
        return [*lines, *why]

    def to_json(self) -> dict[str, Any]:
        """The fields, and "verdict" and "text", which are computed, for whoever reads the file."""
        return {**asdict(self), "verdict": self.verdict, "text": str(self)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Certificate:
        """The certificate of `to_json`, verdict and text computed anew.

        Raises UserError where it is none.
        """
        names = {f.name for f in fields(cls)}
        try:
            found = cls(**{name: x for name, x in saved.items() if name in names})
            found.lines(), str(found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise expected(
                "a certificate as to_json makes it", f"{type(error).__name__}: {error}",
                "certify the model again",
            ) from None  # fmt: skip
        return found

    def to_html(self, title: str = "Does it fuse?", *more: str) -> str:
        """The certificate as a page of its own, with plots; `more` are further parts of it."""
        return page(title, [*self.parts(), *more])

    def parts(self) -> list[str]:
        """The parts of `to_html`, of which another page may be made."""
        named, lost = (
            {words: found[name] for name, words in NAMES.items() if name in found}
            for found in (self.scores, self.drops)
        )
        parts = [
            paragraph(str(self)),
            interval_chart(f"{self.score.capitalize()} of the model and beside it", named, (0, 1)),
            interval_chart("What each control costs, in points", lost, zero=True),
        ]
        if self.shapley:
            shares = {words: self.shapley[k] for k, words in SHARES.items() if k in self.shapley}
            parts.append(interval_chart("What the score is due to, in points", shares, zero=True))
        if self.reliability:
            rows = [
                [f"{100 * r['low']:.0f} to {100 * r['high']:.0f}", str(r["n"]),
                 f"{100 * r['confidence']:.1f}", f"{100 * r['accuracy']:.1f}"]
                for r in self.reliability
            ]  # fmt: skip
            head = ["sure, in %", "answers", "mean confidence", "right, in %"]
            parts.append(table("How sure it is, and how often right", head, rows))
        if self.not_measured:
            rows = [[name, why] for name, why in self.not_measured.items()]
            parts.append(table("Not measured", ["what", "why"], rows))
        return parts


def _percent(found: Interval) -> str:
    mean, ends = format_interval(found).split(" ", 1)
    return f"{mean} % {ends}"


def _points(found: Interval, sign: bool = False) -> str:
    mean, ends = format_interval(found, sign=sign).split(" ", 1)
    return f"{mean} points {ends}"

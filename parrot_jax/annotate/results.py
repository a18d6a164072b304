"""All figures of an annotation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parrot_jax.annotate.agreement import Agreement, JudgeAgreement, agreement, judge_agreement
from parrot_jax.annotate.estimates import (
    Difference,
    Estimate,
    differences,
    estimate,
    label_of,
    values_of,
)
from parrot_jax.annotate.judgments import Judgments, read_judgments
from parrot_jax.annotate.tasks import SKIP
from parrot_jax.annotate.verdict_file import Annotation, read_annotation
from parrot_jax.core.errors import UserError


class Line(NamedTuple):
    """The figures of one source or of one annotator."""

    name: str
    estimate: Estimate
    skipped: int
    missing: int
    """Items that somebody who takes part has not judged yet, once for each person."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return self.estimate.to_json() | {"skipped": self.skipped, "missing": self.missing}


class Results(NamedTuple):
    """The figures of a file."""

    annotation: Annotation
    sources: list[Line]
    annotators: list[Line]
    differences: list[Difference]
    agreement: Agreement
    judges: list[JudgeAgreement]
    judgments: Judgments | None

    @property
    def is_share(self) -> bool:
        """Whether the figures are shares and not grades."""
        return self.annotation.task.name != "grade"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        found: dict[str, Any] = {
            "task": self.annotation.task.name,
            "settings": dict(self.annotation.settings),
            "items": len(self.annotation.items),
            "judged": sum(line.estimate.verdicts for line in self.annotators),
            "skipped": sum(line.skipped for line in self.annotators),
            "missing": sum(line.missing for line in self.annotators),
            "undone": self.annotation.undone,
            "sources": {line.name: line.to_json() for line in self.sources},
            "annotators": {line.name: line.to_json() for line in self.annotators},
            "differences": [one.to_json() for one in self.differences],
            "agreement": self.agreement.to_json(),
        }
        if self.judgments is not None:
            found["judges"] = [one.to_json() for one in self.judges]
            found["unclear"] = dict(self.judgments.unclear)
            found["copies"] = dict(self.judgments.copies)
            found["rejected"] = dict(self.judgments.rejected.reasons)
        return found


def make_results(path: Path, judgment_files: Sequence[str] = ()) -> Results:
    """Reads a file and computes everything.

    Args:
      path: Of `parrot annotate`; it may be in use.
      judgment_files: Of FastChat's `model_judgment/`, for people against judges.

    Raises:
      UserError: A file cannot be read, nobody has judged anything, or no judge can be compared with
        this task or has judged the same.
    """
    annotation = read_annotation(path)
    task = annotation.task
    if not annotation.verdicts:
        raise UserError(f"nobody has judged anything in {path}; `parrot annotate` asks people.")
    values = values_of(annotation)
    is_share = task.name != "grade"
    judgments, judges = None, list[JudgeAgreement]()
    if judgment_files:
        if task.name not in ("grade", "compare"):
            raise UserError(
                f"--judgments has verdicts on answers, and {path} has questions; leave it out."
            )
        num_models = 1 if task.name == "grade" else 2
        judgments = read_judgments(judgment_files, num_models=num_models)
        judges = [
            judge_agreement(values, name, verdicts, task.name)
            for name, verdicts in sorted(judgments.by_judge.items())
        ]
        if not any(one.same.verdicts for one in judges):
            raise UserError(
                f"{', '.join(judgment_files)} has no verdict on an answer that people judged in "
                f"{path}; models, question ids and turns must be the same."
            )
    people = sorted({verdict.annotator for verdict in annotation.verdicts})
    labels = sorted({label_of(item.sources) for item in annotation.items})
    return Results(
        annotation=annotation,
        sources=[_line(annotation, name, people, [name], is_share) for name in labels],
        annotators=[_line(annotation, name, [name], labels, is_share) for name in people],
        differences=list(differences(values, is_share=is_share)) if task.name != "compare" else [],
        agreement=agreement(values, task.name),
        judges=judges,
        judgments=judgments,
    )


def _line(
    annotation: Annotation,
    name: str,
    people: Sequence[str],
    labels: Sequence[str],
    is_share: bool,
) -> Line:
    """The figures of some people and some sources."""
    numbers = {
        number
        for number, item in enumerate(annotation.items, 1)
        if label_of(item.sources) in labels
    }
    given = [one for one in annotation.verdicts if one.annotator in people and one.item in numbers]
    values = values_of(annotation._replace(verdicts=given))
    return Line(
        name,
        estimate(values, is_share=is_share),
        skipped=sum(one.value == SKIP for one in given),
        missing=len(people) * len(numbers) - len(given),
    )

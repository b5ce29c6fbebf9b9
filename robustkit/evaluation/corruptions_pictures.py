"""What the page of a report on corruptions shows: one image under each of them."""

from robustkit.corruptions import corrupt
from robustkit.data import LabelledImages
from robustkit.evaluation.corruptions_summary import answers
from robustkit.evaluation.corruptions_survey import CLEAN, OWN, Condition, Survey
from robustkit.evaluation.records import Records
from robustkit.report import Corrupted

# At which severity.
_SHOWN = 3


def pictures(data: LabelledImages, records: Records, seed: int) -> list[Corrupted]:
    """The first image as it is and under each corruption, with what was answered."""
    clean, right = data.inputs([0]), int(data.labels[0])
    streams = Survey.drawing(data.ids[:1], seed)
    names = dict(enumerate(data.class_names))
    shown = [Condition(CLEAN, "original", 0)]
    shown += [condition for condition in OWN if condition.severity == _SHOWN]
    found = []
    for condition in shown:
        name, severity = condition.name or "", condition.severity
        answer = int(answers(records, condition.stage, len(data))[0])
        found.append(
            Corrupted(
                title=f"{name} {severity}" if severity else name,
                answer=names.get(answer, str(answer) if answer >= 0 else "no answer"),
                label=names.get(right, str(right)),
                image=(corrupt(clean, name, severity, streams=streams) if severity else clean)[0],
            )
        )
    return found

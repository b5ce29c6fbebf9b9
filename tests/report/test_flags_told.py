"""Every flag that the code can raise stands in the documentation."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAISED = re.compile(r'\b_?[Ff]lag\(\s*(?:id=)?"([^"]+)"')


def test_every_flag_is_documented() -> None:
    sources = sorted((ROOT / "robustkit").rglob("*.py"))
    raised = {id for path in sources for id in RAISED.findall(path.read_text(encoding="utf-8"))}
    told = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert {"F1", "F11", "probabilities", "other-size", "diverged"} <= raised
    assert [id for id in sorted(raised) if f"`{id}`" not in told and f"| {id} |" not in told] == []

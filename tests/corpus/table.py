"""Print what comes of every case: python tests/corpus/table.py"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import corpus.annotations  # noqa: E402
import corpus.pictures  # noqa: E402
import corpus.tables  # noqa: E402
from corpus.run import run  # noqa: E402
from corpus.scene import CASES  # noqa: E402

for case in CASES:
    with tempfile.TemporaryDirectory() as folder:
        try:
            got, difference = run(case, Path(folder))
        except Exception as error:
            print(f"CRASH  | {case.kind:14} | {case.name} | {case.must} | {type(error).__name__}: {error}")
            continue
        said = (got.refusal + " " + "; ".join(got.notes)).replace(folder, "").strip()
        wrong = difference or (case.must == "refused" and not got.refusal)
        state = "refused" if got.refusal else "WRONG" if wrong and not got.notes else "wrong, said" if wrong else "right"
        if got.refusal and case.must == "read":
            state = "refused!"
        import re
        if state in ("right", "wrong, said") and case.says and not re.search(case.says, said): state = "SILENT"
        print(f"{state:8} | {case.kind:14} | {case.name} | {case.must} | {difference or ''} | {said[:230]}")

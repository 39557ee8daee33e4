"""How well planners read requests in wordings that no training has seen, by category and language.

    python benchmarks/planner_families.py [--count 2000] [--seed 5] [--planner FOLDER]

Rows of the rules and of the learned planner: the one that ships, or that of a folder of `diptych train
planner`.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

from diptych.planning.data.compose import sample
from diptych.planning.data.score import Tally, row
from diptych.planning.learned import Learned
from diptych.planning.rules import RulePlanner
from diptych.request import RequestError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--planner", type=Path)
    given = parser.parse_args()
    learned = Learned.open(given.planner)
    if learned is None:
        raise SystemExit(f"there is no planner in {given.planner or 'the assets'}")
    samples = [sample(given.seed, number, "held-out") for number in range(given.count)]
    for name, planner in (("rules", RulePlanner()), ("learned", learned)):
        classes: defaultdict[str, Tally] = defaultdict(Tally)
        took, refused = 0.0, 0
        for found in samples:
            began = time.perf_counter()
            try:
                intent = planner.plan(found.request)
            except RequestError:
                refused += 1
                continue
            took += time.perf_counter() - began
            for kind in ("all", f"category {found.category}", f"language {found.intent.language}"):
                classes[kind].add(intent, found.intent)
        every = classes["all"]
        print(
            f"\n{name}: {took / len(samples) * 1000:.1f} ms a request, {refused} refused; questions asked: "
            f"precision {every.precision:.3f}, recall {every.recall:.3f}\n"
        )
        print("| class | requests | task | roles | fields | all typed | prompt | prompt F1 |")
        print("|---|---|---|---|---|---|---|---|")
        for kind in sorted(classes):
            print(row(kind, classes[kind]))


if __name__ == "__main__":
    main()

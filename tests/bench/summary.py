#!/usr/bin/env python3
"""Median and range of each configuration, and how ours compares with each yardstick: summary.py FILE.

A ratio is taken within one repetition, where both ran on the same servers within a minute of each other; figures of
different runs or machines are not to be compared.
"""

import re
import statistics
import sys

LINE = re.compile(r"^drain name=(?P<name>\S+) .*?\brate=(?P<rate>[\d.]+)/s")
OURS = "metagov"


def with_range(values: list[float], digits: int) -> str:
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"


repetitions: list[dict[str, float]] = []
with open(sys.argv[1], encoding="utf-8") as results:
    for line in results:
        if line.startswith("# repetition"):
            repetitions.append({})
        elif found := LINE.match(line):
            repetitions[-1][found["name"]] = float(found["rate"])

names = list(dict.fromkeys(name for repetition in repetitions for name in repetition))
for name in names:
    rates = [repetition[name] for repetition in repetitions if name in repetition]
    print(f"{name:32} {with_range(rates, 0)} commands/s (n={len(rates)})")
for name in names:
    ratios = [each[OURS] / each[name] for each in repetitions if name != OURS and OURS in each and name in each]
    if ratios:
        print(f"{OURS} / {name:{32 - len(OURS) - 3}} {with_range(ratios, 2)}")

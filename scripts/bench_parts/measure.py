"""Rows, tables and targets; the rounds in which they are measured."""
import dataclasses
import statistics
from typing import Callable, Optional

from .base import Failure, progress
from .data import Census


@dataclasses.dataclass
class Row:
    """One way to do it, and its runs."""
    key: str
    name: str
    once: Callable          # one run: (value, what went wrong or None)
    slow: bool = False      # may be measured fewer times (options.slow_runs)
    values: list = dataclasses.field(default_factory=list)
    wrong: Optional[str] = None     # the first thing that went wrong

    def add(self, value, wrong, counts):
        self.wrong = self.wrong or wrong
        if counts and not wrong:
            self.values.append(value)

    @property
    def median(self):
        return statistics.median(self.values) if self.values and not self.wrong else None


def ratio(row, other):
    return row.median / other.median if row.median and other.median else None


@dataclasses.dataclass
class Table:
    """Rows that are measured side by side."""
    heading: str
    rows: list
    cold: bool                      # caches are dropped before each run
    unit: str = "s"                 # s, ms, MiB
    compared: Optional[str] = "dvolfs"  # what the first row is, which each is compared to
    before: Optional[Callable] = None   # called with the round's number, before its runs
    times: int = 1                  # so many times the runs of others
    after: Optional["Table"] = None  # rows that went wrong there are wrong here

    def row(self, key):
        return next(row for row in self.rows if row.key == key)

    def begin(self, number):
        for row in self.rows:
            for earlier in self.after.rows if self.after else ():
                if earlier.key == row.key:
                    row.wrong = row.wrong or earlier.wrong
        if self.before:
            self.before(number)


@dataclasses.dataclass
class Target:
    """What a row is to keep to: a ratio to another's median, or a median of its own."""
    what: str
    row: Row
    other: Optional[Row]
    most: float
    unit: str = "s"         # of a median of its own
    of: str = "takes"       # or "is"

    @property
    def text(self):
        if not self.other:
            return f"{self.what}: within {self.most:g} {self.unit}"
        as_much = "times as long as" if self.of == "takes" else "times that of"
        return f"{self.what}: {self.of} at most {self.most:.3g} {as_much} {self.other.name}"

    @property
    def value(self):
        return ratio(self.row, self.other) if self.other else self.row.median

    @property
    def holds(self):
        """None where it could not be measured."""
        return None if self.value is None else self.value <= self.most


@dataclasses.dataclass
class Group:
    """All that was measured with one data set."""
    section: str
    name: str
    census: Optional[Census] = None
    tables: list = dataclasses.field(default_factory=list)
    targets: list = dataclasses.field(default_factory=list)


def in_turn(items, number):
    """The items, beginning with another one each round."""
    start = number % len(items)
    return items[start:] + items[:start]


def once(row):
    try:
        return row.once()
    except (Failure, OSError) as error:
        return 0.0, str(error).removeprefix("bench: ")


def rounds(options, what, *tables):
    """
    Measure tables: each round goes through them in their order, and runs each row once. The
    first round warms up, where caches are not dropped. A row that went wrong is not run
    again.
    """
    cold, runs = tables[0].cold, options.runs * tables[0].times
    for number in range(runs + (not cold)):
        warming = number == 0 and not cold
        label = "warm-up" if warming else f"run {number + cold} of {runs}"
        for table in tables:
            table.begin(number)
            for row in in_turn(table.rows, number):
                if row.wrong or row.slow and len(row.values) >= options.slow_runs:
                    continue
                value, wrong = once(row)
                row.add(value, wrong, counts=not warming)
                progress(f"{what}: {table.heading}, {label}: {row.name}: "
                         f"{wrong or figure(value, table.unit)}")
    return tables


def figure(value, unit):
    return f"{value:.{3 if value < 1 else 2}f} {unit}"

"""What a command says while it works: bars on a terminal, plain lines elsewhere.

Elsewhere is a file, a pipe or a batch system. There every stage has a line at its start and at its
end, and at least one every half minute between them: a thread repeats where the work is while one
long call has nothing to report.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, NoReturn

import rich.console
import rich.progress

from vaecausal_jax.processes import is_first

Progress = Callable[[str, int, int], None]
"""Called as (what, done, total). What precedes the colon names the stage, the rest is a detail."""

INTERVAL = 30.0
"""Seconds that pass without a line at most."""

_FILE_WIDTH = 10_000
_SETTLING = 1.0


class Mark(NamedTuple):
    """When how much was done."""

    time: float
    done: int


class Stage(NamedTuple):
    """One stage of the work, as far as it has come.

    Attributes:
        name: What is being done.
        detail: Which piece of it, or what is known of it; may be empty.
        total: How many pieces there are.
        began: When it began.
        found: How many of them an earlier run had done.
        marks: At most three: where its own work began, the end of its first piece, and the latest
            change.
    """

    name: str
    detail: str
    total: int
    began: float
    found: int
    marks: tuple[Mark, ...]

    @property
    def is_done(self) -> bool:
        """Whether all pieces are done."""
        return self.marks[-1].done >= self.total


def begin_stage(what: str, done: int, total: int, now: float) -> Stage:
    """A stage that has just begun."""
    name, _, detail = what.partition(": ")
    return Stage(name, detail, total, now, done, (Mark(now, done),))


def advance_stage(stage: Stage, what: str, done: int, total: int, now: float) -> Stage:
    """The stage after a report.

    What was done in an earlier run is passed over in an instant, and is no measure of speed: what
    the first second brings only moves the mark where the stage's own work began.
    """
    detail, marks = what.partition(": ")[2], stage.marks
    if now - stage.began < _SETTLING:
        marks = (Mark(now, done),)
    elif done != marks[-1].done:
        marks = (*marks[:2], Mark(now, done))
    return stage._replace(detail=detail, total=total, marks=marks)


def seconds_left(stage: Stage, now: float) -> float | None:
    """Seconds until the stage is done, at the rate so far; None where that says nothing.

    The first piece of a stage waits for compilation, so it counts only where it is long, and only
    until there is another.
    """
    *_, latest = stage.marks
    start = stage.marks[1 if len(stage.marks) > 2 else 0]
    is_short = len(stage.marks) < 3 and latest.time - start.time < INTERVAL
    if latest.done <= start.done or is_short:
        return None
    each = (latest.time - start.time) / (latest.done - start.done)
    left = each * (stage.total - latest.done) - (now - latest.time)
    return left if left > 0 else None


def describe_stage(stage: Stage, now: float) -> str:
    """Where the stage is, in a line."""
    counts = f" {stage.marks[-1].done}/{stage.total}" if stage.total > 1 else ""
    words = [f"{stage.name}{counts}", *filter(None, [stage.detail])]
    if stage.found >= stage.total:
        words.append("done before")
    elif stage.is_done:
        words.append(f"done in {duration(now - stage.began)}")
    elif (left := seconds_left(stage, now)) is not None:
        words.append(f"{duration(left)} left")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Seconds in words, such as ``63 s``, ``12 min 5 s``, ``4 h 10 min`` or ``3 d 19 h``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as ``1 seed`` or ``4 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def leave_closed_pipe() -> NoReturn:
    """Ends the process as the signal SIGPIPE does: the reader has gone, as in ``... | head``.

    At once and without a word: threads that compile or save would hold up a normal exit, and what
    is on disk is whole at any moment.
    """
    os._exit(141)


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        leave_closed_pipe()


def make_console(stream: IO[str]) -> rich.console.Console:
    """Prints lines and tables; off a terminal at full width, without colours.

    Of several processes only the first one prints. Asking which one this is starts the devices.
    """
    # Not as Rich decides: some batch systems set FORCE_COLOR, and then write to a file.
    live = stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    return _Console(
        file=stream,
        width=None if live else _FILE_WIDTH,
        force_terminal=live,
        quiet=not is_first(),
        markup=False,
        emoji=False,
    )


@contextlib.contextmanager
def show_progress(
    console: rich.console.Console,
    *,
    interval: float = INTERVAL,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Gives a function that reports progress: to bars on a terminal, to lines elsewhere.

    Args:
        console: As from ``make_console``.
        interval: Seconds without a line at most; more than a third of it passes between two lines
            of one stage.
        clock: Gives seconds.
    """
    if console.is_terminal:
        with _bars(console) as bars:
            yield _report_to_bars(bars)
        return
    lines = _Lines(console, interval, clock)
    stop = threading.Event()
    thread = threading.Thread(target=lines.repeat_until, args=(stop,), daemon=True)
    thread.start()
    try:
        yield lines.report
    finally:
        stop.set()
        thread.join(1.0)


class _Lines:
    """Prints stages as lines; ``report`` and ``repeat_until`` run in two threads."""

    def __init__(self, console: rich.console.Console, interval: float, clock):
        self._console, self._interval, self._clock = console, interval, clock
        self._lock = threading.Lock()
        self._start = self._printed = clock()
        self._stage: Stage | None = None
        self._news = False

    def report(self, what: str, done: int, total: int) -> None:
        with self._lock:
            now, before = self._clock(), self._stage
            if before is None or before.name != what.partition(": ")[0]:
                self._stage = begin_stage(what, done, total, now)
                self._print(describe_stage(self._stage, now))
                return
            self._stage = advance_stage(before, what, done, total, now)
            self._news = True
            ends = self._stage.is_done and not before.is_done
            left = [seconds_left(stage, now) for stage in (before, self._stage)]
            timed = left[0] is None and (left[1] or 0.0) > self._interval
            if ends or timed or now - self._printed > self._interval / 3:
                self._print(describe_stage(self._stage, now))

    def repeat_until(self, stop: threading.Event) -> None:
        while not stop.wait(max(0.0, self._printed + self._interval - self._clock())):
            with self._lock:
                now = self._clock()
                if now - self._printed >= self._interval and not stop.is_set():
                    self._print(self._still(now))

    def _still(self, now: float) -> str:
        if self._stage is None:
            return "getting ready, still running"
        if self._stage.is_done:
            return f"after {self._stage.name}, still running"
        return describe_stage(self._stage, now) + ("" if self._news else ", still running")

    def _print(self, text: str) -> None:
        self._printed, self._news = self._clock(), False
        try:
            self._console.print(f"[{self._printed - self._start:3.0f} s] {text}")
        except BrokenPipeError:  # Older versions of Rich let it pass.
            leave_closed_pipe()


def _bars(console: rich.console.Console) -> rich.progress.Progress:
    """Bars with counts, time so far and time left."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("elapsed"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


def _report_to_bars(bars: rich.progress.Progress) -> Progress:
    """One bar per stage."""
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        stage = what.partition(": ")[0]
        if stage not in tasks:
            tasks[stage] = bars.add_task(what, total=total)
        bars.update(tasks[stage], description=what, completed=done, total=total)

    return report

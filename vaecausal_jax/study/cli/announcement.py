"""What ``vaecausal study`` says before it starts: what it does, where, and for how long.

How long depends on the machine, so it is measured. Where the training is long, a few of its steps
are timed before it starts; elsewhere its own first pieces are.
"""

import dataclasses
import time
from collections.abc import Callable

import jax

from vaecausal_jax.data import num_images
from vaecausal_jax.study.cli.progress import INTERVAL, Progress, counted, duration
from vaecausal_jax.study.config import Family, family_title, train_config
from vaecausal_jax.study.run import Plan
from vaecausal_jax.training.seeds import fastest_over_seeds
from vaecausal_jax.training.trainer import make_trainer

LONG_TRAINING = 5_000_000
"""Images above which steps are timed before training starts: half an hour or more on a laptop."""

TRIAL_STEPS = 10

Say = Callable[[str], None]


def announce_study(
    plan: Plan, say: Say, report: Progress, *, clock: Callable[[], float] = time.monotonic
) -> Progress:
    """Says what the study will do and, if its training is long, times a trial of it.

    Args:
        plan: What is to be done.
        say: Prints a line.
        report: Shows progress.
        clock: Gives seconds.

    Returns:
        ``report``, which also says how long all training takes, once its own steps tell.
    """
    say(describe_study(plan))
    say(describe_found(plan))
    todo = {family_title(f): images_left(plan, f) for f in plan.config.families if plan.steps}
    todo = {title: images for title, images in todo.items() if images}
    if sum(todo.values()) > LONG_TRAINING:
        families = {family_title(family): family for family in plan.config.families}
        rates = {}
        for done, title in enumerate(todo):
            report(f"time {TRIAL_STEPS} training steps: {title}", done, len(todo))
            rates[title] = training_rate(plan, families[title], clock=clock)
        report(f"time {TRIAL_STEPS} training steps", len(todo), len(todo))
        say(describe_time(todo, rates))
    return _timed(report, say, plan, todo, clock)


_STUDIED = ("encoder/", "latent/", "decoder/")
"""What the names of the sites begin with whose units are patched."""


def describe_study(plan: Plan) -> str:
    """What is trained and measured, and where the results go."""
    config = plan.config
    titles = [family_title(family) for family in config.families]
    units = sorted(
        {
            sum(s.num_units for n, s in model.sites.items() if n.startswith(_STUDIED))
            for model in plan.architectures
        }
    )
    each = " or ".join(map(str, units))
    models = len(titles) * config.num_seeds
    if not config.trains:
        first = f"loads {counted(models, 'model')} ({', '.join(titles)})"
    else:
        first = (
            f"trains {counted(models, 'model')} ({', '.join(titles)}; "
            f"{counted(config.num_seeds, 'seed')} each) for {config.num_steps} steps of "
            f"{config.batch_size} images"
        )
    return (
        f"{config.name}: {first}, and intervenes on the {each} units of each. Results go to "
        f"{plan.folder}."
    )


def describe_found(plan: Plan) -> str:
    """What an earlier run has left, and that the next one goes on."""
    total = plan.config.num_steps
    if not plan.num_measured and not any(plan.steps.values()):
        return "It starts afresh; if it is interrupted, the same command goes on where it was."
    found = [f"{title} {steps}/{total} steps" for title, steps in plan.steps.items()]
    found.append(f"{plan.num_measured}/{plan.num_measurements} measurements")
    return f"It goes on with what is there: {', '.join(found)}."


def describe_time(images: dict[str, int], rates: dict[str, float]) -> str:
    """How long training takes by the rates of a trial."""
    seconds = {title: images[title] / rates[title] for title in images}
    each = [f"{t} {duration(s)} at {rates[t]:,.0f} images/s" for t, s in seconds.items()]
    return (
        f"Training takes about {duration(sum(seconds.values()))} on this machine "
        f"({', '.join(each)}), and the measurements follow. It can be interrupted at any time, and "
        "the same command goes on."
    )


def images_left(plan: Plan, family: Family) -> int:
    """Images that all seeds of a family have still to be trained on."""
    config = plan.config
    steps = config.num_steps - plan.steps[family_title(family)]
    return steps * config.batch_size * config.num_seeds


def training_rate(
    plan: Plan, family: Family, *, clock: Callable[[], float] = time.monotonic
) -> float:
    """Images per second that a family is trained on here, all its seeds together.

    Times a few steps of the same program, compiled; the models that they train are dropped. Of
    several processes all must call it together.
    """
    config, over_seeds = plan.config, fastest_over_seeds()
    model = next(m for m, families in plan.architectures.items() if family in families)
    training = train_config(config, family, num_images(plan.data), model)
    training = dataclasses.replace(training, num_steps=TRIAL_STEPS, record_every=TRIAL_STEPS)
    trainer = make_trainer(training)
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    states = jax.jit(over_seeds(lambda key, _: trainer.init(key)))(keys, plan.data)
    advance = jax.jit(over_seeds(lambda state, data: trainer.advance(state, data, 1)))
    states, _ = jax.block_until_ready(advance(states, plan.data))
    start = clock()
    jax.block_until_ready(advance(states, plan.data))
    return TRIAL_STEPS * config.batch_size * config.num_seeds / (clock() - start)


def _timed(
    report: Progress, say: Say, plan: Plan, todo: dict[str, int], clock: Callable[[], float]
) -> Progress:
    """``report`` that says how long training takes, by the second piece of its first family.

    The first piece waits for compilation.
    """
    marks: list[tuple[float, int]] = []
    stage = f"train {next(iter(todo), '')}"
    per_step = plan.config.batch_size * plan.config.num_seeds

    def timed(what: str, done: int, total: int) -> None:
        report(what, done, total)
        if what.partition(": ")[0] != stage or len(marks) == 3:
            return
        marks.append((clock(), done))
        if len(marks) == 3:
            (start, before), (end, after) = marks[1:]
            rate = (after - before) * per_step / (end - start)
            seconds = (sum(todo.values()) - (after - marks[0][1]) * per_step) / rate
            if seconds > INTERVAL:
                say(f"Training takes about {duration(seconds)} more, at {rate:,.0f} images/s.")

    return timed

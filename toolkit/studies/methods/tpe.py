"""The next combination of a study by TPE, from the results so far, with Optuna.

TPE, the tree-structured Parzen estimator, models where good and where other results lie, and proposes what is more
likely among the good ones. Source: J. Bergstra et al., Algorithms for hyper-parameter optimization, 2011. Optuna is
told every result of the study and asked for one combination; its journal is only a cache, which is written anew when
it does not hold exactly these results. Optuna is imported here alone, when a study asks for it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.settings.ablation import ValueGrid, draw_combinations

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)
MAX_ASKS = 20
"""Proposals that were tried before, after which an untried combination is drawn at random."""
Direction = Literal["minimize", "maximize"]
JOURNAL_NAME = "optuna.log"


@dataclass(frozen=True)
class TriedCombination:
    """A combination that has ended. value: the mean of its objective over the seeds, None when all of them failed."""

    settings: dict[str, Any]
    value: float | None


def propose_combination(
    axes: ValueGrid, tried: Sequence[TriedCombination], taken: Collection[str], *, lower: bool, name: str, folder: Path
) -> dict[str, Any] | None:
    """Return the combination to train next; None when every one is taken.

    taken: `repr` of combinations that can't be proposed, because they were tried or can't be trained. lower: a smaller
    value is better. name: of the study, from which the draws follow, so that a repeated call proposes the same. folder:
    where the journal is kept.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {path: _order_values(values) for path, values in axes.items()}
    direction: Direction = "minimize" if lower else "maximize"
    sampler = optuna.samplers.TPESampler(
        seed=_make_seed(name, len(taken)), n_startup_trials=0, multivariate=len(spaces) > 1
    )
    # asked in memory: a trial that was asked for and never trained would stay in the journal as a running one
    asked = optuna.create_study(sampler=sampler, direction=direction)
    asked.add_trials(_read_journal(folder / JOURNAL_NAME, spaces, tried, direction))
    distributions = {path: _make_distribution(values) for path, values in spaces.items()}
    for _ in range(MAX_ASKS):
        trial = asked.ask(distributions)
        proposed = {path: spaces[path][int(trial.params[path])] for path in axes}
        if repr(proposed) not in taken:
            return proposed
        asked.tell(trial, state=optuna.trial.TrialState.FAIL)
    fresh = (one for one in draw_combinations(axes, name) if repr(one) not in taken)
    return next(fresh, None)


def _make_seed(name: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name} {count}".encode()).digest()[:4], "big")


def _order_values(values: Sequence[Any]) -> list[Any]:
    """Return the values with numbers in ascending order, so that near ones are alike."""
    return sorted(values) if _are_numbers(values) else list(values)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _make_distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    """Return the places of the values: numbers have an order, other values have none."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    places = len(values)
    return IntDistribution(0, places - 1) if _are_numbers(values) else CategoricalDistribution(list(range(places)))


def _read_journal(
    path: Path, spaces: ValueGrid, tried: Sequence[TriedCombination], direction: Direction
) -> list[optuna.trial.FrozenTrial]:
    """Return these results as Optuna's trials, after the journal holds exactly them."""
    wanted = [_make_trial(spaces, one) for one in tried]
    try:
        if _extend_journal(path, direction, wanted):
            return wanted
    except Exception as error:  # noqa: BLE001 - a damaged journal raises whatever its contents lead to
        logger.info("%s is written anew: %s", path, error)
    path.unlink(missing_ok=True)
    _extend_journal(path, direction, wanted)
    return wanted


def _extend_journal(path: Path, direction: Direction, wanted: Sequence[optuna.trial.FrozenTrial]) -> bool:
    """Add the trials that the journal lacks; return False when it holds others."""
    journal = _open_journal(path, direction)
    known = [_make_key(one) for one in journal.get_trials(deepcopy=False)]
    is_current = journal.direction.name.lower() == direction and known == [
        _make_key(one) for one in wanted[: len(known)]
    ]
    if is_current:
        journal.add_trials(wanted[len(known) :])
    return is_current


def _open_journal(path: Path, direction: Direction) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(storage=storage, study_name="study", direction=direction, load_if_exists=True)


def _make_trial(spaces: ValueGrid, one: TriedCombination) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.FAIL if one.value is None else TrialState.COMPLETE,
        value=one.value,
        params={path: _find_place(values, one.settings[path]) for path, values in spaces.items()},
        distributions={path: _make_distribution(values) for path, values in spaces.items()},
    )


def _find_place(values: Sequence[Any], value: Any) -> int:
    return [repr(one) for one in values].index(repr(value))


def _make_key(trial: optuna.trial.FrozenTrial) -> tuple[Any, ...]:
    return trial.state, trial.values, sorted(trial.params.items()), sorted(trial.distributions)

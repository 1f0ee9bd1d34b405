"""Early stopping: train in rounds, and keep the round that held-out rows like best."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stopped[State]:
    """Outcome of training in rounds.

    Attributes
    ----------
    best : State
        What the best round returned.
    best_round : int
        From 0.
    scores : list of float
        Held-out score after every round.
    """

    best: State
    best_round: int
    scores: list[float]


def in_rounds[State](
    train: Callable[[State, int], State],
    score: Callable[[State], float],
    start: State,
    *,
    patience: int = 2,
    max_rounds: int = 50,
) -> Stopped[State]:
    """Go on training until the held-out score has not risen for `patience` rounds.

    Parameters
    ----------
    train : callable
        ``train(state, r)`` trains a copy of the state for round r and returns it.
    score : callable
        ``score(state)``: the bound of rows that training does not see. Larger is better.
    start : State
        Its own score is not asked for.
    patience : int, default 2
    max_rounds : int, default 50

    Raises
    ------
    ValueError
        If `patience` or `max_rounds` is below 1.

    Notes
    -----
    The best of several noisy scores is optimistic: judge the model on rows of a third kind.

    References
    ----------
    Prechelt (1998), *Early stopping: but when?*, doi:10.1007/3-540-49430-8_3.
    """
    for name, value in (("patience", patience), ("max_rounds", max_rounds)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    state = best = start
    scores: list[float] = []
    top = 0
    for r in range(max_rounds):
        state = train(state, r)
        scores.append(score(state))
        if r == 0 or scores[r] > scores[top]:
            best, top = state, r
        if r - top >= patience:
            break
    return Stopped(best, top, scores)

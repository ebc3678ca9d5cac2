"""Models of earlier stages."""

from __future__ import annotations

from minippo.runs.run import Run
from minippo.scoring import RewardScorer, Scorer, load_scorer
from minippo.weights import load_reward_model


def scorer_of(run: Run) -> Scorer:
    """What scores the run's texts: the function that `ppo.scorer` names, or the reward model behind the bridge.

    Raises ValueError where the function cannot be found.
    """
    if run.config.ppo.scorer:
        return load_scorer(run.config.ppo.scorer)
    return RewardScorer(load_reward_model(run.stage("rm")).to(run.device), run.tokenizers()[1])

"""RLHF with PPO from scratch. Public modules:

- `minippo.equations`: every formula of the method
- `minippo.model.GPT`, `minippo.heads.ActorCritic`, `minippo.heads.RewardModel`: the models
- `minippo.weights.load_pretrained`, `save_pretrained`: public weight files
- `minippo.tokenizer.load_tokenizer`: text <-> token ids; `minippo.sampling.generate`: token ids -> more token ids
- `minippo.optim.CPUAdamW`: the optimizer
- `minippo.sft`, `train_rm.py`, `train_ppo.py`: the three stages

`python -m minippo --help` lists the commands.
"""

import os

# OpenMP threads that wait for work should sleep. By default they spin, and on a busy machine a spinning thread occupies
# the core that the others are waiting for. OpenMP reads this when PyTorch is loaded, so scripts import minippo first.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

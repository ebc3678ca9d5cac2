"""RLHF with PPO from scratch. The public surface, by module:

- `minippo.equations`: every formula of the method
- `minippo.model.GPT`, `minippo.heads.ActorCritic`, `minippo.heads.RewardModel`: the models
- `minippo.weights.load_pretrained`, `save_pretrained`: public weight files; `minippo.export`: a run as others load it
- `minippo.tokenizer.load_tokenizer`: text <-> ids; `minippo.sampling.generate`: ids -> more ids
- `minippo.optim.CPUAdamW`: the optimizer
- `minippo.sft`, `train_rm.py`, `train_ppo.py`: the three stages; `minippo.evaluate`: what a run has achieved
"""

import os

# OpenMP threads that wait for work sleep instead of spinning: on a busy machine a spinning thread holds the core that
# the others wait for. The library reads this when PyTorch is loaded, so scripts import minippo first.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

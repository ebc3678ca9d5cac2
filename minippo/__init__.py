"""RLHF with PPO from scratch. The public surface, by module:

- `minippo.equations`: every formula of the method
- `minippo.model.GPT`, `minippo.heads.ActorCritic`, `minippo.heads.RewardModel`: the models
- `minippo.weights.load_pretrained`, `save_pretrained`: public weight files; `minippo.export`: a run as others load it
- `minippo.tokenizer.load_tokenizer`: text <-> ids; `minippo.sampling.generate`: ids -> more ids
- `minippo.optim.CPUAdamW`: the optimizer
- `minippo.sft`, `train_rm.py`, `train_ppo.py`: the three stages; `minippo.evaluate`: what a run has achieved
"""

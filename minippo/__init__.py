"""RLHF with PPO from scratch. Public modules:

- `minippo.equations`: every formula of the method
- `minippo.model.GPT`, `minippo.heads.ActorCritic`, `minippo.heads.RewardModel`: the models
- `minippo.weights.load_pretrained`, `save_pretrained`: public weight files
- `minippo.tokenizer.load_tokenizer`: text <-> token ids; `minippo.sampling.generate`: token ids -> more token ids
- `minippo.optim.CPUAdamW`: the optimizer
- `minippo.sft`, `train_rm.py`, `train_ppo.py`: the three stages

`python -m minippo --help` lists the commands.
"""

import contextlib
import ctypes
import os
import sys

# OpenMP threads that wait for work should spin for some microseconds, which is faster than waking them, and then sleep:
# on a busy machine a spinning thread occupies the core that the others are waiting for. By default they spin much
# longer. OpenMP reads this when PyTorch is loaded, so scripts import minippo first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "1500")

# glibc returns freed memory to the kernel, which clears every page before the next tensor gets it. That takes up to a
# fifth of a language-model step. So up to 256 MiB stay in the process. Tensors above 32 MiB, the largest threshold that
# glibc accepts, are returned all the same. -3 is M_MMAP_THRESHOLD, -1 M_TRIM_THRESHOLD, which the variables set, too.
# Other C libraries have no mallopt.
_variables = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
if not _variables and "glibc.malloc." not in os.environ.get("GLIBC_TUNABLES", ""):
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(-3, 32 * 2**20)
        ctypes.CDLL(None).mallopt(-1, 256 * 2**20)

# Ctrl-C while the modules of a command are loaded, which takes seconds, ends it without a traceback.
if os.path.basename(sys.argv[0]) in ("train_rm.py", "train_ppo.py", "__main__.py", "minippo", "-m"):
    _excepthook = sys.excepthook
    sys.excepthook = lambda kind, *rest: (
        print("\ninterrupted", file=sys.stderr) if kind is KeyboardInterrupt else _excepthook(kind, *rest)
    )

# Only `minippo` and `minippo.reviews` can be run with `python -m`. Other modules would define their functions and end
# without a word. While Python imports the package to find the module, sys.argv[0] is "-m".
if sys.argv[:1] == ["-m"]:
    _option = next(i for i, word in enumerate(sys.orig_argv) if word.startswith("-m"))
    _module = sys.orig_argv[_option].removeprefix("-m") or sys.orig_argv[_option + 1]
    if _module not in ("minippo", "minippo.reviews"):
        print(f"error: {_module} is not a command (python -m minippo --help lists the commands)", file=sys.stderr)
        raise SystemExit(2)
    # `python -m` searches the working directory before everything else. It may be a run directory from someone else,
    # and a file torch.py in it would be run. The package has been found; scorers are searched there, but at the end.
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):  # from Python 3.11 on
        del sys.path[0]

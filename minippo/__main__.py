"""The commands: `python -m minippo COMMAND`, or `minippo COMMAND` after installation."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from pathlib import Path

from minippo.errors import quoted
from minippo.exits import command_frame, stop

# Name -> module, whose `main` reads the options from sys.argv, and description. A module is imported only to run its
# command, so that `--help` does not wait for PyTorch.
COMMANDS = {
    "sft": ("minippo.sft", "stage 1: train the reference policy on demonstrations"),
    "evaluate": ("minippo.tools.evaluate", "evaluate policy and reward model on held-out data, with intervals"),
    "generate": ("minippo.tools.generate", "print responses of a trained policy to your prompts"),
    "score": ("minippo.tools.score", "score texts with the reward model of a run"),
    "compare": ("minippo.tools.compare", "print the settings and results of several runs as a table"),
    "frontier": ("minippo.tools.frontier", "compare PPO, GRPO, RLOO and best-of-n at equal KL"),
    "curves": ("minippo.tools.curves", "plot the learning curves of one or more runs"),
    "export": ("minippo.tools.export", "convert the models of a run for the transformers library"),
    "trace": ("minippo.tools.trace", "print the tensors of one PPO iteration, step by step"),
}


def usage(program: str) -> str:
    """The text of --help."""
    commands = "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())
    return (
        f"usage: {program} COMMAND [options]\n\n{commands}\n\n"
        f"{program} COMMAND --help lists the options of a command.\n"
        "Stages 2 and 3 are scripts: python train_rm.py, then python train_ppo.py."
    )


@command_frame()
def main() -> None:
    """Run the command that the first argument names."""
    program = "python -m minippo" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage(program))
    elif name in COMMANDS:
        sys.argv = [f"{program} {name}", *arguments]
        import_module(COMMANDS[name][0]).main()
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        stop(ValueError(f"unknown command {quoted(name)}{hint} ({program} --help lists all)"), 2)


if __name__ == "__main__":
    main()

"""Runs: their folders, options, checkpoints, metrics and results, and what the three stages share.

A run is a folder, `runs/NAME/`, that holds the three stages and everything they report; docs/log.md lists its files.
"""

from minippo.exits import command_frame, wrong_input_exits
from minippo.runs.arguments import Argument, command_line, options_text, override
from minippo.runs.checkpoint import Checkpoints, due, restore, resumed_line
from minippo.runs.loading import (
    load_environment,
    load_frozen_policy,
    load_policy,
    load_reference,
    load_reward_scorer,
    load_run_scorer,
    sampling_params,
)
from minippo.runs.metrics import Metrics, read_metrics
from minippo.runs.opening import load_run, open_run, same_files
from minippo.runs.options import Options, parse_options
from minippo.runs.phases import Phase, Planner
from minippo.runs.presets import differences, load_config
from minippo.runs.results import (
    MORE_TITLES,
    TITLES,
    few,
    language_model_line,
    read_answers,
    reward_model_line,
    run_report,
    side_by_side,
    stored_answers,
    table,
    unread_ends,
    write_answers,
)
from minippo.runs.run import Run
from minippo.runs.scorers import load_named_scorer
from minippo.runs.stage import run_stage
from minippo.runs.validation import check, check_context

__all__ = [
    "MORE_TITLES",
    "TITLES",
    "Argument",
    "Checkpoints",
    "Metrics",
    "Options",
    "Phase",
    "Planner",
    "Run",
    "check",
    "check_context",
    "command_frame",
    "command_line",
    "differences",
    "due",
    "few",
    "language_model_line",
    "load_config",
    "load_environment",
    "load_frozen_policy",
    "load_named_scorer",
    "load_policy",
    "load_reference",
    "load_reward_scorer",
    "load_run",
    "load_run_scorer",
    "open_run",
    "options_text",
    "override",
    "parse_options",
    "read_answers",
    "read_metrics",
    "restore",
    "resumed_line",
    "reward_model_line",
    "run_report",
    "run_stage",
    "same_files",
    "sampling_params",
    "side_by_side",
    "stored_answers",
    "table",
    "unread_ends",
    "write_answers",
    "wrong_input_exits",
]

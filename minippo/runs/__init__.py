"""runs."""

from minippo.runs.checkpoint import check_data, checkpoints, restore, save
from minippo.runs.loading import scorer_of
from minippo.runs.metrics import Metrics, read_metrics
from minippo.runs.options import (
    Options,
    broken_run_exits,
    command_line,
    output_of_any_text,
    parse_options,
    wrong_input_exits,
)
from minippo.runs.presets import load_config
from minippo.runs.results import answered, report, side_by_side, table
from minippo.runs.run import Run, load_run, open_run, peak_memory_mb
from minippo.runs.stage import print_report
from minippo.runs.validation import MAX_SEED, check_context

__all__ = [
    "MAX_SEED",
    "Metrics",
    "Options",
    "Run",
    "answered",
    "broken_run_exits",
    "check_context",
    "check_data",
    "checkpoints",
    "command_line",
    "load_config",
    "load_run",
    "open_run",
    "output_of_any_text",
    "parse_options",
    "peak_memory_mb",
    "print_report",
    "read_metrics",
    "report",
    "restore",
    "save",
    "scorer_of",
    "side_by_side",
    "table",
    "wrong_input_exits",
]

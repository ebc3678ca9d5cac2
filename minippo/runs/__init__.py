"""runs."""

from minippo.runs.checkpoint import check_data, checkpoints, restore, save
from minippo.runs.command_line import Argument, command_line
from minippo.runs.exits import broken_run_exits, output_of_any_text, wrong_input_exits
from minippo.runs.loading import scorer_of
from minippo.runs.metrics import Metrics, read_metrics
from minippo.runs.options import Options, parse_options
from minippo.runs.presets import differences, load_config
from minippo.runs.results import answered, report, side_by_side, table
from minippo.runs.run import Run, load_run, open_run, peak_memory_mb
from minippo.runs.stage import print_report
from minippo.runs.validation import check_context

__all__ = [
    "Argument",
    "Metrics",
    "Options",
    "Run",
    "answered",
    "broken_run_exits",
    "check_context",
    "check_data",
    "checkpoints",
    "command_line",
    "differences",
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

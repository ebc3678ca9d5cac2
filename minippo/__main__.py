import sys
from importlib import import_module

c = sys.argv.pop(1)
import_module({"sft": "minippo.sft"}.get(c, f"minippo.tools.{c}")).main()

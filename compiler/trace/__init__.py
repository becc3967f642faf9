"""Trace one real training step on fake tensors: the referee of the closed forms in `compiler.memory`.

Importing this package imports torch; import it inside the function that needs it.
"""

from compiler.stacks import AXOLOTL, STACKS, Stack
from compiler.trace.step import Trace, trace_step

__all__ = ["AXOLOTL", "STACKS", "Stack", "Trace", "trace_step"]

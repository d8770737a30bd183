"""Records a model's data flow by running it on example inputs: surgery and doctor share it."""

from xhat.dataflow._words import module_name
from xhat.dataflow.flow import Flow, Mode, Recording
from xhat.dataflow.parts import Access, Call, Op, Source, Use
from xhat.dataflow.record import record

__all__ = ["Access", "Call", "Flow", "Mode", "Op", "Recording", "Source", "Use", "module_name", "record"]

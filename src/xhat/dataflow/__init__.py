"""Records a model's data flow by running it on example inputs: surgery and doctor share it."""

from xhat.dataflow.flow import Access, Call, Flow, Mode, Op, Recording, Source, Use
from xhat.dataflow.record import record

__all__ = ["Access", "Call", "Flow", "Mode", "Op", "Recording", "Source", "Use", "record"]

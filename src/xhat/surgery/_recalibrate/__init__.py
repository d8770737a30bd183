"""The parts of ``recalibrate_``: plan, passes, what layers see, ranks, what is written."""

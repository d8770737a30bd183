"""When a batch has too few values."""

# Independent values a channel: with fewer the batch's mean is off by more than a quarter of σ.
FEW = 16


def is_few(values: float) -> bool:
    """Whether a batch of so many independent values a channel is small.

    What a batch is worth is a quotient of sums, so that 16 samples may come out as 15.999999999.
    """
    return values < FEW - 1e-9

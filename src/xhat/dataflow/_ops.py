"""What torch's operations do with the values that they are given: read, move, or none of both."""

from typing import Any

# Each value of the result is a value of the first argument: a map that is applied channel by channel commutes.
MOVING = frozenset(
    {
        "alias_copy",
        "channel_shuffle",
        "clone",
        "contiguous",
        "detach_copy",
        "expand_copy",
        "flip",
        "native_channel_shuffle",
        "permute_copy",
        "pixel_shuffle",
        "pixel_unshuffle",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "repeat",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "roll",
        "rot90",
        "select_copy",
        "slice_copy",
        "squeeze_copy",
        "t_copy",
        "transpose_copy",
        "unsqueeze_copy",
        "view_copy",
        "_reshape_copy",
        "_unsafe_view",
    }
)

# Take a tensor for its shape or type alone, or only overwrite it.
NOT_READING = frozenset(
    {
        "empty_like",
        "full_like",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "rand_like",
        "randint_like",
        "randn_like",
        "zeros_like",
        # in place
        "bernoulli_",
        "exponential_",
        "fill_",
        "normal_",
        "uniform_",
        "zero_",
    }
)

NOISE = frozenset(
    {
        "bernoulli",
        "bernoulli_",
        "exponential_",
        "normal",
        "normal_",
        "rand",
        "rand_like",
        "randint",
        "randn",
        "randn_like",
        "uniform_",
    }
)

# Drop values of the first argument by themselves.
NOISY = frozenset({"native_dropout", "dropout", "rrelu_with_noise", "alpha_dropout", "feature_dropout"})


def base_name(function: Any) -> str:
    """Return an operation's name without its namespace and overload: ``relu_`` of ``aten.relu_.default``."""
    packet = getattr(function, "_overloadpacket", None)
    return str(getattr(packet, "__name__", None) or getattr(function, "__name__", function))


def written_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the arguments that the operation writes to, by its schema."""
    schema = getattr(function, "_schema", None)
    if schema is None:
        return []
    written = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            if argument.name in kwargs:
                written.append(kwargs[argument.name])
            elif position < len(args):
                written.append(args[position])
    return written

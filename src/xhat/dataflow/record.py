"""Run a model on example inputs and note what reaches what."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from xhat.dataflow._ops import MOVING, NOT_READING, base_name, written_arguments
from xhat.dataflow.flow import Flow, Mode, Recording
from xhat.dataflow.parts import TENSOR, Access, Call, Moving, Op
from xhat.eager import eagerly
from xhat.errors import ModelError, XhatError
from xhat.norms import normalisers
from xhat.trees import cloned, tensors_in
from xhat.unchanged import unchanged


def record(
    model: nn.Module,
    *inputs: Any,
    kwargs: dict[str, Any] | None = None,
    call: Callable[[nn.Module], Any] | None = None,
    modes: Sequence[Mode] = ("eval", "train"),
) -> Recording:
    """Run the model once in each mode and return what reached what; the model is left as it was.

    Nothing is traced symbolically, so any control flow in Python works; what is recorded is what these inputs
    made the model do. Not seen are operations done in other threads, and values that leave torch as numpy arrays
    or lists.

    Args:
        model: Any module.
        inputs: Its example arguments; they are cloned.
        kwargs: Its example keyword arguments.
        call: In their place, ``call(model)`` runs the model.
        modes: Which modes to run.

    Raises:
        ModelError: the model raised in evaluation mode; what it raises in training mode alone (as BN does on
            a single value a channel) stands in ``failures``.
    """
    flows: dict[str, Flow] = {}
    failures: dict[str, str] = {}
    for mode in modes:
        with unchanged(model):
            model.train(mode == "train")
            try:
                flows[mode] = _Recorder(model, mode).run(_caller(inputs, kwargs, call))
            except Exception as error:
                words = str(error) if isinstance(error, XhatError) else f"{type(error).__name__}: {error}"
                if mode == "eval" and isinstance(error, XhatError):
                    raise  # says what was run, and with what
                if mode == "eval":
                    raise ModelError(
                        f"{type(model).__name__} raised {words} on the example inputs in evaluation mode. Pass "
                        "inputs that the model can be called with."
                    ) from error
                failures[mode] = words
    return Recording(flows.get("eval"), flows.get("train"), failures)


def _caller(
    inputs: tuple[Any, ...], kwargs: dict[str, Any] | None, call: Callable[[nn.Module], Any] | None
) -> Callable[[nn.Module], Any]:
    if call is not None:
        return call
    args, named = cloned((inputs, kwargs or {}))  # a model may write into its inputs
    return lambda model: model(*args, **named)


class _Memory:
    """One piece of memory, known by a weak reference: an address alone is used again when a tensor dies."""

    def __init__(self, reference: StorageWeakRef | None, value: int) -> None:
        self.reference = reference
        self.value = value  # its present content


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, mode: Mode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._mode = model, mode
        self._memories: dict[int, _Memory] = {}
        self._held: list[Tensor] = []  # tensors without memory of their own are known by identity
        self._values = 0
        self._ops: list[Op] = []
        self._calls: dict[str, list[Call]] = {}
        self._stack: list[Call] = []
        self._parameters: dict[int, list[str]] = {}  # by value; one that is overwritten is another value

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled while recording, and to say so to the compiler would import it: seconds."""
        return False

    def run(self, call: Callable[[nn.Module], Any]) -> Flow:
        """Run the model and return its flow."""
        for name, tensor in [
            *self._model.named_parameters(remove_duplicate=False),
            *self._model.named_buffers(remove_duplicate=False),
        ]:
            self._parameters.setdefault(self._access(tensor).value, []).append(name)
        with eagerly(), self._hooks(), self:
            result = call(self._model)
        output = tuple(self._access(tensor) for tensor in tensors_in(result))
        root = self._calls.get("", [])
        inputs = frozenset(access.value for run in root for access in run.inputs)
        return Flow(
            mode=self._mode,
            calls={name: tuple(calls) for name, calls in self._calls.items()},
            ops=tuple(self._ops),
            output=output,
            inputs=inputs,
            parameters={value: tuple(names) for value, names in self._parameters.items()},
            kept=self._kept({access.value for access in output} | inputs | set(self._parameters)),
            norms=frozenset(normalisers(self._model)),
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        reads = tuple(self._access(tensor) for tensor in given)
        before = {access.value for access in reads}
        result = func(*args, **kwargs)
        name = base_name(func)
        results = tensors_in(result)
        written = tensors_in(written_arguments(func, args, kwargs))
        if not written and all(self._access(tensor).value in before for tensor in results) and results:
            return result  # a view: the same values
        overwritten = frozenset(self._access(tensor).value for tensor in written)
        seen: set[int] = set()
        made: list[Access] = []
        for tensor in written:
            key = self._key(tensor)
            if key not in seen:  # the content is another one from here on
                seen.add(key)
                new, old = self._new_value(), self._memories[key].value
                self._memories[key].value = new
                if old in self._parameters:
                    self._parameters[new] = self._parameters[old]
                made.append(self._access(tensor))
        made += [self._access(tensor) for tensor in results if self._key(tensor) not in seen]
        if name in NOT_READING:
            reads = ()
        if not self._stack:
            return result
        op = Op(len(self._ops), name, self._stack[-1], reads, tuple(made), overwritten)
        if _moves(name, func, given, results, written):
            spots = tuple(TENSOR if arg is given[0] else arg for arg in args)
            named = {key: value for key, value in kwargs.items() if not isinstance(value, torch.dtype)}
            op.moving = Moving(func, spots, named)
        elif "norm" in name or "conv" in name:
            op.arguments = tuple(None if isinstance(arg, Tensor) else arg for arg in args)
        self._ops.append(op)
        return result

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        handles = []
        scripted = [m for m in self._model.modules() if isinstance(m, torch.jit.ScriptModule)]
        hidden = {id(inner) for outer in scripted for inner in outer.modules()}
        for name, module in self._model.named_modules():
            if id(module) in hidden:
                continue  # its operations are seen as its caller's
            handles.append(
                module.register_forward_pre_hook(self._entering(name), prepend=True, with_kwargs=True)
            )
            handles.append(module.register_forward_hook(self._leaving(), with_kwargs=True, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls = self._calls.setdefault(name, [])
            parent = self._stack[-1] if self._stack else None
            inputs = tuple(self._access(tensor) for tensor in tensors_in((args, kwargs)))
            call = Call(name, len(calls), parent, module.training, len(self._ops), inputs=inputs)
            calls.append(call)
            if parent is not None:
                parent.children.append(call)
            self._stack.append(call)

        return enter

    def _leaving(self) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            call = self._stack.pop()
            call.end = len(self._ops)
            call.outputs = tuple(self._access(tensor) for tensor in tensors_in(result))

        return leave

    def _key(self, tensor: Tensor) -> int:
        try:
            storage = tensor.untyped_storage()
            return int(storage._cdata)
        except (NotImplementedError, RuntimeError):
            return -id(tensor)

    def _access(self, tensor: Tensor) -> Access:
        key = self._key(tensor)
        if key not in self._memories:
            if key < 0:
                self._held.append(tensor)
                reference = None
            else:
                reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
            self._memories[key] = _Memory(reference, self._new_value())
        strided = tensor.layout is torch.strided and key > 0
        stride = tuple(tensor.stride()) if strided else (0,) * tensor.dim()
        offset = int(tensor.storage_offset()) if strided else 0
        return Access(self._memories[key].value, tuple(tensor.shape), stride, offset, tensor.dtype)

    def _new_value(self) -> int:
        self._values += 1
        return self._values

    def _kept(self, known: set[int]) -> frozenset[int]:
        """Return the values whose memory something still holds."""

        def alive() -> set[int]:
            return {
                memory.value
                for memory in self._memories.values()
                if memory.reference is not None and not memory.reference.expired()  # type: ignore[no-untyped-call]
            }

        if alive() - known:
            gc.collect()
        return frozenset(alive() - known)


def _moves(name: str, func: Any, given: list[Tensor], results: list[Tensor], written: list[Tensor]) -> bool:
    """Whether an operation only moves the values of its one tensor."""
    if written or len(results) != 1 or len(given) != 1:
        return False
    if name == "_to_copy":
        return results[0].dtype == given[0].dtype
    return name in MOVING

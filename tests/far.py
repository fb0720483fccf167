"""A device that is not the CPU, on any machine: what a GPU would refuse is refused, and the CPU computes.

Tensors of the device `far` hold tensors of the CPU. As on a GPU, an operation on both kinds is an error, `numpy` is, and
`torch.autocast("far")` casts what `torch.autocast("cuda")` casts. To be imported in a process of its own: torch cannot
forget a device.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, library
from torch._C import DispatchKey, DispatchKeySet, _ExcludeDispatchKeyGuard
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

FAR = "far"
KEY = "AutocastPrivateUse1"
aten = torch.ops.aten


class _Module(_DummyBackendModule):
    """What `torch.far` has to be able to do."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass


_setup_privateuseone_for_python_backend(FAR, backend_module=_Module())
DEVICE = torch.device(FAR, 0)


class Far(Tensor):
    """A tensor that says it were elsewhere."""

    @staticmethod
    def __new__(cls, near: Tensor) -> Tensor:
        return Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=DEVICE,
        )

    def __init__(self, near: Tensor) -> None:
        self.near = near

    def __repr__(self, **_) -> str:
        return f"Far({self.near!r})"

    def __reduce_ex__(self, protocol: int) -> tuple:  # in a file it is no different
        return self.near.detach().clone().__reduce_ex__(protocol)

    def numpy(self, *_, **__) -> None:
        raise TypeError("can't convert a tensor of the device far to numpy: use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> object:
        return self.near.tolist()

    def as_subclass(self, cls: type) -> Tensor:  # torch makes no MetaTensor of this one
        return self

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable, types: object, args: Sequence = (), kwargs: dict | None = None
    ) -> object:
        return _run(func, args, kwargs or {})


# ---- operations ---------------------------------------------------------------------------------------------------------

INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""May take indices from the CPU."""
SLOW = ("convolution", "mm", "attention", "norm", "upsample", "grid_sampler", "pool", "silu", "gelu")
"""Parts of names of operations that a CPU without half precision is slow at: these are computed in full, and rounded."""


def _is_far(device: object) -> bool:
    return device is not None and torch.device(device).type == FAR


def _near(value: object) -> object:
    return value.near if isinstance(value, Far) else value


def _far(value: object) -> object:
    return Far(value) if isinstance(value, Tensor) and not isinstance(value, Far) else value


def _run(func: Callable, args: Sequence, kwargs: dict) -> object:
    """An operation on the CPU; its results are far if what it was given is, or if it was told so.

    Raises:
        RuntimeError: it was given tensors of both devices.
    """
    tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    far, near = ([one for one in tensors if isinstance(one, Far) is there] for there in (True, False))
    told, moves = kwargs.get("device"), func in (aten._to_copy.default, aten.copy_.default)
    index = func in INDEXED and isinstance(args[0], Far) and not any(one.is_floating_point() for one in near)
    if far and any(one.ndim for one in near) and not moves and not index:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found far and cpu")
    there = _is_far(told) if told is not None else isinstance(args[0], Far) if moves else bool(far)
    given = kwargs | ({"device": torch.device("cpu")} if _is_far(told) else {})
    out = _computed(func, *pytree.tree_map(_near, (tuple(args), given)))
    return return_and_correct_aliasing(func, args, kwargs, pytree.tree_map(_far, out)) if there else out


def _computed(func: Callable, args: tuple, kwargs: dict) -> object:
    kinds = {
        one.dtype for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.is_floating_point()
    }
    if kinds not in ({torch.float16}, {torch.bfloat16}) or not any(name in str(func) for name in SLOW):
        return func(*args, **kwargs)
    (half,) = kinds
    args, kwargs = pytree.tree_map(_to(torch.float32, half), (args, kwargs))
    return pytree.tree_map(_to(half, torch.float32), func(*args, **kwargs))


def _to(wanted: torch.dtype, *kinds: torch.dtype) -> Callable[[object], object]:
    return lambda one: one.to(wanted) if isinstance(one, Tensor) and one.dtype in kinds else one


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Callable, types: object, args: Sequence = (), kwargs: dict | None = None
    ) -> object:
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                made = func.decompose(*args, **(kwargs or {}))
            if made is not NotImplemented:
                return made
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does before any operation: it makes tensors of numbers and of lists of indices."""

    def __torch_function__(
        self, func: Callable, types: object, args: Sequence = (), kwargs: dict | None = None
    ) -> object:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            like, values = args
            return torch.tensor(values, dtype=kwargs.get("dtype") or like.dtype).to(kwargs.get("device") or like.device)
        if func in (torch.tensor, torch.as_tensor) and _is_far(kwargs.get("device")):
            return func(*args, **{name: v for name, v in kwargs.items() if name != "device"}).to(DEVICE)
        if func is Tensor.to and hasattr(args[0], "as_tensor") and any(map(_named_far, (*args[1:], *kwargs.values()))):
            args = (args[0].as_tensor(), *args[1:])  # a MetaTensor
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _listed(args[1]), *args[2:])
        return func(*args, **kwargs)


def _named_far(value: object) -> bool:
    return isinstance(value, str | torch.device) and _is_far(value)


def _listed(index: object) -> object:
    if isinstance(index, tuple):
        return tuple(map(_listed, index))
    return torch.tensor(index) if isinstance(index, list) and index else index


# ---- mixed precision: the lists of torch.autocast("cuda") ----------------------------------------------------------------

CAST = {
    name.removeprefix("aten::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
}
MATRICES = """_convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input convolution
    linear matmul mm bmm addmm addbmm baddbmm addmv addr chain_matmul mv einsum scaled_dot_product_attention prelu"""
"""In half precision."""
WIDEST = "addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add"
"""In the widest kind that is given; all others in full precision."""
AS_TOLD = "softmax.int log_softmax.int sum sum.dim_IntList cumprod cumsum prod prod.dim_int"
"""But these, if they are told a kind."""


def _autocast(name: str) -> Callable:
    base, _, overload = name.partition(".")
    operation = getattr(getattr(aten, base), overload or "default")

    def cast(*args, **kwargs) -> object:
        leaves = pytree.tree_leaves((args, kwargs))
        kinds = {one.dtype for one in leaves if isinstance(one, Tensor) and one.is_floating_point()} - {torch.float64}
        wanted = torch.get_autocast_dtype(FAR) if name in MATRICES.split() else torch.float32
        told = name in AS_TOLD.split() and any(isinstance(one, torch.dtype) for one in leaves)
        if not told and not (name in WIDEST.split() and torch.float32 not in kinds):
            args, kwargs = pytree.tree_map(_to(wanted, *kinds), (args, kwargs))
        with _ExcludeDispatchKeyGuard(DispatchKeySet(getattr(DispatchKey, KEY))):
            return operation(*args, **kwargs)

    return cast


def _refused(*_, **__) -> None:
    raise RuntimeError("binary_cross_entropy is unsafe to autocast: use binary_cross_entropy_with_logits")


_REST = library.Library("_", "IMPL", KEY)
_REST.fallback(library.fallthrough_kernel)
_LISTED = library.Library("aten", "IMPL", KEY)
for _name in CAST:
    _LISTED.impl(_name, _refused if _name == "binary_cross_entropy" else _autocast(_name))


# ---- to be used ----------------------------------------------------------------------------------------------------------


class _Nothing(contextlib.ContextDecorator):
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        pass


def _load(load: Callable) -> Callable:
    def far_load(file: object, map_location: object = None, **options) -> object:
        if not _named_far(map_location):
            return load(file, map_location, **options)
        loaded = load(file, "cpu", **options)
        return pytree.tree_map(lambda one: one.to(DEVICE) if isinstance(one, Tensor) else one, loaded)

    return far_load


def begin() -> None:
    """Before anything else is imported that decorates with `torch.inference_mode`, whose tensors cannot be wrapped."""
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else _Nothing()
    torch.load = _load(torch.load)


def at_home(function: Callable) -> Callable:
    """A function of the CPU alone, as quick as if there were no device far."""

    def nearby(*args, **kwargs) -> object:
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return nearby


@contextlib.contextmanager
def far_away() -> Iterator[None]:
    """Inside, there is the device `far`."""
    with _Operations(), _Functions():
        yield

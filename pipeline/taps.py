"""The outputs of modules inside a network, taken as it answers, for a teacher and a student alike.

Shape legend: N rows, X the shape of a row.
"""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from pipeline.errors import ConfigError


@contextmanager
def tapped(network: nn.Module, modules: Sequence[str]) -> Iterator[dict[str, object]]:
    """A table that has what each of these modules answered last, [N, X], in the order in which they ran.

    Of a module that answers with several tensors, as layers of transformers do, the first counts.
    """
    seen: dict[str, object] = {}

    def tap(name: str) -> object:
        def keep(_: nn.Module, __: object, answer: object) -> None:
            first = answer[0] if isinstance(answer, tuple | list) and answer else answer
            # A copy: what comes next may write into it, as ReLU(inplace=True) does.
            seen[name] = first.clone() if isinstance(first, Tensor) else first

        return network.get_submodule(name).register_forward_hook(keep)

    with ExitStack() as stack:
        for name in modules:
            stack.callback(tap(name).remove)  # type: ignore[attr-defined]
        yield seen


def tensor_of(seen: dict[str, object], module: str, rows: int) -> Tensor | str:
    """What a module answered to so many rows; if that is no tensor with a row for each, what it is, in words."""
    if module not in seen:
        return "it never ran"
    answer = seen[module]
    if not isinstance(answer, Tensor):
        return f"it answers with a {type(answer).__name__}"
    if answer.ndim < 2 or len(answer) != rows or not answer.is_floating_point():  # noqa: PLR2004 - [N, X]
        return f"it answers {list(answer.shape)} in {answer.dtype} to {rows} inputs"
    return answer


def refuse_unknown(key: str, network: nn.Module, module: str) -> None:
    """Raise ConfigError if a network has no module of that name."""
    known = [name for name, _ in network.named_modules() if name]
    if module not in known:
        near = difflib.get_close_matches(module, known, n=3) or known[:3]
        raise ConfigError(
            f"{key} = {module!r}: a {type(network).__name__} has no module of this name. The nearest: "
            f"{', '.join(near) or 'it has none at all'}. All are listed by `for name, _ in network.named_modules()`."
        )

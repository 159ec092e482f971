"""Options that are written once and passed on: shown by ``help()``, completion and YAML readers where they arrive."""

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, cast

from lightning_interp.errors import unknown

F = TypeVar("F", bound=Callable[..., Any])


def keyword_options(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword options of a function or class, or the fields of a dataclass, by name, with types and defaults."""
    parameters = inspect.signature(target).parameters.values()
    keyword, every = inspect.Parameter.KEYWORD_ONLY, is_dataclass(target)
    return {p.name: p.replace(kind=keyword) for p in parameters if every or p.kind is keyword}


def show_options(function: F, options: Mapping[str, inspect.Parameter]) -> F:
    """Let the signature of ``function`` show options in place of the ``**`` that hands them on."""
    own = inspect.signature(function)
    named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    passed = [p for name, p in options.items() if name not in own.parameters]
    function.__signature__ = own.replace(parameters=[*named, *passed])  # type: ignore[attr-defined]
    function.__annotations__ |= {p.name: p.annotation for p in passed}
    return function


def passes_on(
    *targets: Callable[..., Any], omit: Collection[str] = (), only: Collection[str] | None = None
) -> Callable[[F], F]:
    """Decorate what hands its ``**options`` on to ``targets``: all, or only some, but those that it omits.

    Example:
        >>> def probe(images, *, top_k: int = 9): ...
        >>> @passes_on(probe)
        ... def measure(images, *, rows: int = 10, **options): ...
        >>> str(inspect.signature(measure))
        '(images, *, rows: int = 10, top_k: int = 9)'
    """
    options = {name: p for target in targets for name, p in keyword_options(target).items() if name not in omit}
    chosen = options if only is None else {name: options[name] for name in only}

    def decorate(function: F) -> F:
        show_options(function, chosen)
        owner, known = function.__qualname__.removesuffix(".__init__"), inspect.signature(function).parameters

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            check_options(owner, kwargs, known)
            return function(*args, **kwargs)

        return cast(F, checked)

    return decorate


def check_options(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ``TypeError`` that names the likely spelling, unless all options that are given are known."""
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(f"{owner}: {unknown(name, known, 'option')}")


def take(options: dict[str, Any], target: Callable[..., Any]) -> dict[str, Any]:
    """Take those options out that are for ``target``."""
    return {name: options.pop(name) for name in keyword_options(target) if name in options}


def renamed(owner: str, old: str, new: str, given: Any, value: Any) -> Any:
    """What an option of a new name is to be, where its old name may still be used.

    Args:
        owner: Whose option it is.
        old: Its old name.
        new: Its new one.
        given: What was given by the old name, None for nothing; it is taken, with a warning.
        value: What was given by the new name.
    """
    if given is None:
        return value
    text = f"{owner}: the option {old!r} is called {new!r} now; the old name will go in version 0.3"
    warnings.warn(text, DeprecationWarning, stacklevel=4)
    return given

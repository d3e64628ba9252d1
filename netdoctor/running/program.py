"""Runs a program as ``python SCRIPT`` and ``python -m MODULE`` do, within this process.

The program gets a module ``__main__`` of its own, which stays in ``sys.modules`` after it has ended: what it pickles,
its ``atexit`` functions and the children that multiprocessing spawns look for it there.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType


class ProgramError(Exception):
    """There is no such program."""


def run_script(path: str, arguments: Sequence[str] = ()) -> None:
    """Run a file, or the ``__main__.py`` of a folder or zip file; whatever it raises comes out.

    Raises:
        ProgramError: It cannot be opened.
    """
    sys.argv = [path, *arguments]
    absolute = os.path.abspath(path)
    finder = pkgutil.get_importer(absolute)  # None for a plain file
    if finder is not None:
        _set_first_folder(absolute)
        spec = finder.find_spec("__main__")
        if spec is None:
            raise ProgramError(f"can't find '__main__' module in {path!r}")
        _execute(*_of_spec(spec))
        return
    try:
        with io.open_code(absolute) as file:
            source = file.read()
    except OSError as error:
        raise ProgramError(f"can't open file {absolute!r}: {error.strerror}") from error
    _set_first_folder(os.path.dirname(os.path.realpath(path)))
    main = ModuleType("__main__")
    main.__file__ = absolute
    main.__loader__ = SourceFileLoader("__main__", absolute)
    _execute(main, compile(source, absolute, "exec", dont_inherit=True))


def run_module(name: str, arguments: Sequence[str] = ()) -> None:
    """Run a module, or the ``__main__`` of a package; whatever it raises comes out.

    Raises:
        ProgramError: There is no such module, or it cannot be run.
    """
    sys.argv = ["-m", *arguments]
    _set_first_folder(os.getcwd())
    spec = _find(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _find(f"{name}.__main__")
        if spec is None:
            raise ProgramError(
                f"No module named {name}.__main__; {name!r} is a package and cannot be directly executed"
            )
    if spec is None:
        raise ProgramError(f"No module named {name}")
    main, code = _of_spec(spec)
    sys.argv[0] = spec.origin or name
    _execute(main, code)


def _set_first_folder(folder: str) -> None:
    """Put it where Python has put the folder of the command `netdoctor`."""
    if not getattr(sys.flags, "safe_path", False):  # since Python 3.11
        sys.path[0] = folder


def _find(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:  # of a package around it, unless one of these failed by itself
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None
    except ValueError:  # what `sys.modules` holds under this name has no spec
        return None


def _of_spec(spec: ModuleSpec) -> tuple[ModuleType, CodeType]:
    get_code = getattr(spec.loader, "get_code", None)
    code: CodeType | None = get_code(spec.name) if get_code else None
    if code is None:
        raise ProgramError(f"No code object available for {spec.name}")
    main = ModuleType("__main__")
    main.__spec__, main.__loader__, main.__file__, main.__package__ = spec, spec.loader, spec.origin, spec.parent
    return main, code


def _execute(main: ModuleType, code: CodeType) -> None:
    main.__dict__.setdefault("__cached__", getattr(main.__spec__, "cached", None))
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    exec(code, main.__dict__)

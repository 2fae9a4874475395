"""Things of one kind by name: those of the package, those of plugins, and the user's own."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeGuard, TypeVar

# another package adds to the registries from the module or function that it names here
PLUGINS = "st_concepts.plugins"


class Named(Protocol):
    """What a registry holds: anything with a name."""

    @property
    def name(self) -> str:
        """Name that users type."""


T = TypeVar("T", bound="Named | type[Named]")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things, filled when it is first asked.

    Parameters
    ----------
    what
        What the things are called in messages, such as ``"attribution method"``.
    kind
        Their class; what is registered is an object of it, or with ``classes`` a subclass.
    package
        Package whose modules register what they define as they are imported.
    first
        Names that are listed before the others, the default say; those follow by name.
    offer
        Words before the list of names in a message.
    order
        Gives the number of a thing by which all are listed before anything else, where the order means something.
    """

    def __init__(
        self,
        what: str,
        kind: type,
        package: str,
        *,
        first: tuple[str, ...] = (),
        order: Callable[[T], int] = lambda thing: 0,
        classes: bool = False,
        offer: str = "Available",
    ) -> None:
        self.what, self.kind, self._package, self._classes, self._first = what, kind, package, classes, first
        self._order, self._offer = order, offer
        self._held: dict[str, T] = {}
        self._complete = False

    def register(self, thing: T, *, replace: bool = False) -> T:
        """As `add`, for the modules of the package, which are imported to fill the registry."""
        if not self._fits(thing):
            kind = f"subclass of {self.kind.__name__}" if self._classes else self.kind.__name__
            raise TypeError(f"register takes a {kind}, not {thing!r}.")
        if not isinstance(thing.name, str) or not thing.name.isidentifier():
            raise ValueError(f"{thing!r} needs a name that is a word, such as 'my_own'; it has {thing.name!r}.")
        if not replace and self._held.get(thing.name, thing) is not thing:
            raise ValueError(
                f"The {self.what} {thing.name!r} is there already; choose another name, or pass replace=True."
            )
        self._held[thing.name] = thing
        return thing

    def add(self, thing: T, *, replace: bool = False) -> T:
        """Add a thing under its own name, from then on known wherever a name is taken.

        Parameters
        ----------
        thing
            What to add.
        replace
            Whether it may take the place of another of the same name, one of the package included.

        Returns
        -------
        The thing itself.

        Raises
        ------
        TypeError
            It is of another class.
        ValueError
            It has no name, or the name is taken.
        """
        self.fill()
        return self.register(thing, replace=replace)

    def find(self, name: str | T) -> T:
        """The thing called ``name``; a thing is returned as it is, registered or not."""
        if self._fits(name):
            return name
        if isinstance(name, str) and name in self:
            return self[name]
        close = difflib.get_close_matches(str(name).lower().replace("-", "_").replace(" ", "_"), self, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown {self.what} {name!r}.{hint} {self._offer}: {', '.join(self)}.")

    def _fits(self, thing: object) -> TypeGuard[T]:
        if self._classes:
            return isinstance(thing, type) and issubclass(thing, self.kind)
        return isinstance(thing, self.kind)

    def __getitem__(self, name: str) -> T:
        self.fill()
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        self.fill()
        return iter(sorted(self._held, key=lambda n: (self._order(self._held[n]), *(n != f for f in self._first), n)))

    def __len__(self) -> int:
        self.fill()
        return len(self._held)

    def fill(self) -> None:
        """Import what the package has and load plugins, once; looking anything up does it."""
        if self._complete:
            return
        self._complete = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        load_plugins()


_loaded: set[str] = set()


def load_plugins() -> None:
    """Load what other packages name in the entry point group `PLUGINS`: a module, or a function that is called."""
    for entry in entry_points(group=PLUGINS):
        if entry.value in _loaded:
            continue
        _loaded.add(entry.value)
        try:
            found = entry.load()
            if callable(found):
                found()
        except Exception as error:  # noqa: BLE001 (whatever a foreign package raises must not stop this one)
            warnings.warn(
                f"Plugin {entry.name!r} ({entry.value}) cannot be loaded and is left out: {error!r}.",
                UserWarning,
                stacklevel=2,
            )

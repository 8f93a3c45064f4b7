"""What can be chosen on the page, and the station that a choice stands for.

A client never names a file: it names an entry of a list that is made here.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, EdgeError, UsageError
from ..inspection import Station, prepare_station
from ..judge import Scale
from ..recipe import Recipe, StandardUse, load_recipe, recipe_of_standard
from ..references import default_cache_folder, references_sha256
from ..resources import data_folder, engine_folder
from ..segment.bundle import Bundle, load
from ..segment.protocol import Engine
from ..segment.registry import open_engine
from ..settings import Settings
from ..standards import Standard, find_standard, list_standards, load_standard
from .options import StationOptions

__all__ = ["Choice", "Choices", "TableChoice"]

_MOST_STATIONS = 4
_MOST_ENGINES = 2


@dataclass(frozen=True, slots=True)
class TableChoice:
    """What a standard is asked. thickness_mm: of the part. None: not said."""

    standard: str
    metal: str
    thickness_mm: float
    grade: str | None = None
    process: str | None = None
    form: str | None = None
    energy: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """By what a picture is judged: a recipe by its name in the list, a table, or neither (it is only measured).

    engine: "" for the recipe's own, or the only one. mm_per_px, u_mm_per_px: None for the recipe's own scale.
    """

    engine: str = ""
    recipe: str = ""
    table: TableChoice | None = None
    mm_per_px: float | None = None
    u_mm_per_px: float | None = None

    @staticmethod
    def of(document: object) -> Choice | None:
        """The choice that a record of the page keeps under ``chosen``; None where it keeps none that can be read."""
        if not isinstance(document, dict):
            return None
        try:
            table = document.get("table")
            return Choice(**{**document, "table": None if table is None else TableChoice(**table)})
        except TypeError:
            return None

    @property
    def scale(self) -> Scale | None:
        """The scale that was typed in."""
        if self.mm_per_px is None:
            return None
        return Scale(self.mm_per_px, self.mm_per_px, self.u_mm_per_px or 0.0)


class Choices:
    """The lists, and the stations that were prepared last. ``station`` is called by one thread, the lists by any."""

    def __init__(self, options: StationOptions) -> None:
        self._options = options
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._stations: OrderedDict[tuple[object, ...], Station] = OrderedDict()
        self._types: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every engine."""
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()
            self._stations.clear()

    # ---------------------------------------------------------------- the lists

    def engines(self) -> dict[str, Path]:
        """Bundles by name."""
        if self._options.engines:
            folders = [engine_folder(one) for one in self._options.engines]
        else:
            folders = sorted(path.parent for path in data_folder("engines").glob("*/manifest.json"))
        return {folder.name: folder for folder in folders}

    def types_of(self, engine_sha256: str) -> tuple[str, ...] | None:
        """What the values 1..K of an engine's labels mean; None where that very engine is not here (any more)."""
        if engine_sha256 not in self._types:
            for folder in self.engines().values():
                try:
                    bundle = load(folder)
                except EdgeError:
                    continue  # a broken bundle is shown on the page of the system
                self._types[bundle.sha256] = tuple(bundle.types)
        return self._types.get(engine_sha256)

    def recipes(self) -> dict[str, Path]:
        """Recipe files by the name inside; a second one of the same name gets a number. One that cannot be read keeps
        its place under the file's name: choosing it says what is wrong with it."""
        found: dict[str, Path] = {}
        for path in self._options.recipes:
            try:
                base = str(Settings.load(path).text("name"))
            except EdgeError:
                base = path.stem
            name, number = base, 2
            while name in found:
                name, number = f"{base} ({number})", number + 1
            found[name] = path
        return found

    def standards(self) -> dict[str, Standard]:
        """Standards that can be used, by id."""
        listed = list_standards(self._options.standards_base)
        return {one.standard.id: one.standard for one in listed if one.standard is not None}

    def broken_standards(self) -> dict[str, EdgeError]:
        """Folders that look like a standard and cannot be used, with the reason."""
        listed = list_standards(self._options.standards_base)
        return {one.folder.name: one.error for one in listed if one.error is not None}

    # ---------------------------------------------------------------- the station

    def station(self, choice: Choice) -> Station:
        """Bind the choice to its engine; measured references are taken from the cache. Raises EdgeError."""
        bundle = load(self._engine_folder(choice), trust=self._options.trust)
        recipe = self._recipe(choice, bundle)
        key = (bundle.sha256, _seals(recipe), choice)
        with self._lock:
            station = self._stations.get(key)
            if station is not None:
                self._stations.move_to_end(key)
                return station
        station = prepare_station(self._engine(bundle), recipe, scale=choice.scale, cache=default_cache_folder())
        with self._lock:
            self._stations[key] = station
            while len(self._stations) > _MOST_STATIONS:
                self._stations.popitem(last=False)
        return station

    def check(self, choice: Choice) -> None:
        """Whether it is clear which engine looks, before a picture waits for it. Raises EdgeError."""
        if not choice.recipe:
            self._engine_folder(choice)

    def _engine_folder(self, choice: Choice) -> Path:
        engines = self.engines()
        if choice.engine:
            return _entry(engines, choice.engine, "engine")
        if choice.recipe:
            recipe = load_recipe(_entry(self.recipes(), choice.recipe, "recipe"), self._options.trust)
            return engine_folder(recipe.engine, recipe.engine_base)
        if len(engines) != 1:
            raise UsageError("no engine was chosen", hint="choose one of: " + ", ".join(engines))
        return next(iter(engines.values()))

    def _recipe(self, choice: Choice, bundle: Bundle) -> Recipe | None:
        if choice.recipe:
            return load_recipe(_entry(self.recipes(), choice.recipe, "recipe"), self._options.trust)
        if choice.table is None:
            return None
        if choice.scale is None:
            raise UsageError("the scale is missing", hint="there is no default scale: no scale, no verdict")
        asked = choice.table
        known = self.standards()
        if asked.standard not in known:
            raise UsageError(f"there is no standard {asked.standard!r}", hint="one of: " + ", ".join(known))
        folder = find_standard(asked.standard, self._options.standards_base)
        standard = load_standard(folder, trust=self._options.trust)
        use = StandardUse(standard, asked.grade, process=asked.process, form=asked.form, energy=asked.energy)
        return recipe_of_standard(
            use, metal=asked.metal, thickness_mm=asked.thickness_mm, engine=str(bundle.folder),
            engine_types=bundle.types, scale=choice.scale, base=self._options.standards_base or Path.cwd(),
            trust=self._options.trust,
        )  # fmt: skip

    def _engine(self, bundle: Bundle) -> Engine:
        with self._lock:
            engine = self._engines.get(bundle.sha256)
            if engine is not None:
                self._engines.move_to_end(bundle.sha256)
                return engine
        cache = None if self._options.backend == "onnxruntime" else self._options.data / "engine-cache"
        if cache is not None:
            os.makedirs(cache, exist_ok=True)
        engine = open_engine(bundle, self._options.backend, threads=self._options.threads, cache_dir=cache,
                             trust=self._options.trust)  # fmt: skip
        with self._lock:
            self._engines[bundle.sha256] = engine
            while len(self._engines) > _MOST_ENGINES:
                gone, oldest = self._engines.popitem(last=False)
                self._stations = OrderedDict(
                    (key, one) for key, one in self._stations.items() if one.seals.engine != gone
                )
                oldest.close()
        return engine


def _seals(recipe: Recipe | None) -> tuple[str | None, ...]:
    """All that a recipe rests on: another table, plate or calibration makes another station."""
    if recipe is None:
        return ()
    sets = {f"{zone.name}/{name}": one for zone in recipe.zones for name, one in zone.references.items()}
    calibration = None if recipe.calibration is None else recipe.calibration.sha256
    return recipe.sha256, recipe.table_sha256, references_sha256(sets), calibration


def _entry(entries: Mapping[str, Path], name: str, what: str) -> Path:
    if name not in entries:
        raise ConfigError(f"there is no {what} {name!r} on this page", hint="one of: " + ", ".join(entries))
    return entries[name]

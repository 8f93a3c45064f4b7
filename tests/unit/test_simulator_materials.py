"""The simulator's field library: attenuation against published values, spectra against what tubes do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edge_daemon.simulator.materials as library
from edge_daemon.errors import MissingExtra, RuleError
from edge_daemon.simulator.materials import (
    BARE,
    COPPER_FILTERED,
    INHERENT,
    MATERIALS,
    METAL_MATERIAL,
    TUBE_KV,
    attenuation_per_mm,
    material,
    spectrum,
)

TABLE = Path(library.__file__).with_name("attenuation.json")

# NIST X-ray mass attenuation coefficients (NISTIR 5632), table 3: material, keV, cm2/g.
PUBLISHED = [
    ("aluminum", 10.0, 26.23), ("aluminum", 30.0, 1.128), ("aluminum", 60.0, 0.2778), ("aluminum", 100.0, 0.1704),
    ("aluminum", 400.0, 0.09276), ("magnesium", 60.0, 0.2570), ("magnesium", 100.0, 0.1686),
    ("titanium", 60.0, 0.7661), ("titanium", 100.0, 0.2721), ("iron", 30.0, 8.176), ("iron", 60.0, 1.205),
    ("iron", 100.0, 0.3717), ("iron", 200.0, 0.1460), ("iron", 400.0, 0.09400), ("copper", 60.0, 1.593),
    ("copper", 100.0, 0.4584), ("lead", 100.0, 5.549), ("lead", 60.0, 5.021), ("tungsten", 60.0, 3.713),
    ("tungsten", 100.0, 4.438), ("graphite", 60.0, 0.1753),
]  # fmt: skip


@pytest.mark.parametrize(("name", "energy_kev", "cm2_per_g"), PUBLISHED)
def test_attenuation_is_the_published_one(name: str, energy_kev: float, cm2_per_g: float) -> None:
    """Within half a per cent, which is what the two tabulations (Elam, XCOM) agree to."""
    per_mm = float(attenuation_per_mm(name, energy_kev))
    assert per_mm == pytest.approx(cm2_per_g * material(name).density_g_cm3 / 10.0, rel=0.005)


def test_a_mixture_is_the_sum_over_its_elements() -> None:
    energy = np.array([40.0, 80.0, 160.0])
    shares = material("brass").mass_pct
    assert shares == {"Cu": 63.0, "Zn": 37.0}
    # Zinc is copper's neighbour: at these energies brass differs from copper by its density and by 5 % at most.
    per_gram = attenuation_per_mm("brass", energy) / material("brass").density_g_cm3
    copper = attenuation_per_mm("copper", energy) / material("copper").density_g_cm3
    assert np.all(per_gram > copper) and np.all(per_gram < 1.05 * copper)
    # 3 % of copper in the alloy attenuate more than as much aluminium would.
    assert attenuation_per_mm("AlSi9Cu3", 60.0) > 1.1 * attenuation_per_mm("AlSi7Mg0.3", 60.0)
    for name in MATERIALS:
        assert sum(material(name).mass_pct.values()) == pytest.approx(100.0)


def test_absorption_edges_are_steps() -> None:
    for name, edge_kev, jump in (("tungsten", 69.525, 4.0), ("lead", 88.005, 3.5)):
        below, above = attenuation_per_mm(name, [edge_kev - 0.02, edge_kev + 0.002])
        assert above / below > jump
        around = attenuation_per_mm(name, np.linspace(edge_kev - 5.0, edge_kev - 0.02, 50))
        assert np.all(np.diff(around) < 0)
    for name in ("aluminum", "steel", "Ti6Al4V", "Al2O3"):
        assert np.all(np.diff(attenuation_per_mm(name, np.geomspace(10.0, 450.0, 500))) < 0)


def test_half_value_layer_halves_the_beam() -> None:
    """ln 2 / mu in one step, in two steps and in a stack of another order."""
    mu = float(attenuation_per_mm("aluminum", 60.0))
    assert np.log(2.0) / mu == pytest.approx(9.245, rel=0.005)
    # A polychromatic beam hardens: its second half-value layer is thicker than its first.
    energy, weight = spectrum(100.0)
    steel = attenuation_per_mm("steel", energy)
    depth = np.linspace(0.0, 6.0, 6001)
    left = np.exp(-np.outer(depth, steel)) @ (weight * energy) / (weight @ energy)
    first, quarter = np.interp([-0.5, -0.25], -left, depth)
    assert quarter - first > 1.3 * first


def test_spectra_are_shares_of_quanta_up_to_the_voltage() -> None:
    for tube_kv in (50.0, 72.5, 117.0, 225.0, 300.0, 400.0):
        energy, weight = spectrum(tube_kv)
        assert energy.dtype == weight.dtype == np.float64 and energy.shape == weight.shape
        assert weight.sum() == pytest.approx(1.0) and np.all(weight >= 0.0)
        assert energy[0] == 10.5 and tube_kv - 1.0 <= energy[-1] < tube_kv
        with pytest.raises(ValueError, match="read-only"):
            weight[0] = 1.0


def test_mean_energy_rises_with_voltage_and_filter() -> None:
    """Smoothly: a step of 5 kV, tabulated or not, never lowers it."""
    for filtration in (INHERENT, COPPER_FILTERED):
        means = [
            float(energy @ weight) for energy, weight in (spectrum(kv, filtration) for kv in np.arange(50, 401, 5.0))
        ]
        assert np.all(np.diff(means) > 0.05)
        assert np.all(np.diff(means) < 3.0)
    hard, soft, bare = (spectrum(100.0, each) for each in (COPPER_FILTERED, INHERENT, BARE))
    assert hard[0] @ hard[1] > soft[0] @ soft[1] + 10.0 > bare[0] @ bare[1] + 10.0


def test_characteristic_lines_appear_above_the_edge_and_stay_where_they_are() -> None:
    def line(tube_kv: float) -> float:
        energy, weight = spectrum(tube_kv)
        at = int(np.argmin(np.abs(energy - 59.5)))
        return float(weight[at] / weight[[at - 4, at + 4]].mean())

    assert line(65.0) < 1.3
    assert line(95.0) > 2.0
    assert 1.5 < line(137.0) / line(95.0) < 4.0


def test_between_tabulated_voltages_the_beam_is_between() -> None:
    """What passes a wall at 105 kV lies between 100 and 110, near their mean."""

    def passed(tube_kv: float) -> float:
        energy, weight = spectrum(tube_kv)
        return float((weight * energy) @ np.exp(-attenuation_per_mm("AlSi7Mg0.3", energy) * 20.0) / (weight @ energy))

    assert passed(105.0) == pytest.approx((passed(100.0) + passed(110.0)) / 2, rel=0.01)


def test_what_is_unknown_is_refused_with_a_hint() -> None:
    with pytest.raises(RuleError, match="unobtainium") as caught:
        attenuation_per_mm("unobtainium", 60.0)
    assert "AlSi7Mg0.3" in caught.value.hint
    for energy_kev in (9.0, 451.0, float("nan")):
        with pytest.raises(RuleError, match="10 to 450 keV"):
            attenuation_per_mm("aluminum", energy_kev)
    for tube_kv in (TUBE_KV[0] - 1.0, TUBE_KV[1] + 1.0, float("nan")):
        with pytest.raises(RuleError, match="tube spectrum"):
            spectrum(tube_kv)
    with pytest.raises(RuleError, match="cannot be"):
        spectrum(100.0, (("copper", -1.0),))
    with pytest.raises(RuleError, match="nothing"):
        spectrum(100.0, (("lead", 10_000.0),))
    with pytest.raises(RuleError, match="unobtainium"):
        spectrum(100.0, (("unobtainium", 1.0),))


def test_the_table_is_small_and_says_where_it_is_from() -> None:
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    assert TABLE.stat().st_size <= 200_000
    assert set(content["versions"]) == {"xraydb", "spekpy"}
    assert sorted(content["materials"]) == sorted(MATERIALS)
    assert set(METAL_MATERIAL.values()) <= set(MATERIALS)
    assert all(row["source"] for row in content["materials"].values())


def test_without_its_libraries_the_generator_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from edge_daemon.testing.make_attenuation import table

    monkeypatch.setitem(sys.modules, "xraydb", None)
    with pytest.raises(MissingExtra, match="simulator-check"):
        table()


@pytest.mark.needs("xraydb", "spekpy")
@pytest.mark.filterwarnings("default")  # the libraries' own
def test_the_table_is_what_its_generator_writes() -> None:
    """All of it but for the spectra, of which three are made anew."""
    from edge_daemon.testing.make_attenuation import table, written

    text = TABLE.read_text(encoding="utf-8")
    committed = json.loads(text)
    assert written(committed) == text
    again = table((70, 120, 300))
    made, kept = again.pop("tube"), committed.pop("tube")
    for kind in ("bremsstrahlung", "lines"):
        assert made[kind] == {voltage: kept[kind][voltage] for voltage in ("70", "120", "300")}
    assert written(again) == written(committed)


@pytest.mark.needs("xraydb")
@pytest.mark.filterwarnings("default")
def test_interpolation_is_within_a_thousandth_of_the_source() -> None:
    import xraydb

    energy = np.geomspace(10.001, 449.9, 1501)
    for name in MATERIALS:
        row = material(name)
        source = sum(
            pct / 100.0 * np.asarray(xraydb.mu_elam(element, energy * 1e3)) for element, pct in row.mass_pct.items()
        )
        error = np.abs(attenuation_per_mm(name, energy) / (source * row.density_g_cm3 / 10.0) - 1.0)
        # An edge is a jump of 1 eV, where any value between is right.
        jump = np.abs(np.diff(np.log(source), prepend=np.log(source[0]))) > 0.05
        beside = jump | np.roll(jump, -1)
        assert jump.sum() == {"lead": 4, "tungsten": 4}.get(name, 0)
        assert error[~beside].max() < 1e-3, name


@pytest.mark.needs("spekpy")
@pytest.mark.filterwarnings("default")
def test_between_voltages_the_spectrum_is_the_libraries() -> None:
    import spekpy

    for tube_kv in (75, 237):
        energy, weight = spectrum(float(tube_kv))
        own_energy, quanta = spekpy.Spek(kvp=tube_kv, th=20, dk=1).get_spectrum()
        seen = own_energy >= 10.5
        own = quanta[seen] * own_energy[seen] * np.exp(-attenuation_per_mm("aluminum", own_energy[seen]))
        assert own_energy[seen] == pytest.approx(energy)
        for name, thickness_mm in (("AlSi7Mg0.3", 40.0), ("steel", 10.0)):
            ours = weight * energy @ np.exp(-attenuation_per_mm(name, energy) * thickness_mm) / (weight @ energy)
            theirs = own @ np.exp(-attenuation_per_mm(name, own_energy[seen]) * thickness_mm) / own.sum()
            assert ours == pytest.approx(theirs, rel=0.0035)

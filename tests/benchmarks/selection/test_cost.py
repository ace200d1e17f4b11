import numpy as np
import pytest

from paredown.benchmarks.selection.cost import Cost, Prices, payback

PRICES = Prices(price_per_hour=3.6, price_per_gb_month=0.5, storage_months=4, lifetime_requests=2e6)


def test_cost_is_serving_plus_storage_plus_the_compression_run() -> None:
    # 1e6 requests at 100/s are 1e4 s = 10 money; 0.1 GB * 0.5 * 4 = 0.2 and 500 s = 0.5, halved per million
    cost = Cost.of(PRICES, 100, 100, 500)
    assert cost.total == pytest.approx(10 + (0.2 + 0.5) / 2)
    assert cost.unhurried == pytest.approx(0.1)
    assert cost.total_at(np.array([1.0, 1.5])) == pytest.approx([cost.total, cost.total + 5])


def test_energy_and_another_machine_for_compression() -> None:
    prices = PRICES.model_copy(update={"price_per_kwh": 0.36, "compression_price_per_hour": 7.2})
    cost = Cost.of(prices, 100, 100, 500, joules=2.0)
    assert cost.energy == pytest.approx(1e6 * 2 / 3.6e6 * 0.36)
    assert cost.compression == pytest.approx(0.5)
    assert cost.unhurried == pytest.approx(0.1 + 0.5 + cost.energy)
    assert Cost.of(prices, 100, 100, 500).energy == 0


def test_traffic_pays_whole_machines() -> None:
    prices = PRICES.model_copy(update={"requests_per_second": 150.0})
    cost = Cost.of(prices, 100, 100, 500)
    assert cost.machines == 2
    assert cost.serving == pytest.approx(1e6 * 3.6 * 2 / (3600 * 150))
    assert Cost.of(prices, 200, 100, 500).machines == 1


def test_payback_is_the_run_over_what_is_saved() -> None:
    prices = PRICES.model_copy(update={"requests_per_second": 10.0})
    free = PRICES
    before, after = Cost.of(free, 100, 100, 0), Cost.of(free, 200, 100, 500)
    assert payback(after, before, free) == (pytest.approx(1e5), None)
    assert payback(after, before, prices)[1] == pytest.approx(1e5 / 864000)
    assert payback(before, after, prices) == (None, None)

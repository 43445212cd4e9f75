"""Networks of many families through the whole line.

`python -m tests.compatibility` does it for all of them.
"""

import pytest
import timm

from compatibility.libraries import installed
from compatibility.line import run_line
from compatibility.networks import QUICK, whole_report

NAMED = {"torchvision": lambda name: True, "timm": timm.is_model}
KNOWN = [name for name in sorted(QUICK) if NAMED[name.partition("/")[0]](name.partition("/")[2])]
"""Those that the timm which is installed has: older ones lack some."""


def test_timm_lacks_a_few_at_most() -> None:
    assert len(KNOWN) >= len(QUICK) - 4


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_a_network_of_each_family(name: str) -> None:
    row = run_line(name, f"3,{QUICK[name]},{QUICK[name]}", num_classes=10)
    assert row.error == ""
    assert row.exact and row.metanetwork and row.trains and row.loads
    assert 2.0 <= row.speed_up < 2.6
    if name.startswith("torchvision"):
        assert row.coverage == 1.0
    assert row.coverage > 0.97  # position embeddings of small transformers


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(installed()))
def test_a_small_network_of_each_library_that_is_there(name: str) -> None:
    row = run_line(name, installed()[name])
    assert row.error == ""
    assert row.exact and row.metanetwork and row.trains and row.loads
    assert row.compared.startswith("outputs") and row.difference < 1e-5
    assert 2.0 <= row.speed_up < 2.6


def test_the_report_has_all_of_torchvision_and_many_families_of_timm() -> None:
    names = whole_report()
    assert sum(name.startswith("torchvision/") for name in names) == 80
    assert sum(name.startswith("timm/") for name in names) >= 100

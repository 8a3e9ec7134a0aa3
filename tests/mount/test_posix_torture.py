"""Short rounds of what `tools/torture` does at length: one file's bytes, and four processes."""

import pytest

from tests.support import stress
from tests.support.data_torture import LARGE, SMALL, DataTorture
from tests.support.differential import FEATURES
from tests.support.volumes import replicas

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module", params=["kernel", "pyfuse3"])
def mounted(request, tmp_path_factory):
    with replicas(tmp_path_factory.mktemp(request.param), "one") as (replica,):
        yield request.param, replica.init().mount(f"driver={request.param}")


@pytest.mark.parametrize(("seed", "limits", "steps"), [(1, SMALL, 200), (2, LARGE, 60)])
def test_bytes_are_those_of_the_model(mounted, seed, limits, steps):
    driver, replica = mounted
    folder = replica.mountpoint / f"data{seed}"
    folder.mkdir()

    def remount():
        replica.umount()
        replica.mount(f"driver={driver}")

    DataTorture(folder, seed, limits, FEATURES[driver], remount).run(steps)
    assert "Traceback" not in (replica.state / "daemon.log").read_text()


def test_four_processes_at_once_lose_nothing(mounted):
    driver, replica = mounted
    base = replica.mountpoint / "stress"
    stress.stress(base, 1, 4)
    before = stress.fingerprint(base)
    replica.umount()
    replica.mount(f"driver={driver}")
    assert stress.fingerprint(base) == before
    assert "Traceback" not in (replica.state / "daemon.log").read_text()

"""A short form of what `tools/torture --mode directory` does with a million entries."""

import pytest

from tests.support.big_directory import BigDirectory
from tests.support.volumes import replicas

pytestmark = [pytest.mark.mount, pytest.mark.slow]

ENTRIES = 3000


@pytest.mark.parametrize("driver", ["kernel", "pyfuse3"])
def test_each_entry_is_listed_once_while_others_come_and_go(tmp_path, driver):
    with replicas(tmp_path, "one") as (replica,):
        replica.init().mount(f"driver={driver}")
        stages = BigDirectory(replica, ENTRIES, f"driver={driver}").run()
        assert {"list, others change it", "seek", "rm -r"} <= {stage.name for stage in stages}
        assert "Traceback" not in (replica.state / "daemon.log").read_text()

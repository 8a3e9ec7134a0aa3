"""Numbers in the text format of Prometheus, collected when somebody asks.

Each source is a function that reads what is there already, so nothing is counted twice and a
replica that nobody watches pays nothing. No label ever holds a name or a path of a file.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Sample:
    """One number; `labels` are pairs of name and value."""

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    counts_up: bool = False


Source = Callable[[], Iterable[Sample]]


@dataclass(slots=True, eq=False)
class Metrics(Collector):
    """All sources of one daemon."""

    sources: list[Source] = field(default_factory=list)

    def add(self, source: Source) -> None:
        self.sources.append(source)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for sample in (sample for source in self.sources for sample in source()):
            names = [name for name, _ in sample.labels]
            family = families.get(sample.name)
            if family is None:
                kind = CounterMetricFamily if sample.counts_up else GaugeMetricFamily
                family = kind(f"piperfs_{sample.name}", sample.help, labels=names)
                families[sample.name] = family
            family.add_metric([value for _, value in sample.labels], sample.value)  # type: ignore[attr-defined]
        yield from families.values()

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode()

"""Numbers of a running stage, and that they change nothing about what is fresh."""

import pytest
from dagster import AssetKey, DagsterInstance, DataVersion, Definitions, MaterializeResult, asset, materialize

from pipelines.live import LiveFacts, live_numbers

MODEL = AssetKey(["models", "clip-s0"])


def message(done, **facts):
    return {"activity": "train", "done": done, "total": 100, "per_second": 3.0, "eta_seconds": 9.0, **facts}


def statuses(defs, instance):
    from dagster._core.definitions.data_version import CachingStaleStatusResolver
    from dagster._core.loader import LoadingContextForTest

    graph = defs.get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {key.path[-1]: resolver.get_status(key).value for key in graph.materializable_asset_keys}


class Project:
    """data -> model -> report, where making the model sends messages at the seconds that ``moments`` names."""

    def __init__(self, instance):
        self.instance = instance
        self.moments = [0.0]
        self.during = []

        @asset(key=["data"], code_version="1")
        def data() -> None: ...

        @asset(key=MODEL, deps=[data], code_version="1")
        def model(context) -> MaterializeResult:
            clock = iter([0.0, *self.moments])
            live = LiveFacts(context, MODEL, clock=lambda: next(clock))
            for moment in self.moments:
                live.take(message(moment / 10, loss=1.0 / (1 + moment)))
            self.during.append((statuses(self.defs, instance), len(self.observed())))
            return MaterializeResult(data_version=DataVersion(str(len(self.during))))

        @asset(key=["report"], deps=[model], code_version="1")
        def report() -> None: ...

        self.assets = [data, model, report]
        self.defs = Definitions(self.assets)

    def observed(self):
        found = self.instance.fetch_observations(MODEL, limit=1000).records
        return [record.event_log_entry.asset_observation.metadata for record in reversed(found)]

    def make(self, selection):
        assert materialize(self.assets, instance=self.instance, selection=selection).success


@pytest.fixture
def project():
    with DagsterInstance.ephemeral() as instance:
        yield Project(instance)


def test_numbers_are_there_while_the_stage_runs_with_at_least_ten_seconds_between_them(project):
    project.moments = [0.0, 3.0, 9.9, 10.0, 15.0, 21.0]
    project.make("*")
    assert project.during[0][1] == 3
    assert [metadata["live/loss"].value for metadata in project.observed()] == [1.0, 1 / 11, 1 / 22]
    assert project.observed()[0]["live/per_second"].value == 3.0


def test_a_run_of_a_week_leaves_at_most_two_hundred_points(project):
    project.moments = [float(moment) for moment in range(0, 7 * 24 * 3600, 60)]
    project.make("*")
    assert 100 < len(project.observed()) <= 200


def test_observations_leave_staleness_alone_before_during_and_after(project):
    assert statuses(project.defs, project.instance) == {"data": "MISSING", "clip-s0": "MISSING", "report": "MISSING"}
    project.make("*")
    assert project.during[0][0] == {"data": "FRESH", "clip-s0": "MISSING", "report": "MISSING"}
    fresh = dict.fromkeys(("data", "clip-s0", "report"), "FRESH")
    assert statuses(project.defs, project.instance) == fresh

    project.moments = [0.0, 20.0]
    project.make('key:"models/clip-s0"')
    assert project.during[1][0] == fresh
    assert statuses(project.defs, project.instance) == {**fresh, "report": "STALE"}


def test_messages_without_progress_or_numbers_are_passed_over():
    assert live_numbers({"done": 5, "total": 10, "unit": "step", "flag": True, "loss": 2}) == {
        "live/percent": 50.0,
        "live/loss": 2.0,
    }
    LiveFacts(None, MODEL).take("text")
    LiveFacts(None, MODEL).take({"stage": "train"})

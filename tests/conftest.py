"""What tests of several folders share."""

import pytest


@pytest.fixture(scope="session")
def local_ray():
    """One Ray for all tests of a session: it takes 10 to 20 s to start. `prepare` uses the one that is there."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def without_ray(monkeypatch):
    """`prepare` makes the shards in this process, one after another."""
    from pipeline.build import build_shard

    monkeypatch.setattr("pipeline.prepare._run", lambda config, job, plans: [build_shard(job, plan) for plan in plans])

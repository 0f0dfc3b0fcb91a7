"""What an operator's Prometheus reads: how requests were answered, and how many jobs wait and who works on them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from handoff.folders import Folders
from handoff.spool import listing

_QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counted per process, read from the volume when asked."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("handoff_http_requests", "Requests by their answer", labels, registry=self._registry)
        self._seconds = Histogram(
            "handoff_http_request_seconds", "Time to the answer; long polls are held on purpose", ("route",),
            buckets=_QUICK, registry=self._registry,
        )  # fmt: skip
        self._unfinished = Gauge("handoff_jobs_unfinished", "Jobs that are not over", registry=self._registry)
        self._watchers = Gauge("handoff_watchers_alive", "Watchers that work on the volume", registry=self._registry)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """By the route's own form, so that ids make no series of their own."""
        route = getattr(scope.get("route"), "path", "-")
        method = scope["method"] if scope["method"] in {"GET", "PUT", "POST", "HEAD"} else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def render(self) -> bytes:
        """Blocks. Raises Unavailable."""
        self._unfinished.set(len(listing.find_unfinished(self._folders)))
        self._watchers.set(sum(seen.alive is not False for seen in listing.list_watchers(self._folders)))
        return generate_latest(self._registry)

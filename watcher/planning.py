"""From a job as submitted to the plan that is journalled: template filled, seeds drawn, pictures copied into `uploads/`."""

import random
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from handoff import messages
from handoff.failures import Failure, Reason
from handoff.graph import Graph, check_graph
from handoff.job import Job, apply_set, open_seeds
from handoff.pictures import Pictures
from handoff.spool.record import OpenModel, Plan
from watcher.capabilities import Capabilities, choices
from watcher.graph import clean_graph, denied
from workflows.catalogue import Catalogue
from workflows.filling import fill

SEEDS_BELOW = 1 << 53  # larger whole numbers are not safe in every JSON reader
PICTURES = 64  # different ones in one job
LIGHT_BYTES, LIGHT_PICTURES = 4 << 20, 4  # what is more than that takes long to decode
_PICTURE_NODES = frozenset({"LoadImage", "LoadImageMask"})


Places = dict[str, list[tuple[str, str]]]
"""The inputs (node id, name) that ask for a picture, by the reference to it."""


class MustFetch(Exception):  # noqa: N818 - no error
    """Pictures have to be fetched, or many decoded, which may take long: plan again where waiting does no harm."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    catalogue: Catalogue
    pictures: Pictures
    language: messages.Language
    allow_graphs: bool
    node_deny: tuple[str, ...]

    def plan(self, job: Job, *, may_fetch: bool) -> Plan:
        """Raises Failure, NotYet (a named picture is missing or growing), MustFetch, Unavailable."""
        if job.graph is not None and not self.allow_graphs:
            raise Failure(Reason.GRAPHS_NOT_ALLOWED)
        if job.workflow is not None:
            template = self.catalogue.get(job.workflow)
            filled = fill(template, job.params, draw_seed=_draw_seed)
            graph, params, sha256 = filled.graph, dict(filled.params), template.sha256
            models = [
                OpenModel(
                    parameter=model.parameter,
                    node=model.place.node,
                    input=model.place.input,
                    class_type=model.class_type,
                    folder=model.folder,
                )
                for model in filled.models
            ]
            wanted: Places = {}
            for picture in filled.pictures:
                wanted.setdefault(picture.reference.strip(), []).append((picture.place.node, picture.place.input))
            self._copy_pictures(graph, wanted, may_fetch=may_fetch, leave_bad=False)
        else:
            check_graph(job.graph)
            assert job.graph is not None
            graph, params, sha256, models = clean_graph(job.graph), {}, None, []  # type: ignore[arg-type]
        graph = self._override(graph, job.overrides)
        if node := denied(graph, self.node_deny):
            raise Failure(Reason.NODE_DENIED, node=node, class_type=node.class_type or "")
        if job.graph is not None:
            # people drop a graph first and its picture after it; and delete the picture when they see the job is taken
            self._copy_pictures(graph, _named_pictures(graph), may_fetch=may_fetch, leave_bad=True)
        return Plan(
            workflow=job.workflow,
            workflow_sha256=sha256,
            params=params,
            graph=graph,
            open_models=models,
            extra_data=job.extra_data,
            queue_timeout_s=job.queue_timeout_s,
            run_timeout_s=job.run_timeout_s,
            metadata=job.metadata,
        )

    def _override(self, graph: Graph, overrides: dict[str, Any]) -> Graph:
        changed: Graph = apply_set(graph, overrides)  # type: ignore[assignment, arg-type]
        for node_id, name in open_seeds(changed):  # type: ignore[arg-type]
            changed[node_id] = {**changed[node_id], "inputs": {**changed[node_id]["inputs"], name: _draw_seed()}}
        check_graph(changed)
        return changed

    def _copy_pictures(self, graph: Graph, wanted: Places, *, may_fetch: bool, leave_bad: bool) -> None:
        """Each once, however many nodes ask for it. All are looked at before any is copied, and copied before any is
        fetched, since planning is done again and again while one of them is missing.

        Bad ones are left as they are where `leave_bad`: ComfyUI reads more formats and folders than we look into.
        """
        if len(wanted) > PICTURES:
            raise Failure(Reason.BAD_GRAPH, problem=f"it names {len(wanted)} pictures; {PICTURES} is the most")
        tolerance = suppress(Failure) if leave_bad else nullcontext()
        weight = 0
        for reference in wanted:
            with tolerance:
                weight += self.pictures.weigh(reference)
        far = [reference for reference in wanted if _is_far(reference)]
        if not may_fetch and (far or weight > LIGHT_BYTES or len(wanted) > LIGHT_PICTURES):
            raise MustFetch
        for reference in sorted(wanted, key=_is_far):
            with tolerance:
                name = self.pictures.resolve(reference).name
                for node, input in wanted[reference]:
                    graph[node]["inputs"][input] = name


def _named_pictures(graph: Graph) -> Places:
    wanted: Places = {}
    for node_id, node in graph.items():
        name = node["inputs"].get("image")
        if node["class_type"] in _PICTURE_NODES and isinstance(name, str) and _is_own_name(name):
            wanted.setdefault(name.removesuffix(" [input]").strip(), []).append((node_id, "image"))
    return wanted


def _is_far(reference: str) -> bool:
    return "://" in reference and reference[:5].lower() != "data:"


def _is_own_name(name: str) -> bool:
    """Whether it names a file of `input/`, and not of another of ComfyUI's folders, nor an address."""
    return "://" not in name and not name.startswith("data:") and not name.endswith((" [output]", " [temp]"))


def settle_models(plan: Plan, capabilities: Capabilities, language: messages.Language) -> Plan:
    """Gives every open model parameter the only model that fits all its places, with a warning.

    Raises Failure(MODEL_NOT_CHOSEN): ComfyUI has none, or several.
    """
    if not plan.open_models:
        return plan
    fitting: dict[str, tuple[str, ...]] = {}
    for model in plan.open_models:
        offered = choices(capabilities, model.class_type, model.input) or ()
        so_far = fitting.get(model.parameter, offered)
        fitting[model.parameter] = tuple(name for name in offered if name in so_far)
    graph = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in plan.graph.items()}
    warnings = list(plan.warnings)
    for model in plan.open_models:
        names = fitting[model.parameter]
        if len(names) != 1:
            found = f"{len(names)} of them: {', '.join(names[:20])}" if names else "none"
            raise Failure(Reason.MODEL_NOT_CHOSEN, parameter=model.parameter, found=found, folder=model.folder)
        graph[model.node]["inputs"][model.input] = names[0]
        warnings.append(messages.warn("model_chosen", language, parameter=model.parameter, model=names[0]))
    chosen = {name: models[0] for name, models in fitting.items()}
    return plan.model_copy(
        update={
            "graph": graph,
            "params": {**plan.params, **chosen},
            "warnings": list(dict.fromkeys(warnings)),
            "open_models": [],
        }
    )


def _draw_seed() -> int:
    return random.randrange(SEEDS_BELOW)

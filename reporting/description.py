"""What `results.json` says of a run before anything is scored."""

from typing import cast

from ..inference.checkpoint import describe_model, fingerprint
from ..inference.prediction import BasePredictor
from .results import RESULTS_SCHEMA, Data, Environment, Model, Results, exports_of


def unscored_results(
    name: str,
    data: Data,
    environment: Environment,
    predictor: BasePredictor | None = None,
    known: Results | None = None,
    pushed: Results | None = None,
    repository: str | None = None,
) -> Results:
    """The results of a run without scores.

    Args:
        name: Of the model, or of the folder of masks.
        data, environment: The sections of these names.
        predictor: The model's; None for masks from a folder.
        known: The results beside the model; its training and exports are taken over if they are of the same weights.
        pushed: The results in the repo on the Hub that these will replace; of it the exports are taken over too.
        repository: That repo; None: the one that `known` names.
    """
    results: Results = {
        "schema_version": RESULTS_SCHEMA,
        "model": {"name": name, "repository": None, "fingerprint": None},
        "data": data,
        "environment": environment,
        "training": None,
        "metrics": {},
        "evaluation": None,
    }
    if predictor is None:
        return results
    if len(predictor.members) > 1:
        results["model"] = describe_ensemble(predictor, name)
        return results
    weights = fingerprint(predictor.model)
    if known and known["model"].get("fingerprint") == weights:
        results["training"] = known["training"]
    if exports := exports_of(weights, known, pushed):
        results["exports"] = exports
    repository = repository or (known["model"]["repository"] if known else None)
    model = describe_model(predictor.model, predictor.processor, name, repository)
    results["model"] = cast(Model, {**model, "fingerprint": weights})
    return results


def describe_ensemble(predictor: BasePredictor, name: str) -> Model:
    """The section "model" of an ensemble: its members have an architecture each, which their own results describe."""
    members = [fingerprint(member.model) for member in predictor.members]
    return {
        "name": name,
        "repository": None,
        "fingerprint": predictor.identity,
        "parameters": sum(member.model.num_parameters() for member in predictor.members),
        "image_size": [predictor.processor.size["height"], predictor.processor.size["width"]],
        "members": members,
    }

"""Artifacts of the last run that another command rests on, compared with the params file as it is now."""

from pipeline.artifacts import paths
from pipeline.artifacts.features import FeatureSet
from pipeline.artifacts.manifest import MANIFEST
from pipeline.artifacts.records import read_record
from pipeline.errors import ArtifactError
from pipeline.params.root import Params


def open_activations(params: Params, resting: str) -> FeatureSet:
    """The cached activations.

    Args:
        params: the whole params file.
        resting: what rests on them, such as ``a search``, for the message.

    Raises:
        ArtifactError: there are none, or those of other params.
    """
    if not (paths.ACTIVATIONS / MANIFEST).is_file():
        raise ArtifactError(f"{paths.ACTIVATIONS}: there are no activations yet, which {resting} rests on; run `make repro` first.")
    made = read_record("activations")["params"]
    wanted = params.model_dump(mode="json", include=set(made))
    if differ := sorted(section for section in made if made[section] != wanted[section]):
        raise ArtifactError(
            f"{paths.ACTIVATIONS}: made with other params ({', '.join(differ)}) than params.yaml has now; run `make repro` first."
        )
    return FeatureSet.open(paths.ACTIVATIONS)

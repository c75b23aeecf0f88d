"""Gradient training on Ray Train: resumed at the last finished epoch after a lost worker, or after a lost driver.

Ray is imported inside the functions: it reads its environment (token, telemetry) when it is imported, and a session
prepares that first; and a stage that has nothing to train does not pay for the import.
"""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.classifiers.model import Classifier
from pipeline.classifiers.training import EpochRecord, Progress, TrainingResult, TrainingSet, fit_classifier
from pipeline.distributed.environment import environment
from pipeline.errors import ClassifierError, WhorlError
from pipeline.params.classifier import TrainedClassifier

if TYPE_CHECKING:
    from ray.train.v2.api.callback import UserCallback
    from ray.train.v2.api.result import Result
    from ray.train.v2.torch.torch_trainer import TorchTrainer
    from ray.util.queue import Queue

MAX_FAILURES = 3
POLL = 0.25
"""Seconds between two looks for a finished epoch."""
ENVIRONMENT = {
    # By default Ray Train looks for reports every two seconds, and a worker's second report waits for that.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(POLL),
    # The caller's relative paths must mean on a worker what they mean here.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
TENSORS = ("state", "momentum", "best_state")

Inputs = Callable[[], tuple[TrainingSet, TrainingSet]]


def train_classifier(
    make_inputs: Inputs,
    make_classifier: Callable[[], Classifier],
    params: TrainedClassifier,
    *,
    storage: Path,
    gpu: bool,
    cpus: int,
    on_epoch: Callable[[EpochRecord, int], None],
) -> TrainingResult:
    """Trains on ``params.workers`` Ray Train workers; Ray must be running.

    A killed worker is replaced, up to three times, and goes on after the last finished epoch; so does a second call
    with the same ``storage`` after a killed driver. On CPUs the result equals that of an uninterrupted training.

    Args:
        make_inputs: called on every worker; returns the images to learn from and those of ``tune``.
        make_classifier: called on every worker; returns the same untrained classifier on each (see ``build_untrained``).
        params: the recipe.
        storage: folder for checkpoints, reachable from every node; one a signature of code, params and inputs. A
            finished training found there is returned as it is, one of other params, weights or images is not resumed.
        gpu: one GPU a worker.
        cpus: CPUs that a worker reserves, and threads that it computes with. Another number of threads adds in another
            order, so that the weights differ from the last bits on.
        on_epoch: called here, in the caller's thread, exactly once an epoch and in order, with the record and
            ``params.epochs``.

    Raises:
        ClassifierError: the machine has fewer CPUs or GPUs than the workers need.
        WhorlError: what a worker's input, params or classifier caused, as it was raised there.
        WhorlError: workers failed more often than that.
    """
    from ray.util.queue import Queue

    _check_room(params.workers, cpus, gpu)
    reports = Queue(actor_options={"num_cpus": 0})
    inputs = {"make_inputs": make_inputs, "make_classifier": make_classifier, "params": params, "threads": cpus}
    trainer = _trainer(inputs, params.workers, storage, gpu, cpus, _relay(reports))
    told = 0

    def tell(history: list[EpochRecord]) -> None:
        nonlocal told
        for record in history[told:]:
            on_epoch(record, params.epochs)
        told = max(told, len(history))

    try:
        with environment(ENVIRONMENT):
            outcome = _started(trainer)
            while not outcome.done():
                tell(_next(reports))
        progress = _last(_ended(outcome))
        tell(progress.history)
    finally:
        reports.shutdown(force=True)
    return TrainingResult(progress.best_state, progress.best_epoch, progress.history)


def _check_room(workers: int, cpus: int, gpu: bool) -> None:
    """On a lone machine what is missing will never come, and Ray Train would wait for it; a cluster may still grow."""
    import ray

    list_nodes: Any = ray.nodes  # Ray does not type it
    if len(nodes := [node["Resources"] for node in list_nodes() if node["Alive"]]) != 1:
        return
    for kind, needed in (("CPU", workers * cpus), ("GPU", workers * int(gpu))):
        if needed > (there := int(nodes[0].get(kind, 0))):
            raise ClassifierError(
                f"classifier.workers: {workers} workers need {needed} {kind}s together, where at most the machine's {there} were expected."
            )


def _trainer(inputs: dict[str, Any], workers: int, storage: Path, gpu: bool, cpus: int, callback: "UserCallback") -> "TorchTrainer":
    # ray.train offers the same classes, but types them as those of version 1.
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    resources = {"CPU": cpus, "GPU": 1} if gpu else {"CPU": cpus}
    return TorchTrainer(
        _work,
        train_loop_config=inputs,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage.resolve()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[callback],
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _started(trainer: "TorchTrainer") -> "Future[Result]":
    """Runs the trainer beside the caller's thread.

    In the main thread Ray Train would take over Ctrl-C and exit with status 0 on it.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    return outcome


def _relay(reports: "Queue") -> "UserCallback":
    """Runs in Ray Train's controller and hands what workers report to the driver."""
    from ray.train.v2.api.callback import UserCallback

    put: Any = reports.actor.put_nowait

    class Relay(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            put.remote(metrics[0]["history"])  # not awaited: the controller must not block

    return Relay()


def _next(reports: "Queue") -> list[EpochRecord]:
    from ray.util.queue import Empty

    try:
        return [EpochRecord(**record) for record in reports.get(timeout=POLL)]
    except Empty:
        return []


def _ended(outcome: "Future[Result]") -> "Result":
    from ray.train import TrainingFailedError

    try:
        return outcome.result()
    except TrainingFailedError as error:
        said = str(error).strip().splitlines()
        raise WhorlError(
            f"Training: its workers failed more than {MAX_FAILURES} times ({said[0] if said else 'no reason was given'}), where they "
            "were expected to finish; the finished epochs are kept, and the same command goes on from there."
        ) from error


def _last(result: "Result") -> Progress:
    if isinstance(result.return_value, WhorlError):
        raise result.return_value
    assert result.checkpoint is not None  # a worker that returns has reported at least one epoch
    with result.checkpoint.as_directory() as folder:
        progress, _ = read_progress(Path(folder))
    return progress


def _work(config: dict[str, Any]) -> WhorlError | None:
    """What a worker does. A sentence for the user is returned, not raised: raised, it would be tried three times more."""
    try:
        _fit(**config)
    except WhorlError as error:
        return error
    return None


def _fit(make_inputs: Inputs, make_classifier: Callable[[], Classifier], params: TrainedClassifier, threads: int) -> None:
    import ray.train
    from ray.train.torch import get_device

    torch.set_num_threads(threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    train, tune = make_inputs()
    classifier = make_classifier()
    identity = training_identity(classifier, train, tune, params)

    def report(progress: Progress) -> None:
        metrics = {"history": [asdict(record) for record in progress.history]}
        if rank != 0:
            ray.train.report(metrics)
            return
        with TemporaryDirectory() as folder:
            write_progress(Path(folder), progress, identity)
            # A name of its own, so that an epoch done again writes over what a dying worker left of it.
            name = f"{identity}-{len(progress.history):05d}"
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model) if world > 1 else model

    fit_classifier(classifier, train, tune, params, get_device(), rank, world, report, wrap, _resumed(identity))


def _resumed(identity: str) -> Progress | None:
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        progress, of = read_progress(Path(folder))
    return progress if of == identity else None


def training_identity(classifier: Classifier, train: TrainingSet, tune: TrainingSet, params: TrainedClassifier) -> str:
    """A hash of all that a training's result depends on, the code excepted: only a training of the same is resumed."""
    digest = blake2b(json.dumps([params.model_dump(mode="json"), torch.__version__], sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for array in (train.images, train.labels, tune.images, tune.labels):
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_progress(folder: Path, progress: Progress, identity: str) -> None:
    """Writes a checkpoint: a safetensors file for each set of tensors, and ``progress.json`` for the rest."""
    for name in TENSORS:
        tensors: dict[str, Tensor] = getattr(progress, name)
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    record = {"of": identity, "best_epoch": progress.best_epoch, "history": [asdict(record) for record in progress.history]}
    (folder / "progress.json").write_text(json.dumps(record, sort_keys=True, indent=1))


def read_progress(folder: Path) -> tuple[Progress, str]:
    """Reads what ``write_progress`` wrote: the progress, and the identity of the training that it belongs to."""
    record = json.loads((folder / "progress.json").read_text())
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in TENSORS}
    history = [EpochRecord(**epoch) for epoch in record["history"]]
    return Progress(best_epoch=record["best_epoch"], history=history, **tensors), record["of"]

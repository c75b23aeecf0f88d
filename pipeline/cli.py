"""The command ``whorl``. Nothing heavy is imported before a command needs it."""

import logging
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ParamsError, WhorlError

SAYS = "Guards an image classifier against adversarial attacks, at a false-alarm rate that it can promise."
app = typer.Typer(name="whorl", help=SAYS, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
tune = typer.Typer(
    help="Searches for better params, on the tune split alone; proposes, and changes nothing by itself.", no_args_is_help=True
)
app.add_typer(tune, name="tune")
key = typer.Typer(
    help="The secret key of keyed draws (the same image meets the same draw; one changed pixel buys a new one); it is shown by no command.",
    no_args_is_help=True,
)
app.add_typer(key, name="key")
guards = typer.Typer(help="Guards of one's own, outside of DVC and MLflow.", no_args_is_help=True)
app.add_typer(guards, name="guard")


def main() -> None:
    """Runs the command; what a user's input caused is one sentence and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # `python -m stages` has it too: a factory of the user's own may lie in the folder that the command runs in.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except WhorlError as error:
        print(f"whorl: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages, such as evaluate or attack@fgsm; all of them by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run stages even where nothing changed.")] = False,
) -> None:
    """Checks params.yaml, then runs `dvc repro` on one local Ray head, started if there is none and stopped after."""
    from pipeline.repro import run_repro

    raise typer.Exit(run_repro(targets or [], force=force))


@app.command()
def check() -> None:
    """Checks params.yaml: keys, types, files, the classifier and its layers, and what a run would leave out; computes nothing."""
    from pipeline.checks import check as check_params
    from pipeline.params.root import load_params

    if left_out := check_params(load_params()):
        print("\n".join(left_out))
    print("params.yaml: nothing that would stop a run was found." if left_out else "params.yaml: nothing wrong was found.")


@app.command()
def preset(name: Annotated[str | None, typer.Argument(help="Which one; without a name, lists them.")] = None) -> None:
    """Replaces params.yaml by a preset; what was changed in the old one is kept beside it."""
    from pipeline.params.edits import PRESETS, keep_old, presets

    names = [path.stem for path in presets()]
    if name is None:
        print("\n".join(names))
        return
    if name not in names:
        raise ParamsError(f"{PRESETS}: there is no preset {name!r}, where one of {', '.join(names)} was expected.")
    if kept := keep_old():
        print(f"The old params.yaml is kept as {kept}.")
    shutil.copyfile(PRESETS / f"{name}.yaml", "params.yaml")
    print(f"params.yaml is now the preset {name}; `make repro` rebuilds what that changes.")


@app.command()
def detect(
    paths: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    guard: Annotated[Path, typer.Option(help="The guard's folder.")] = Path("artifacts/guard"),
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object an image, a line each.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 128,
) -> None:
    """Says of images whether they are under attack. Exit status: 0 all clean, 1 some flagged, 2 an error."""
    try:
        from pipeline.detect import detect_files

        status = detect_files(paths, guard, as_json=as_json, batch_size=batch_size)
    except WhorlError:
        raise
    except KeyboardInterrupt:
        status = 130
    except Exception:  # Python's (and Typer's) own status for it would be 1: some flagged
        traceback.print_exc()
        status = 2
    raise typer.Exit(status)


Study = Annotated[str, typer.Option("--study", help="Its name: the folder under artifacts/tune.")]


@tune.command("fingerprints")
def tune_fingerprints(study: Study = "fingerprints") -> None:
    """Tunes the committee detector by Ray Tune, as the section `tune` says; one that was interrupted goes on."""
    from pipeline.tune.command import tune_fingerprints

    tune_fingerprints(study)


@tune.command("apply")
def tune_apply(
    trial: Annotated[int | None, typer.Option(help="Which trial; by default the proposed one.")] = None, study: Study = "fingerprints"
) -> None:
    """Writes a trial's params into params.yaml; comments stay, and what was changed in the old file is kept beside it."""
    from pipeline.tune.command import apply

    apply(study, trial)


@key.command()
def rotate() -> None:
    """Replaces the draw key in its file by a new one: every image meets another draw; bank and calibration stay as they are."""
    from pipeline.keys import rotate_draw_key

    print(
        f"{rotate_draw_key()}: there is a new draw key; a guard that is loaded keeps the old one until it is loaded again. "
        "One changed pixel buys a new draw under any key."
    )


@guards.command("build")
def guard_build(
    bank_key: Annotated[Path, typer.Option("--bank-key", help="The file of the bank's own key; made, with mode 0600, on first use.")],
    out: Annotated[Path, typer.Option("--out", help="The guard's folder; one that is there is replaced.")] = Path("guard-private"),
) -> None:
    """Selects and calibrates a secret bank from the cached activations; the folder holds it, and is as secret as the key."""
    from pipeline.private import build_guard

    build_guard(bank_key, out)


@app.command()
def results(
    folder: Annotated[Path, typer.Argument(help="Where to, such as docs/results/NAME; made where it is missing.")],
    study: Annotated[str | None, typer.Option("--study", help="The search to tell, under artifacts/tune; by default the newest.")] = None,
    about: Annotated[
        str, typer.Option("--about", help="What the first page says before anything else, such as which images these are.")
    ] = "",
) -> None:
    """Writes the run's results as Markdown tables and PNG figures that can be committed; what it wrote before is overwritten."""
    from pipeline.results.command import write_results

    written = write_results(folder, study, about)
    print(f"{folder}: {len(written)} files were written; begin with {written[0]}.")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Where the UI listens, on this machine alone.")] = 5000) -> None:
    """Opens the MLflow UI on the runs recorded here."""
    from pipeline.tracking import tracking_uri

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri(), "--host", "127.0.0.1", "--port", str(port)]
    raise typer.Exit(subprocess.call(command))


if __name__ == "__main__":
    main()

"""The `jaxrnn` command."""

from pathlib import Path
from pickle import UnpicklingError

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxrnn import checkpoint_files
from jaxrnn.bad_input import BadInput
from jaxrnn.doctor.command import command as doctor
from jaxrnn.plan.command import command as plan
from jaxrnn.port.command import command as port


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Recurrent networks of PyTorch in JAX."""


@main.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--key", help="The entry of a training checkpoint that is the state dict, such as model_state.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def convert(source: Path, target: Path, key: str | None, overwrite: bool) -> None:
    """Convert the weights in IN to the file OUT and list them.

    Each suffix names its format: .safetensors, .npz, .pt or .pth. Names, shapes, dtypes and bits stay as
    they are. No code in IN is run.
    """
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists; pass --overwrite to replace it.")
    try:
        arrays = checkpoint_files.read(source, key)
        checkpoint_files.write(arrays, target)
    except (OSError, TypeError, ValueError, UnpicklingError) as error:
        raise BadInput(" ".join(str(error).split())) from error
    console = Console()
    console.print(_table(arrays))
    console.print(Text(f"{len(arrays)} arrays from {source} to {target}"))


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Time the layers beside torch and JAX's other recurrent networks."""
    try:
        from benchmarks.cli import bench as command
    except ModuleNotFoundError as error:
        if error.name != "benchmarks":
            raise
        raise BadInput("the benchmarks are not installed: pip install -e . in the repository.") from error
    command.main(list(arguments), prog_name="jaxrnn bench")


main.add_command(doctor, "doctor")
main.add_command(plan, "plan")
main.add_command(port, "port")


def _table(arrays: dict[str, np.ndarray]) -> Table:
    table = Table("name", "shape", "dtype")
    for name, array in arrays.items():
        # As text, since a name comes from the file: neither markup nor control characters reach the terminal.
        shown = name if name.isprintable() else repr(name)
        table.add_row(Text(shown, overflow="fold"), str(array.shape), array.dtype.name)
    return table

"""The `jaxrnn` command."""

from pathlib import Path
from pickle import UnpicklingError

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxrnn.bad_input import BadInput, refusal
from jaxrnn.doctor.command import command as doctor
from jaxrnn.formats import conversion
from jaxrnn.plan.command import command as plan
from jaxrnn.port.command import command as port


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Recurrent networks of PyTorch in JAX."""


@main.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--key", help="The entry of a training checkpoint that is the state dict: model_state, or ema.model."
)
@click.option(
    "--layer", "layers", multiple=True, help="A layer to convert, in place of all. Repeat it for more."
)
@click.option(
    "--strip-prefix", "prefix", default="", help="What to remove from the start of every name: module."
)
@click.option(
    "--assume",
    "assumed",
    multiple=True,
    metavar="KEY=VALUE",
    help="What IN does not say about its layers. The error that asks for it lists what is needed.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def convert(
    source: Path,
    target: Path,
    key: str | None,
    layers: tuple[str, ...],
    prefix: str,
    assumed: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Convert the weights in IN to the file OUT and list them.

    Each suffix names its format. IN and OUT: .safetensors, .npz, .pt or .pth, between which names, shapes, dtypes
    and bits stay as they are. IN only: .h5, .hdf5 and .keras of Keras, and the recurrent nodes of an .onnx model;
    they get torch's names and layout. OUT only: an .onnx model of one recurrent layer. No code in IN is run.
    """
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists; pass --overwrite to replace it.")
    try:
        weights, assumptions = conversion.read(source, key, layers, conversion.parsed(assumed))
        weights = conversion.strip(weights, prefix)
        conversion.write(weights, target, assumptions)
    except (
        OSError,
        TypeError,
        ValueError,
        NotImplementedError,
        ModuleNotFoundError,
        UnpicklingError,
    ) as error:
        raise refusal(error) from error
    console = Console()
    console.print(_table(weights.arrays))
    for name, description in weights.layers.items():
        console.print(Text(f"{_printable(name)}: {description}"))
    for name in weights.left_out:
        console.print(Text(f"not converted: {_printable(name)}"))
    if wrapper := conversion.wrapper(weights.arrays):
        console.print(Text(f"every name starts with {wrapper!r}; --strip-prefix {wrapper} removes it"))
    console.print(Text(f"{len(weights.arrays)} arrays from {source} to {target}"))


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
        table.add_row(Text(_printable(name), overflow="fold"), str(array.shape), array.dtype.name)
    return table


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)

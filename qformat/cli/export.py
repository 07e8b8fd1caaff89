"""`qformat export`: a plain Hugging Face directory from a file."""

from __future__ import annotations

import click


@click.command("export", short_help="Write a plain Hugging Face directory back.")
@click.argument("file")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--dtype", type=click.Choice(("bfloat16", "float16", "float32")), default="bfloat16", show_default=True)
@click.option("--shard-size", default="5GiB", show_default=True, help="Cut the weights into files of about this size.")
@click.option("--overwrite", is_flag=True, help="Write into a directory that is not empty.")
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(file: str, directory: str, dtype: str, shard_size: str, overwrite: bool, json_: bool, quiet: bool) -> int:
    """Decode every tensor of FILE into DIRECTORY: safetensors, configuration and tokenizer, for any runtime."""
    import qformat
    from qformat.converters.export import export, exported_bytes
    from qformat.report import as_json, numbers
    from qformat.report.progress import Progress
    from qformat.report.terminal import Printer

    with qformat.open(file) as model:
        total = exported_bytes(model, dtype)
    with Progress(total, "export", quiet=quiet or json_) as line:
        done = export(file, directory, dtype=dtype, shard_size=shard_size, overwrite=overwrite, progress=line.update)
    if json_:
        click.echo(as_json.dumps({"directory": directory, "files": list(done.files), "nbytes": done.nbytes}))
    elif not quiet:
        files = numbers.plural(len(done.files), "file")
        Printer().ok(f"{directory}: {numbers.size(done.nbytes)} in {files}")
    return 0

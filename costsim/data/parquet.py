"""Where Parquet files lie."""

from pathlib import Path


def parquet_files(path: Path) -> list[Path]:
    """The file itself; of a folder those in it, or in `data` within it, as the hub has them."""
    if not path.is_dir():
        return [path] if path.suffix == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))

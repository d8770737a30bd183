"""Make the Fashion-MNIST subset that xhat carries: ``python scripts/build_fashion_mnist.py FOLDER``.

FOLDER holds the four gzipped idx files; Debian's package ``dataset-fashion-mnist`` puts them into
``/usr/share/datasets/fashion-mnist``. The images are shuffled once with a fixed seed, the first of each
class are kept in that order, and the file comes out the same, byte for byte, in each run with the same
zlib. The hash it prints belongs into ``xhat.data.fashion_mnist.SHA256``.

The idx layout is described at http://yann.lecun.com/exdb/mnist/.
"""

import argparse
import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).parents[1] / "src/xhat/data/files/fashion-mnist-subset.npz"
CLASSES = 10
SIZES = {"train": 10_000, "test": 2_000}
SEED = 20171
PREFIXES = {"train": "train", "test": "t10k"}  # what the sources call the two parts
# sha256 of the unpacked files: the same data packed by another gzip are accepted too.
SOURCES = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of a gzipped idx file in their shape: (N, 28, 28) images or (N,) labels."""
    raw = gzip.decompress(path.read_bytes())
    found = hashlib.sha256(raw).hexdigest()
    if found != SOURCES[path.name]:
        sys.exit(f"{path}: the unpacked file has sha256 {found}, expected {SOURCES[path.name]}")
    dimensions = raw[3]
    start = 4 + 4 * dimensions
    shape = np.frombuffer(raw[4:start], dtype=">u4")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def choose(labels: NDArray[np.uint8], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the places of ``count`` samples, the same number of each class, in shuffled order."""
    order = generator.permutation(len(labels))
    shuffled = labels[order]
    kept = np.concatenate([np.flatnonzero(shuffled == c)[: count // CLASSES] for c in range(CLASSES)])
    chosen: NDArray[np.int64] = order[np.sort(kept)]
    return chosen


def write_npz(path: Path, arrays: dict[str, NDArray[np.uint8]]) -> None:
    """Write arrays as numpy's npz with fixed times, so that equal data make equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # else the byte differs between Windows and Unix
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def main() -> None:
    """Build the file and print its size and hash."""
    parser = argparse.ArgumentParser(description="Make the Fashion-MNIST subset that xhat carries.")
    parser.add_argument("folder", type=Path, help="folder with the four gzipped idx files")
    parser.add_argument("--out", type=Path, default=TARGET, help="file to write")
    options = parser.parse_args()
    generator = np.random.default_rng(SEED)
    arrays = {}
    for part, prefix in PREFIXES.items():
        labels = read_idx(options.folder / f"{prefix}-labels-idx1-ubyte.gz")
        chosen = choose(labels, SIZES[part], generator)
        arrays[f"{part}_x"] = read_idx(options.folder / f"{prefix}-images-idx3-ubyte.gz")[chosen]
        arrays[f"{part}_y"] = labels[chosen]
    write_npz(options.out, arrays)
    raw = options.out.read_bytes()
    print(f"{options.out}: {len(raw):,} bytes, sha256 {hashlib.sha256(raw).hexdigest()}")


if __name__ == "__main__":
    main()

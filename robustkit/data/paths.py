"""Data given as a path: which kind of file or folder it is."""

from pathlib import Path

from robustkit.data.arrays import load_array_file
from robustkit.data.folder import load_folder
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.reading import reading
from robustkit.data.saved import MANIFEST, load_saved
from robustkit.errors import BadInput, MissingFile


def load_path(request: Request) -> LabelledImages:
    """Labelled images from a file of arrays, a saved directory or a folder of classes.

    Raises:
        MissingFile: There is nothing at this path.
        BadInput: It is none of the kinds known.
    """
    path = Path(request.spec).expanduser()
    with reading(path, "images"):
        if not path.exists():
            raise MissingFile(
                f"There is no file or folder {path}. Give a folder DIR/CLASS/*, an .npz or "
                ".safetensors file, or one of the names in: robustkit list data."
            )
        folder = path.is_dir()
        saved = folder and (path / MANIFEST).exists()
    if saved:
        return load_saved(path, request)
    if folder:
        return load_folder(path, request)
    if path.suffix in (".npz", ".safetensors"):
        return load_array_file(path, request)
    raise BadInput(
        f"{path} is a file of no kind that holds labelled images here. Allowed: .npz, "
        ".safetensors, a folder DIR/CLASS/*, or a directory written by robustkit."
    )

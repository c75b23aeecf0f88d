"""From the params of a source to the source."""

from typing import assert_never

from pipeline.data.sources.base import Source
from pipeline.params.data import DigitsSource, FolderSource, ParquetSource
from pipeline.params.data import Source as SourceParams


def open_source(params: SourceParams) -> Source:
    """Opens the source that the params describe, checking everything that can be known before an image is decoded.

    A source is imported when it is opened: who reads a folder waits for neither pyarrow nor scikit-learn.

    Raises:
        DataError: the source is missing, empty, malformed or has fewer than two classes.
    """
    match params:
        case DigitsSource():
            from pipeline.data.sources.digits import Digits

            return Digits()
        case ParquetSource():
            from pipeline.data.sources.parquet import ParquetImages

            return ParquetImages(params)
        case FolderSource():
            from pipeline.data.sources.folder import ImageFolder

            return ImageFolder(params)
        case _:
            assert_never(params)

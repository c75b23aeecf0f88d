"""Who an image is, which split it belongs to and which shard holds it: all from its pixels alone.

Nothing here depends on the image's name, its place in the source or on the other images, so adding images moves none.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from pipeline.params.splits import SPLITS, Fractions

_ID_BITS = 128


def image_id(pixels: npt.NDArray[np.uint8]) -> str:
    """The image's id: BLAKE2b-128 of its shape and pixels, as 32 hex characters.

    Args:
        pixels: uint8 of shape (C, H, W).

    Raises:
        ValueError: another type or number of dimensions.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(f"pixels are {pixels.dtype} of shape {pixels.shape}, where uint8 of shape (C, H, W) was expected")
    digest = blake2b(np.array(pixels.shape, "<u4").tobytes(), digest_size=_ID_BITS // 8)
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def assign_split(image_id: str, split_seed: int, fractions: Fractions) -> str:
    """The split of an image: its salted hash, uniform in [0, 1), against the cumulative fractions in the order of SPLITS.

    Changing a fraction moves only the images between the old and the new cut; a split of fraction 0 gets none.

    Args:
        image_id: the image's id.
        split_seed: the salt; each value redraws all splits.
        fractions: the shares of the image's origin.
    """
    digest = blake2b(f"split/{split_seed}/{image_id}".encode(), digest_size=8).digest()
    place = (int.from_bytes(digest, "little") >> 11) * 2.0**-53
    total, last = 0.0, SPLITS[0]
    for split in SPLITS:
        share = getattr(fractions, split)
        total += share
        last = split if share > 0 else last
        if place < total:
            return split
    return last  # the shares add up to 1 but for rounding


def shard_count(images: int, shard_size: int) -> int:
    """How many shards: the least power of two with at most ``shard_size`` images a shard on average; at least 1.

    Raises:
        ValueError: a negative number of images, or a shard size below 1.
    """
    if images < 0 or shard_size < 1:
        raise ValueError(f"{images} images in shards of {shard_size}, where at least 0 and 1 were expected")
    return 1 << (-(-images // shard_size) - 1).bit_length() if images else 1


def shard_of(image_id: str, shards: int) -> int:
    """The shard of an image, in [0, shards): the leading bits of its id.

    When the number of shards doubles, shard s becomes shards 2s and 2s + 1; otherwise no image ever moves.

    Raises:
        ValueError: the number of shards is no power of two, or the id is not 32 hex characters.
    """
    if shards < 1 or shards & (shards - 1):
        raise ValueError(f"{shards} shards, where a power of two was expected")
    if len(image_id) * 4 != _ID_BITS:
        raise ValueError(f"the id is {image_id!r}, where 32 hex characters were expected")
    return int(image_id, 16) >> (_ID_BITS + 1 - shards.bit_length())

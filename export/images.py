"""What the rooms above need of images; Pillow comes with the extra `images`."""

from paredown.runtime.images import TooLarge, bytes_of, uri

__all__ = ["TooLarge", "bytes_of", "uri"]

"""Runs a bundle on a device: numpy, tokenizers (or Pillow) and one runtime. Bundles carry a copy, paredown_bundle."""

"""What runs a bundle on a device: numpy, tokenizers (or Pillow) and one runtime. Copied into bundles as paredown_bundle."""

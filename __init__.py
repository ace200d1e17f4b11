"""paredown: fine-tuned checkpoints pruned, distilled, quantised, measured, selected and packed."""

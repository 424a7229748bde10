"""The AMMA model: packed tokens, masks, attention, decoders, standardisation and the loss; no files, no loop."""

"""The AMMA model: packed tokens, masks, attention, decoders, standardisation and the loss; no loop.

Only `pretrained` knows of files.
"""

"""From a pretrained model to scores: readouts, heads, protocols. All choices are made on the validation split."""

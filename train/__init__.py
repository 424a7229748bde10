"""The AMMA model, its masking and objectives, and the loop that pretrains it from feature stores."""

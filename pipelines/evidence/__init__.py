"""Is a version better than another one to train on? Both trained with the same budget over seeds, graded on the same prompts."""

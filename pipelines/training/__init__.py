"""Training on a hand-off: the contract with any trainer, the built-in DPO job, and the evaluation before and after."""
